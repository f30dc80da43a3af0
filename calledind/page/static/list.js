// A list of any length, of which only the rows that are seen are in the document, and those are used again.

import {h} from "./dom.js";

const ROW = 34; // pixels, as in the style

export class List {
  #rows = [];
  #drawn = new Map(); // place -> element
  #make;
  #fill;

  // make() gives an element, fill(element, row) puts a row into it.
  constructor(label, make, fill) {
    this.#make = make;
    this.#fill = fill;
    this.space = h("div", {className: "list-space", role: "list", "aria-label": label});
    this.element = h("div", {className: "list", tabIndex: 0, role: "region", "aria-label": `${label}, scrollable`},
      this.space);
    this.element.addEventListener("scroll", () => this.#draw(), {passive: true});
    new ResizeObserver(() => this.#draw()).observe(this.element);
  }

  show(rows) {
    this.#rows = rows;
    this.space.style.height = `${Math.max(rows.length, 1) * ROW}px`;
    this.#draw();
  }

  #draw() {
    const first = Math.max(0, Math.floor(this.element.scrollTop / ROW) - 3);
    const last = Math.min(this.#rows.length, first + Math.ceil(this.element.clientHeight / ROW) + 6);
    for (const [place, element] of this.#drawn) {
      if (place < first || place >= last) {
        element.remove();
        this.#drawn.delete(place);
      }
    }
    for (let place = first; place < last; place += 1) {
      let element = this.#drawn.get(place);
      if (!element) {
        element = this.#make();
        element.setAttribute("role", "listitem");
        element.classList.add("list-row");
        element.style.top = `${place * ROW}px`;
        this.#drawn.set(place, element);
        this.space.append(element);
      }
      this.#fill(element, this.#rows[place]);
    }
  }
}
