// Try it: the playback request as a form, and as lines to paste into a program.

import {acting, card, h, said} from "../dom.js";
import {CODES} from "../format.js";
import {postFile} from "../api.js";

// Name, what it takes, what stands there at first, whether it has a line to itself.
const FIELDS = [["api_key", "", "ck_...", true], ["country_code", "1 is North America", "1"],
  ["phone_number", "ten digits", "2125550100"], ["mp3", "http or https, three minutes at most", "https://example.com/hello.mp3", true],
  ["callback_url", "may be left out: who is told the outcome", "", true], ["secret", "may be left out: handed back", ""],
  ["caller_id", "may be left out", ""], ["cache", "may be left out: True or False", ""]];
const REQUIRED = ["api_key", "country_code", "phone_number", "mp3"];

export function show(main, {facts}) {
  const form = h("form", {className: "fields stacked"}, FIELDS.map(([name, hint, value, whole]) =>
    h("label", {className: whole ? "whole" : ""}, h("b", {}, name), " ", hint,
      h("input", {name, value, autocomplete: "off", spellcheck: false}))));
  const lines = h("div", {className: "lines"});
  const place = said();
  const answer = h("div");
  const send = acting(h("button", {className: "main"}, "Make this call"), place, async () => {
    const told = await postFile(`/try?${query(form)}`);
    answer.replaceChildren(h("p", {}, h("span", {className: "code"}, String(told.code)), "  ", told.words || CODES[told.code]),
      told.call_id ? h("p", {}, h("a", {href: `/calls/${told.call_id}`}, "See the call")) : "");
  });
  const note = facts.simulator ? "The built-in carrier takes it: nobody's phone rings." : "This calls a real phone.";
  const draw = () => lines.replaceChildren(...languages(facts.api[0], query(form)).flatMap(([name, text]) =>
    [h("div", {className: "row end"}, h("h2", {}, name), copy(text)), h("pre", {tabIndex: 0}, text)]));
  form.addEventListener("input", draw);
  form.addEventListener("submit", (event) => event.preventDefault());
  main.append(h("h1", {}, "Try it"), h("div", {className: "grid two"},
    card("The request", form, h("p"), h("div", {className: "row"}, send, h("span", {className: "soft small"}, note)), place, answer),
    card("", lines)));
  draw();
}

function query(form) {
  const given = [...new FormData(form)].filter(([name, value]) => value || REQUIRED.includes(name));
  return new URLSearchParams(given).toString();
}

function copy(text) {
  const button = h("button", {className: "plain small"}, "Copy");
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  });
  return button;
}

function languages(api, asked) {
  const url = `${api}/api/playback/?${asked}`;
  const given = [...new URLSearchParams(asked)];
  const quoted = (value) => JSON.stringify(value);
  return [
    ["curl", `curl '${url.replaceAll("'", "%27")}'`],
    ["PHP", `<?php echo file_get_contents("${api}/api/playback/?" . http_build_query([\n${given.map(([name, value]) =>
      `    '${name}' => '${value.replaceAll("\\", "\\\\").replaceAll("'", "\\'")}',`).join("\n")}\n]));  // 0: accepted`],
    ["Python", `from urllib.parse import urlencode\nfrom urllib.request import urlopen\n\nprint(urlopen("${api}/api/playback/?" + urlencode({\n${
      given.map(([name, value]) => `    ${quoted(name)}: ${quoted(value)},`).join("\n")}\n})).read().decode())  # 0: accepted`],
    ["JavaScript", `const asked = new URLSearchParams({\n${given.map(([name, value]) =>
      `  ${name}: ${quoted(value)},`).join("\n")}\n});\nconst code = await (await fetch("${api}/api/playback/?" + asked)).text();  // 0: accepted`],
  ];
}
