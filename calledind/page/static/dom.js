// Elements without a framework: h("a", {href: "/"}, "text", child) and what is always needed around it.

export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && !name.includes("-")) element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

export function card(title, ...children) {
  return h("section", {className: "card"}, title ? h("h2", {}, title) : null, ...children);
}

// facts([["Trunk", "carrier"], ...]): a list of names and values; what is empty is left out.
export function facts(pairs) {
  return h("dl", {className: "facts"}, pairs.filter(([, value]) => value !== null && value !== undefined && value !== "")
    .flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}

export function table(heads, rows, caption) {
  return h("div", {className: "scroll", tabIndex: 0, role: "region", "aria-label": caption},
    h("table", {}, h("thead", {}, h("tr", {}, heads.map((head) => head.startsWith("#")
      ? h("th", {className: "number", scope: "col"}, head.slice(1)) : h("th", {scope: "col"}, head)))),
    h("tbody", {}, rows)));
}

// An element whose text is changed only where it differs, so that nothing is laid out for nothing.
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// Where a view says what became of a click; screen readers say it, too.
export function said() {
  return h("p", {className: "said small", role: "status"});
}

// Run what a button does, once at a time, and tell what went wrong beside it.
export function acting(button, place, act) {
  button.addEventListener("click", async (event) => {
    event.preventDefault();
    button.disabled = true;
    place.className = "said small";
    try {
      place.textContent = (await act()) || "";
    } catch (error) {
      place.className = "said small wrong";
      place.textContent = error.message;
    } finally {
      button.disabled = false;
    }
  });
  return button;
}
