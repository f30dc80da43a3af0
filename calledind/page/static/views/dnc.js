// DoNotCall: numbers that are never called.

import {get, post, postText} from "../api.js";
import {acting, card, h, said} from "../dom.js";
import {count} from "../format.js";

export async function show(main) {
  const many = h("strong");
  const place = said();
  const numbers = h("textarea", {rows: 3, placeholder: "+12125550100", spellcheck: false});
  const wanted = () => numbers.value.split(/[\s,;]+/).filter(Boolean);
  const refresh = async () => { many.textContent = count((await get("/admin/dnc")).count); };
  const change = (what, past) => async () => {
    const done = await post(`/admin/dnc/${what}`, {numbers: wanted()});
    await refresh();
    return `${count(done[past])} ${past}.`;
  };
  const lookUp = async () => {
    const told = await Promise.all(wanted().slice(0, 20).map(async (number) =>
      `${number} is ${(await get(`/listed?number=${encodeURIComponent(number)}`)).listed ? "" : "not "}on the list.`));
    return told.join(" ") || "Write a number first.";
  };
  const buttons = h("div", {className: "row"}, acting(h("button", {className: "main"}, "Add"), place, change("add", "added")),
    acting(h("button", {}, "Remove"), place, change("remove", "removed")), acting(h("button", {}, "Look up"), place, lookUp));
  main.append(h("h1", {}, "DoNotCall"), h("p", {}, "On the list: ", many, ". A request for one of these numbers is answered with code 3."),
    h("div", {className: "grid two"},
      card("Numbers", h("label", {}, "With country code, one or several", numbers), h("p"), buttons, place),
      importCard(refresh)));
  await refresh();
}

function importCard(changed) {
  const place = said();
  const file = h("input", {type: "file", accept: ".csv,.txt,text/plain,text/csv"});
  const country = h("input", {value: "1", inputMode: "numeric", pattern: "[0-9]{1,3}"});
  const wrong = h("div");
  const bring = acting(h("button", {className: "main"}, "Import"), place, async () => {
    if (!file.files.length) return "Choose a file first.";
    const told = await postText(`/admin/dnc/import?country_code=${encodeURIComponent(country.value)}`, file.files[0]);
    await changed();
    const lines = told.wrong_lines.slice(0, 100).map(({line, why}) => `line ${line}: ${why}`).join("\n");
    wrong.replaceChildren(...(lines ? [h("pre", {tabIndex: 0}, lines)] : []));
    return `${count(told.added)} added, ${count(told.already_there)} were there, ${count(told.rejected)} lines are wrong.`;
  });
  return card("Import a file", h("p", {className: "soft small"}, "A number a line, up to 32 MB; ",
    h("code", {}, "calledin dnc import"), " takes larger ones."),
    h("div", {className: "fields"}, h("label", {}, "File", file),
      h("label", {}, "Country code of numbers without one", country)), h("p"), bring, place, wrong,
    h("p", {}, h("a", {href: "/admin/dnc/export", download: "donotcall.csv"}, "Download the list")));
}
