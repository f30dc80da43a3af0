// Trunks: who takes our calls, how they are, and a test of each.

import {getIfThere, post} from "../api.js";
import {acting, card, facts, h, said} from "../dom.js";
import {count, milliseconds} from "../format.js";
import {live} from "../live.js";

export async function show(main) {
  const place = h("div", {className: "grid two"});
  main.append(h("h1", {}, "Trunks"), place);
  const settings = new Map(((await getIfThere("/admin/trunks"))?.trunks || []).map((trunk) => [trunk.name, trunk]));
  const cards = new Map();
  return live.subscribe(({figures}) => {
    for (const trunk of figures?.trunks || []) {
      let drawn = cards.get(trunk.name);
      if (!drawn) {
        drawn = trunkCard(trunk.name);
        cards.set(trunk.name, drawn);
        place.append(drawn.element);
      }
      drawn.show(trunk, settings.get(trunk.name));
    }
    for (const [name, drawn] of cards) {
      if (figures?.trunks.some((trunk) => trunk.name === name)) continue;
      drawn.element.remove();
      cards.delete(name);
    }
  });
}

function trunkCard(name) {
  const place = said();
  const badge = h("span", {className: "badge"});
  const about = h("div");
  let shown = "";
  const test = acting(h("button", {}, "Test by OPTIONS"), place, async () => {
    const told = await post(`/admin/trunks/${encodeURIComponent(name)}/test`);
    return [told.status, told.words, told.address && `from ${told.address}`, milliseconds(told.seconds)].filter(Boolean).join(", ");
  });
  return {
    element: card("", h("div", {className: "row end"}, h("h2", {}, name, " ", badge), test), about, place),
    show(trunk, settings = {}) {
      const text = JSON.stringify(trunk);
      if (text === shown) return;
      shown = text;
      badge.textContent = trunk.health;
      badge.className = `badge ${trunk.health === "well" ? "good" : "bad"}`;
      const port = settings.port ? `:${settings.port}` : "";
      about.replaceChildren(facts([["Host", settings.host && settings.host + port], ["Transport", settings.transport],
        ["Calls up", settings.channels ? `${count(trunk.busy)} of ${count(settings.channels)}` : count(trunk.busy)],
        ["Pace now", `${trunk.calls_per_second} calls a second`], ["Registered", registration(trunk.registration)],
        ["Prefixes", settings.prefixes?.join(", ")], ["Codecs", settings.codecs?.join(", ")]]));
    },
  };
}

function registration(told) {
  if (!told) return "";
  return typeof told === "string" ? told : Object.entries(told).map(([name, value]) => `${name} ${value}`).join(", ");
}
