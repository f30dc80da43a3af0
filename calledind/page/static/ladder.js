// A call's SIP messages, an arrow each, the whole text on a click. What is drawn stays: only new messages are added.

import {h} from "./dom.js";

const CODECS = {0: "PCMU", 8: "PCMA"};

// One entry of a trace -> what the ladder shows of it.
export function read({time, direction, text}) {
  const [head, body = ""] = split(text.replaceAll("\r\n", "\n"));
  const [start, ...lines] = head.split("\n");
  const field = (...names) => lines.map((line) => line.split(/:(.*)/s)).find(([name]) =>
    names.includes(name.trim().toLowerCase()))?.[1].trim() ?? "";
  const isResponse = start.startsWith("SIP/2.0 ");
  const method = field("cseq").split(" ").pop();
  let label = isResponse ? start.slice(8) : start.split(" ")[0];
  if (isResponse && method !== "INVITE") label += ` (${method})`;
  const sdp = field("content-type", "c").includes("sdp") ? describe(body) : "";
  return {at: time, sent: direction === "sent", label, sdp, text, failure: isResponse && "3456".includes(label[0]),
    answer: isResponse && label.startsWith("2") && method === "INVITE", ack: !isResponse && method === "ACK",
    identity: [start, field("cseq"), field("via", "v"), field("to", "t")].join("|")};
}

function split(text) {
  const at = text.indexOf("\n\n");
  return at < 0 ? [text] : [text.slice(0, at), text.slice(at + 2)];
}

function describe(sdp) {
  const audio = sdp.match(/^m=audio (\d+) \S+([ \d]*)/m);
  if (!audio) return "";
  const held = sdp.match(/^a=(sendonly|inactive)\s*$/m);
  if (held) return "hold";
  const names = audio[2].trim().split(" ").map((kind) => CODECS[kind]).filter(Boolean);
  for (const [, name] of sdp.matchAll(/^a=rtpmap:\d+ ([^/\s]+)\//gm)) {
    if (name !== "telephone-event" && !names.includes(name)) names.push(name);
  }
  return names.join(" ");
}

export class Ladder {
  #shown = 0;
  #start = 0;
  #seen = new Set();
  #answered = false;
  #media = false;

  constructor(peer = "callee") {
    this.list = h("ol", {className: "ladder", "aria-label": "SIP messages"});
    this.element = h("div", {}, h("div", {className: "ladder-head"}, h("span"),
      h("span", {className: "ladder-ends"}, h("span", {}, "calledin"), h("span", {}, peer))), this.list);
  }

  get count() {
    return this.#shown;
  }

  // The whole trace so far.
  show(messages) {
    for (const entry of messages.slice(this.#shown)) this.#add(read(entry));
    this.#shown = messages.length;
  }

  clear() {
    this.list.replaceChildren();
    this.#shown = 0;
    this.#seen.clear();
    this.#answered = this.#media = false;
  }

  #add(message) {
    this.#start ||= message.at;
    if (!this.#shown && !this.list.children.length) this.#start = message.at;
    const again = this.#seen.has(message.identity);
    this.#seen.add(message.identity);
    const way = message.sent ? "sent" : "received";
    const kind = again ? "again" : message.failure ? "failure" : "";
    const label = [message.label, message.sdp && `, ${message.sdp}`, again && " (again)"].filter(Boolean).join("");
    this.list.append(h("li", {}, h("details", {}, h("summary", {},
      h("time", {}, `${(message.at - this.#start).toFixed(3)}`),
      h("span", {className: `arrow ${way} ${kind}`}, h("b", {}, label))),
    h("pre", {tabIndex: 0}, message.text.trim()))));
    this.#answered ||= message.answer;
    if (this.#answered && message.ack && !this.#media) {
      this.#media = true;
      this.list.append(h("li", {className: "ladder-head"}, h("span"),
        h("span", {className: "arrow sent media"}, h("b", {}, "RTP: the audio, 50 packets a second"))));
    }
  }
}
