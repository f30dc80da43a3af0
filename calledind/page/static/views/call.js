// One call: its way, its SIP messages, its sound and figures, and whom it was told to.

import {get, getBlob, getIfThere, post} from "../api.js";
import {chart} from "../chart.js";
import {acting, card, facts, h, said} from "../dom.js";
import {count, date, milliseconds, number, standing, time} from "../format.js";
import {Ladder} from "../ladder.js";

const REFRESH = 700; // milliseconds, while the call goes on
const OVER = ["delivered", "exhausted"];

export async function show(main, {id}) {
  const head = h("div");
  const way = h("ol", {className: "way", "aria-label": "The way of the call"});
  const ladder = new Ladder();
  const noLadder = h("p", {className: "soft"}, "Its messages are not kept any more.");
  const about = h("div");
  const media = h("div", {className: "above"});
  const told = h("div");
  const charts = h("div", {className: "grid three"});
  const course = card("How it sounded, over time", charts);
  course.hidden = true;
  let drawn = [];
  const place = said();
  let shown = "";
  main.append(head, card("", way), h("div", {className: "grid two"},
    card("SIP messages", ladder.element, noLadder, h("div", {className: "row ladder-foot"}, pcapButton(id, place), place)),
    h("div", {className: "grid"}, card("The call", about), card("Sound", soundOf(id), media), card("Callback", told))),
    h("div", {className: "gap"}), course);

  function showCourse({media}) {
    for (const each of drawn) each.stop();
    drawn = [];
    course.hidden = !(media?.course?.length > 1);
    if (!course.hidden) drawn = courseOf(media.course);
    charts.replaceChildren(...drawn.map(({element}) => element));
  }

  async function refresh() {
    const call = await get(`/admin/calls/${id}`);
    const trace = await getIfThere(`/admin/calls/${id}/trace`);
    ladder.show(trace || []);
    ladder.element.hidden = !ladder.count;
    noLadder.hidden = ladder.count > 0;
    const text = JSON.stringify(call) + ladder.count;
    if (text !== shown) {
      shown = text;
      showHead(head, call);
      way.replaceChildren(...wayOf(call, trace || []));
      about.replaceChildren(aboutOf(call));
      media.replaceChildren(...mediaOf(call));
      told.replaceChildren(...callbackOf(call));
      showCourse(call);
    }
    return call;
  }

  let timer = null;
  let gone = false;
  async function again() {
    const call = await refresh().catch(() => ({state: ""}));
    // A call that has just ended has its last messages, and its callback, still to come.
    const settled = OVER.includes(call.state) && Date.now() / 1000 - (call.outcome?.ended_at ?? 0) > 5;
    if (!gone && !settled) timer = setTimeout(again, call.outcome && !OVER.includes(call.state) ? 5 * REFRESH : REFRESH);
  }
  await refresh();
  timer = setTimeout(again, REFRESH);
  return () => {
    gone = true;
    clearTimeout(timer);
    for (const each of drawn) each.stop();
  };
}

function showHead(head, call) {
  const [words, colour] = standing(call);
  head.replaceChildren(h("h1", {}, number(call.country_code, call.phone_number), " ",
    h("span", {className: `badge ${colour}`}, words)));
}

// Accepted, dialled, ringing, answered, ended, told: with the times that are known of each.
function wayOf(call, trace) {
  const first = (test) => trace.find(({direction, text}) => test(direction, text))?.time;
  const dialled = first((direction, text) => direction === "sent" && text.startsWith("INVITE"));
  const rang = first((direction, text) => direction === "received" && /^SIP\/2.0 18[03]/.test(text));
  const ended = call.outcome;
  const [words] = standing(call);
  const steps = [["accepted", call.accepted_at], ["dialled", dialled ?? (call.attempt ? true : null)], ["ringing", rang],
    ["answered", ended?.answered_at ?? call.answered_at], ["ended", ended?.ended_at]];
  if (call.callback_url) steps.push(["callback", OVER.includes(call.state) ? true : null]);
  return steps.map(([name, at]) => {
    const failed = (name === "answered" && ended && !ended.answered) || (name === "callback" && call.state === "exhausted");
    const label = name === "answered" && failed ? words : name === "callback" ? callbackWords(call) : name;
    return h("li", {className: failed ? "failed" : at ? "done" : ""}, h("b", {}, label),
      h("span", {className: "soft"}, typeof at === "number" ? time(at) : ""));
  });
}

function callbackWords(call) {
  return {delivered: "callback taken", exhausted: "callback given up"}[call.state] || "callback waits";
}

function aboutOf(call) {
  const ended = call.outcome;
  return facts([["Id", h("code", {}, call.id)], ["Key", h("code", {}, call.key_id)], ["Caller id", call.caller_id],
    ["Accepted", date(call.accepted_at)], ["Plays for", `${call.duration.toFixed(1)} s`],
    ["Trunk", ended?.trunk || call.attempt?.trunk], ["Attempt", call.attempt?.number],
    ["Ended by", ended?.ended_by], ["Cause", ended?.cause], ["SIP status", ended?.sip_status], ["Q.850", ended?.q850],
    ["In words", ended?.detail]]);
}

function mediaOf({media, outcome}) {
  if (!media && outcome) return [h("p", {className: "soft small"}, "Of this call no figures of the media are kept.")];
  if (!media) return [h("p", {className: "soft small"}, "Loss, jitter and MOS are told when the call has ended.")];
  return [facts([["Codec", media.codec + (media.srtp ? `, ${media.srtp}` : "")],
    ["Packets sent", count(media.packets_sent)], ["Lost on the way there", media.packets_lost_by_peer],
    ["Jitter there", milliseconds(media.jitter_by_peer)], ["Packets received", count(media.packets_received)],
    ["Lost on the way here", media.packets_lost], ["Jitter here", milliseconds(media.jitter)],
    ["Round trip", milliseconds(media.round_trip)], ["MOS", media.mos], ["Keys pressed", media.digits]])];
}

// How it went over time, by the reports of RTCP: some seconds apart.
function courseOf(course) {
  const spans = course.map((moment, place) => {
    const before = course[place - 1] ?? {packets_sent: 0, packets_lost_by_peer: 0, packets_received: 0, packets_lost: 0};
    const share = (lost, of) => (of > 0 ? 100 * Math.max(lost, 0) / of : null);
    const here = moment.packets_lost - before.packets_lost;
    return {at: moment.at,
      there: share(moment.packets_lost_by_peer - before.packets_lost_by_peer, moment.packets_sent - before.packets_sent),
      here: share(here, moment.packets_received - before.packets_received + Math.max(here, 0)),
      jitterThere: inMilliseconds(moment.jitter_by_peer), jitterHere: inMilliseconds(moment.jitter), mos: moment.mos};
  });
  const column = (name) => spans.map((span) => span[name]);
  return [["Packets lost, per cent", [["on the way there", "--call"], ["on the way here", "--warn"]], ["there", "here"]],
    ["Jitter, ms", [["there", "--call"], ["here", "--warn"]], ["jitterThere", "jitterHere"]],
    ["MOS", [["1 to 4.5", "--good"]], ["mos"]]].map(([title, lines, names]) => {
    const drawn = chart(`${title}, over the call`, lines, {small: true});
    drawn.update(column("at"), ...names.map(column));
    return {stop: drawn.stop, element: h("div", {}, h("h3", {}, title), drawn.element)};
  });
}

const inMilliseconds = (seconds) => (seconds === null ? null : seconds * 1000);

function soundOf(id) {
  const place = said();
  const holder = h("div");
  const button = h("button", {}, "Load what was played");
  acting(button, place, async () => {
    const sound = await getBlob(`/sound/${id}`);
    holder.replaceChildren(h("audio", {controls: true, src: URL.createObjectURL(sound), "aria-label": "What was played"}));
    button.hidden = true;
  });
  return h("div", {}, button, holder, place);
}

function callbackOf(call) {
  if (!call.callback_url) return [h("p", {className: "soft"}, "None was asked for.")];
  const place = said();
  const again = acting(h("button", {}, "Send again"), place, async () => {
    await post(`/admin/callbacks/${call.id}/again`);
    return "It is sent.";
  });
  again.hidden = !call.outcome;
  return [facts([["To", call.callback_url], ["State", callbackWords(call)], ["Tries", call.tries]]),
    h("div", {className: "row ladder-foot"}, again, place)];
}

function pcapButton(id, place) {
  return acting(h("button", {}, "Download as pcap"), place, async () => {
    const file = await getBlob(`/admin/calls/${id}/pcap`);
    h("a", {href: URL.createObjectURL(file), download: `${id}.pcap`}).click();
  });
}
