// Calls: found by id, key, last digits, outcome and time, the newest first.

import {get} from "../api.js";
import {acting, card, h, said, table} from "../dom.js";
import {date, number, standing} from "../format.js";

const OUTCOMES = [["", "any"], ["answered=1", "answered"], ["answered=0", "not answered"], ["reason=5", "busy"],
  ["reason=3", "ring timeout"], ["reason=8", "congestion"], ["reason=1", "hung up"], ["reason=0", "failed"],
  ["state=accepted", "waits"], ["state=dialing", "is dialled"], ["state=answered", "is up"]];
const HOURS = [["", "any time"], ["1", "the last hour"], ["24", "the last day"], ["168", "the last week"]];

export async function show(main, {go}) {
  const form = h("form", {className: "fields", role: "search"},
    h("label", {}, "Id", h("input", {name: "id", className: "mono", autocomplete: "off"})),
    h("label", {}, "Last digits", h("input", {name: "last_digits", inputMode: "numeric", pattern: "[0-9]*"})),
    h("label", {}, "Key", h("select", {name: "key_id"}, h("option", {value: ""}, "any"))),
    h("label", {}, "Outcome", choose("outcome", OUTCOMES)),
    h("label", {}, "Time", choose("hours", HOURS)),
    h("button", {className: "main"}, "Search"));
  const place = said();
  const found = h("div");
  const more = h("button", {hidden: true}, "Older ones");
  main.append(h("h1", {}, "Calls"), card("", form), card("", found, place, more));
  let before = "";

  async function search(next) {
    const wanted = Object.fromEntries(new FormData(form));
    if (wanted.id.trim()) {
      go(`/calls/${encodeURIComponent(wanted.id.trim())}`);
      return "";
    }
    const query = new URLSearchParams({most: 50});
    for (const name of ["last_digits", "key_id"]) if (wanted[name]) query.set(name, wanted[name]);
    if (wanted.outcome) query.set(...wanted.outcome.split("="));
    if (wanted.hours) query.set("since", Math.floor(Date.now() / 1000 - wanted.hours * 3600));
    if (next) query.set("before", next);
    const told = await get(`/admin/calls?${query}`);
    const rows = told.calls.map(rowOf);
    if (next) found.querySelector("tbody").append(...rows);
    else if (rows.length) found.replaceChildren(table(["Accepted", "Number", "Outcome", "Trunk", "Key", "Call"], rows, "Calls"));
    else found.replaceChildren(h("p", {className: "soft"}, "No call is like that."));
    before = told.before || "";
    more.hidden = !before;
    return "";
  }

  const button = form.querySelector("button");
  acting(button, place, () => search(""));
  acting(more, place, () => search(before));
  form.addEventListener("submit", (event) => event.preventDefault());
  const {keys} = await get("/admin/keys");
  form.elements.key_id.append(...keys.map((key) => h("option", {value: key.id}, key.name)));
  button.click();
}

function choose(name, options) {
  return h("select", {name}, options.map(([value, words]) => h("option", {value}, words)));
}

function rowOf(call) {
  const [words, colour] = standing(call);
  return h("tr", {}, h("td", {}, date(call.accepted_at)),
    h("td", {}, h("a", {href: `/calls/${call.id}`}, number(call.country_code, call.phone_number))),
    h("td", {className: colour}, words), h("td", {}, call.outcome?.trunk || call.attempt?.trunk || ""),
    h("td", {className: "mono"}, call.key_id), h("td", {className: "mono"}, call.id.slice(0, 8)));
}
