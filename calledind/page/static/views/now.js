// Now: what happens, as it happens.

import {chart} from "../chart.js";
import {card, h, setText} from "../dom.js";
import {count, number, outcome, time} from "../format.js";
import {List} from "../list.js";
import {live} from "../live.js";

const SECONDS = 300;
const STEP = 3; // seconds that one point of the chart sums up

export function show(main) {
  const tiles = new Tiles(["Live calls", "In the queue", "Accepted, last minute", "Answered, last minute",
    "Packets late"]);
  const accepted = chart("Calls accepted a second, the last five minutes", [["accepted / s", "--call"]]);
  const outcomes = chart("Outcomes a second, the last five minutes",
    [["answered / s", "--good"], ["busy / s", "--warn"], ["other / s", "--bad"]]);
  const trunks = h("div");
  const list = new List("Calls", makeRow, fillRow);
  const total = h("span", {className: "soft small"});
  main.append(h("h1", {}, "Now"), tiles.element,
    h("div", {className: "grid two"}, card("Calls a second", accepted.element), card("Outcomes", outcomes.element)),
    h("div", {className: "gap"}), card("Trunks", trunks),
    card("Calls", total, h("div", {className: "list-head", "aria-hidden": "true"}, h("span", {}, "Changed"),
      h("span", {}, "Number"), h("span", {}, "State"), h("span", {className: "wide"}, "Trunk"),
      h("span", {className: "wide"}, "Call")), list.element));

  const end = live.subscribe(({figures, counts, calls, now}) => {
    if (!figures) return;
    const minute = sum(counts, now, 60);
    tiles.show([count(figures.live), count(figures.queued), count(minute[0]),
      minute[0] ? `${count(minute[1])}` : "0", lateness(figures)]);
    drawCharts(counts, now, accepted, outcomes);
    showTrunks(trunks, figures.trunks);
    const rows = [...calls.values()].reverse();
    setText(total, rows.length ? `The ${rows.length} that changed last; ${count(figures.live)} are up.`
      : "None since this daemon has started.");
    list.show(rows);
  });
  return () => {
    end();
    accepted.stop();
    outcomes.stop();
  };
}

class Tiles {
  constructor(names) {
    this.values = names.map(() => h("dd", {}, "–"));
    this.element = h("dl", {className: "tiles"},
      names.map((name, place) => h("div", {className: "tile"}, h("dt", {}, name), this.values[place])));
  }

  show(texts) {
    texts.forEach((text, place) => setText(this.values[place], text));
  }
}

// The latest slice is how much later than planned packets left, in seconds.
function lateness({media}) {
  return media?.latest_slice === undefined ? "–" : `${(media.latest_slice * 1000).toFixed(1)} ms`;
}

function sum(counts, now, seconds) {
  const total = [0, 0];
  for (const [second, [accepted, answered]] of counts) {
    if (second <= now - seconds) continue;
    total[0] += accepted;
    total[1] += answered;
  }
  return total;
}

function drawCharts(counts, now, accepted, outcomes) {
  const last = Math.floor(now / STEP) * STEP - STEP;
  const places = SECONDS / STEP;
  const seconds = Array.from({length: places}, (_, place) => last - (places - 1 - place) * STEP);
  const lines = [0, 1, 2, 3].map(() => new Array(places).fill(0));
  for (const [second, told] of counts) {
    const place = places - 1 - Math.floor((last + STEP - 1 - second) / STEP);
    if (place < 0 || place >= places) continue;
    lines[0][place] += told[0] / STEP;
    lines[1][place] += told[1] / STEP;
    lines[2][place] += told[5] / STEP;
    lines[3][place] += (told[2] + told[3] + told[4] + told[6]) / STEP;
  }
  accepted.update(seconds, lines[0]);
  outcomes.update(seconds, ...lines.slice(1));
}

function showTrunks(place, trunks) {
  const text = JSON.stringify(trunks);
  if (place.dataset.shown === text) return;
  place.dataset.shown = text;
  place.replaceChildren(h("div", {className: "tiles"}, trunks.map((trunk) => h("div", {},
    h("strong", {}, trunk.name), " ", h("span", {className: `badge ${trunk.health === "well" ? "good" : "bad"}`},
      trunk.health), h("div", {className: "soft small"},
      `${count(trunk.busy)} calls, up to ${trunk.calls_per_second} a second`)))));
}

function makeRow() {
  const parts = ["time", "number", "state", "trunk", "id"].map((name) =>
    (name === "id" ? h("a", {className: "mono wide"}) : h("span", {className: name === "trunk" ? "wide" : ""})));
  parts[1] = h("a", {});
  const row = h("div", {}, parts);
  row.parts = parts;
  return row;
}

function fillRow(element, row) {
  const [at, who, state, trunk, id] = element.parts;
  const address = `/calls/${row.id}`;
  setText(at, time(row.at));
  setText(who, row.phone_number ? number(row.country_code, row.phone_number) : `call ${row.id.slice(0, 12)}`);
  const words = row.over ? outcome(row) : row.state === "answered" ? "connected" : row.state || "";
  setText(state, words);
  state.className = row.over ? (row.answered ? "good" : "bad") : "call";
  setText(trunk, row.trunk || "");
  setText(id, row.id.slice(0, 8));
  if (who.getAttribute("href") !== address) {
    who.setAttribute("href", address);
    id.setAttribute("href", address);
    id.setAttribute("aria-hidden", "true");
    id.tabIndex = -1;
  }
}
