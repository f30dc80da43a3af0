// Keys: who may make calls, and for how many more.

import {get, post} from "../api.js";
import {acting, card, h, said, table} from "../dom.js";
import {count, date} from "../format.js";

export async function show(main) {
  const listed = h("div");
  const opened = h("div");
  main.append(h("h1", {}, "Keys"), card("", listed), opened, newKey(refresh));

  async function refresh() {
    const {keys} = await get("/admin/keys");
    const rows = keys.map((key) => h("tr", {},
      h("td", {}, h("button", {className: "plain", onclick: () => open(key.id)}, key.name), key.disabled
        ? h("span", {className: "badge bad"}, "disabled") : null),
      h("td", {className: "mono"}, key.id), h("td", {className: "number"}, count(key.credits)),
      h("td", {className: "number"}, count(key.held)), h("td", {className: "number"}, count(key.charged)),
      h("td", {}, date(key.created_at))));
    listed.replaceChildren(rows.length
      ? table(["Name", "Id", "#Credits", "#Held", "#Spent", "Made"], rows, "Keys")
      : h("p", {className: "soft"}, "There is none yet."));
  }

  async function open(id) {
    const key = await get(`/admin/keys/${id}`);
    const {entries} = await get(`/admin/keys/${id}/ledger?most=50`);
    opened.replaceChildren(keyCard(key, entries, async () => {
      await refresh();
      await open(id);
    }));
    opened.querySelector("h2").focus();
  }

  await refresh();
}

function keyCard(key, entries, changed) {
  const place = said();
  const amount = h("input", {type: "number", value: 100, required: true});
  const note = h("input", {maxLength: 200});
  const add = acting(h("button", {className: "main"}, "Add credits"), place, async () => {
    await post(`/admin/keys/${key.id}/credits`, {amount: Number(amount.value), note: note.value});
    await changed();
  });
  const toggle = acting(h("button", {}, key.disabled ? "Enable" : "Disable"), place, async () => {
    await post(`/admin/keys/${key.id}/${key.disabled ? "enable" : "disable"}`);
    await changed();
  });
  const rows = entries.map((entry) => h("tr", {}, h("td", {}, date(entry.at)),
    h("td", {className: "number"}, entry.amount > 0 ? `+${count(entry.amount)}` : count(entry.amount)),
    h("td", {}, entry.reason), h("td", {className: "mono"}, reference(entry)), h("td", {className: "number"}, count(entry.balance))));
  const title = h("h2", {tabIndex: -1}, key.name);
  return h("section", {className: "card"}, h("div", {className: "row end"}, title, toggle),
    h("div", {className: "fields"}, h("label", {}, "Amount, negative to take some", amount), h("label", {}, "Note", note), add),
    place, h("h2", {}, "Ledger"), rows.length
      ? table(["When", "#Amount", "Why", "Reference", "#Left"], rows, "Ledger")
      : h("p", {className: "soft"}, "Nothing has changed its credits yet."));
}

function reference(entry) {
  return /^[0-9a-f]{32}$/.test(entry.reference) ? h("a", {href: `/calls/${entry.reference}`}, entry.reference.slice(0, 8))
    : entry.reference;
}

function newKey(changed) {
  const place = said();
  const name = h("input", {required: true, maxLength: 100});
  const credits = h("input", {type: "number", value: 100, min: 0});
  const secrets = h("div");
  const make = acting(h("button", {className: "main"}, "Make a key"), place, async () => {
    const key = await post("/admin/keys", {name: name.value, credits: Number(credits.value)});
    name.value = "";
    secrets.replaceChildren(h("p", {}, "It is shown this once. Keep it where only your program reads it."),
      h("div", {className: "lines"}, h("pre", {tabIndex: 0}, `api_key         ${key.api_key}\nwebhook secret  ${key.webhook_secret}`)));
    await changed();
  });
  return card("A new key", h("div", {className: "fields"}, h("label", {}, "Name", name),
    h("label", {}, "Credits", credits), make), place, secrets);
}
