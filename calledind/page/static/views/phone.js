// The phone: rings when 212-555-0199 is called, and is answered, or not, here.

import {get, getIfThere, postFile} from "../api.js";
import {acting, card, facts as factList, h, said, setText} from "../dom.js";
import {CODES, REASONS, number} from "../format.js";
import {Ladder} from "../ladder.js";
import {phone} from "../phone.js";

const REFRESH = 300; // milliseconds
const WORDS = {away: "No connection to the daemon", quiet: "Quiet", ringing: "Ringing", up: "Connected", over: "Over"};
const HOW = {caller: "the caller hung up", callee: "you hung up", cancelled: "the caller gave up", refused: "you refused it",
  nobody: "the call was lost", "taken elsewhere": "answered at another browser"};

export function show(main, {facts}) {
  if (!facts.simulator) {
    main.append(h("h1", {}, "Phone"), h("p", {}, "It is here while the built-in carrier takes the calls: ",
      h("code", {}, "calledin demo"), ", or ", h("code", {}, "simulator = true"), " in the settings."));
    return null;
  }
  const handset = new Handset();
  const call = new CallPanel();
  main.append(h("h1", {}, "Phone"), h("div", {className: "grid side"},
    h("div", {}, handset.element, facts.phone_calls ? dropPlace((told) => call.answered(told)) : null), call.element));
  const end = phone.subscribe(() => {
    handset.show();
    if (phone.call) call.follow(phone.call.call);
    call.showTold();
  });
  phone.speaker.onlevel = () => handset.showLevel();
  return () => {
    end();
    call.stop();
    phone.speaker.onlevel = () => {};
  };
}

class Handset {
  constructor() {
    this.who = h("div", {className: "who"});
    this.what = h("div", {className: "what soft", role: "status"});
    const button = (className, words, act) => h("button", {className, onclick: act}, words);
    this.ringing = [button("main", "Answer", () => this.answer()), button("danger", "Decline", () => phone.decline()),
      button("", "Busy", () => phone.busy())];
    this.up = [button("danger", "Hang up", () => phone.hangUp())];
    this.keys = [..."123456789*0#"].map((digit) => h("button", {onclick: () => phone.key(digit),
      "aria-label": {"*": "star", "#": "pound"}[digit] || digit}, digit));
    this.meter = h("meter", {min: 0, max: 1, value: 0, "aria-label": "Level of the sound"});
    this.heard = h("p", {className: "soft small"});
    const lose = h("input", {type: "checkbox", onchange: () => phone.lose(lose.checked ? 0.1 : 0)});
    this.lose = lose;
    this.element = h("section", {className: "card handset", "aria-label": "The telephone"},
      h("div", {className: "display"}, this.who, this.what, this.meter, this.heard),
      h("div", {className: "pickup"}, this.ringing, this.up),
      h("div", {className: "keypad", role: "group", "aria-label": "Keys"}, this.keys),
      h("label", {className: "check"}, lose, "Lose 10 % of the packets"));
  }

  async answer() {
    try {
      await phone.answer();
      if (this.lose.checked) phone.lose(0.1);
    } catch (error) {
      setText(this.what, `The sound can't be played: ${error.message}`);
    }
  }

  show() {
    const {is, call, how} = phone;
    const rings = is === "ringing";
    this.element.classList.toggle("ringing", rings);
    setText(this.who, call && (rings || is === "up") ? `from ${caller(call.caller)}` : "212-555-0199");
    setText(this.what, is === "over" ? `Over: ${HOW[how] || how}` : WORDS[is]);
    for (const button of this.ringing) button.disabled = !rings;
    for (const button of [...this.up, ...this.keys]) button.disabled = is !== "up";
    this.lose.disabled = is === "away";
  }

  showLevel() {
    const {level, figures} = phone.speaker;
    this.meter.value = level;
    if (phone.is === "up") {
      setText(this.heard, `${figures.played} packets heard, ${figures.missing} lost, ${figures.late} too late`);
    }
  }
}

const caller = (text) => (/^\d{10}$/.test(text) ? number("1", text).slice(3) : text || "anonymous");

// Beside the phone: the code, the ladder and the callback of the call in hand, as they come.
class CallPanel {
  #id = "";
  #timer = null;

  constructor() {
    this.code = h("div");
    this.ladder = new Ladder("this phone");
    this.way = h("div", {}, h("p", {className: "soft"}, "Call 212-555-0199, or drop an MP3 on the phone."));
    this.callback = h("div", {}, h("p", {className: "soft"}, "Comes when the call has ended."));
    this.link = h("p", {className: "soft"}, "Drawn as they come and go, each with its whole text on a click.");
    this.element = h("div", {className: "grid"}, card("The request was answered with", this.code, this.way),
      card("SIP messages", this.ladder.element, this.link), card("The callback", this.callback));
  }

  // What a request made from here was answered with.
  answered(told) {
    this.code.replaceChildren(h("div", {className: "row"}, h("span", {className: `code ${told.code ? "bad" : "good"}`},
      String(told.code)), h("span", {}, told.words || CODES[told.code])));
    if (told.call_id) this.follow(told.call_id);
  }

  follow(id) {
    if (id === this.#id) return;
    this.#id = id;
    this.ladder.clear();
    this.answered({code: 0, words: CODES[0]});
    this.callback.replaceChildren(h("p", {className: "soft"}, "Comes when the call has ended."));
    this.link.replaceChildren(h("a", {href: `/calls/${id}`}, "All about this call"));
    clearTimeout(this.#timer);
    this.#refresh(id);
  }

  async #refresh(id) {
    const trace = await getIfThere(`/admin/calls/${id}/trace`).catch(() => null);
    const call = await get(`/admin/calls/${id}`).catch(() => null);
    if (id !== this.#id) return;
    this.ladder.show(trace || []);
    if (call) this.#showWay(call);
    const ended = call?.outcome?.ended_at;
    const quiet = ended && Date.now() / 1000 - ended > 4 && ["delivered", "exhausted"].includes(call.state);
    if (!quiet) this.#timer = setTimeout(() => this.#refresh(id), REFRESH);
  }

  #showWay(call) {
    const words = call.outcome ? (call.outcome.answered ? "answered" : `not answered: ${REASONS[call.outcome.reason]}`) : call.state;
    this.way.replaceChildren(factList([["Number", number(call.country_code, call.phone_number)], ["Call", words],
      ["Keys", call.media?.digits]]));
    if (call.outcome && !phone.told.has(call.id) && call.callback_url) {
      this.callback.replaceChildren(factList([["To", call.callback_url], ["State", call.state]]));
    } else if (call.outcome && !call.callback_url) {
      this.callback.replaceChildren(h("p", {className: "soft"}, "None was asked for."));
    }
  }

  showTold() {
    const told = phone.told.get(this.#id);
    if (!told) return;
    this.callback.replaceChildren(factList([...Object.entries(told.query).map(([name, value]) =>
      [name, value || "(empty)"]), ["signature", told.signed ? "holds" : "does NOT hold"]]));
  }

  stop() {
    clearTimeout(this.#timer);
    this.#id = "";
  }
}

function dropPlace(answered) {
  const place = said();
  const file = h("input", {type: "file", accept: "audio/mpeg,.mp3", hidden: true, "aria-label": "An MP3 file"});
  const call = async (mp3) => {
    const told = await postFile("/phone/call", mp3);
    answered(told);
    return told.code ? `Answered with code ${told.code}.` : "";
  };
  const button = acting(h("button", {className: "main"}, "Call me"), place, () => call(null));
  const choose = h("button", {onclick: () => file.click()}, "Choose an MP3");
  const area = h("div", {className: "drop"}, h("p", {}, "Drop an MP3 here, and the phone rings with it."),
    h("div", {className: "row middle"}, button, choose, file), place);
  const ring = (mp3) => acting(h("button"), place, () => call(mp3)).click();
  file.addEventListener("change", () => file.files.length && ring(file.files[0]));
  for (const name of ["dragover", "dragleave", "drop"]) {
    area.addEventListener(name, (event) => {
      event.preventDefault();
      area.classList.toggle("over", name === "dragover");
      if (name === "drop" && event.dataTransfer.files.length) ring(event.dataTransfer.files[0]);
    });
  }
  return area;
}
