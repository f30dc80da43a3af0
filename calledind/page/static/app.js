// Which view is shown. Addresses are real ones (/calls/ID), so that they can be sent to somebody and reloaded.

import {get, logInByAddress} from "./api.js";
import {h, setText} from "./dom.js";
import {live} from "./live.js";
import {phone} from "./phone.js";

const VIEWS = [
  [/^\/$/, "Now", () => import("./views/now.js")],
  [/^\/calls$/, "Calls", () => import("./views/calls.js")],
  [/^\/calls\/([^/]+)$/, "Call", () => import("./views/call.js")],
  [/^\/keys$/, "Keys", () => import("./views/keys.js")],
  [/^\/dnc$/, "DoNotCall", () => import("./views/dnc.js")],
  [/^\/trunks$/, "Trunks", () => import("./views/trunks.js")],
  [/^\/try$/, "Try it", () => import("./views/try.js")],
  [/^\/phone$/, "Phone", () => import("./views/phone.js")],
];

const main = document.getElementById("main");
const links = [...document.querySelectorAll(".bar nav a")];
let leave = null;
let shown = 0;
let facts = null;

async function show(path) {
  const turn = ++shown;
  const clean = path.replace(/(.)\/$/, "$1");
  const [pattern, title, load] = VIEWS.find(([each]) => each.test(clean)) || [null, "Not here", null];
  document.title = `${title} – calledin`;
  for (const link of links) {
    const here = link.pathname === clean || (link.pathname !== "/" && clean.startsWith(`${link.pathname}/`));
    if (here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
    if (here) link.parentElement.scrollLeft = link.offsetLeft - link.parentElement.clientWidth / 2;
  }
  leave?.();
  leave = null;
  if (!load) {
    main.replaceChildren(h("h1", {}, "There is nothing here"));
    return;
  }
  try {
    const view = await load();
    if (turn !== shown) return;
    main.replaceChildren();
    leave = await view.show(main, {id: clean.match(pattern)[1], facts, go});
  } catch (error) {
    if (turn === shown) main.replaceChildren(h("h1", {}, title), h("p", {className: "wrong", role: "alert"}, error.message));
  }
}

function go(path) {
  history.pushState(null, "", path);
  show(location.pathname);
  main.focus({preventScroll: true});
  scrollTo(0, 0);
}

document.addEventListener("click", (event) => {
  const link = event.target.closest("a[href]");
  const plain = event.button === 0 && !event.metaKey && !event.ctrlKey && !event.shiftKey && !event.defaultPrevented;
  if (!link || !plain || link.origin !== location.origin || link.hasAttribute("download") || link.hash) return;
  if (/^\/(static|admin|help)(\/|$)/.test(link.pathname)) return;
  event.preventDefault();
  go(link.pathname + link.search);
});
addEventListener("popstate", () => show(location.pathname));

function showState({figures, connected}) {
  const state = document.getElementById("state");
  if (!connected) setText(state, "the daemon is not there");
  else if (figures) setText(state, figures.simulator ? "simulator: nobody's phone rings" : figures.ready === "yes" ? "" : figures.ready);
}

await logInByAddress();
facts = await get("/facts");
live.subscribe(showState);
if (facts.simulator) {
  const link = document.querySelector(".phone-link");
  link.hidden = false;
  phone.open();
  phone.subscribe(() => link.classList.toggle("ringing", phone.is === "ringing"));
}
await show(location.pathname);
