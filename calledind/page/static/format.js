// How times, numbers and outcomes are written.

export const REASONS = {0: "failed", 1: "hung up", 3: "ring timeout", 5: "busy", 8: "congestion"};
export const CODES = {0: "accepted", 1: "invalid api_key", 2: "no call credits", 3: "on the DoNotCall list",
  4: "badly formed request", 5: "api_key disabled", 6: "called less than one minute ago", 7: "area code not supported",
  8: "country_code not supported", 9: "the MP3 can't be fetched, or is none", 10: "the MP3 plays too long"};

const clock = new Intl.DateTimeFormat("en-GB", {hour: "2-digit", minute: "2-digit", second: "2-digit"});
const day = new Intl.DateTimeFormat("en-GB", {dateStyle: "medium", timeStyle: "medium"});

export const time = (seconds) => (seconds ? clock.format(seconds * 1000) : "");
export const date = (seconds) => (seconds ? day.format(seconds * 1000) : "");
export const count = (number) => number.toLocaleString("en-GB");
export const milliseconds = (seconds) => (seconds === null || seconds === undefined ? "" : `${(seconds * 1000).toFixed(1)} ms`);

export function number(countryCode, phone) {
  if (countryCode === "1" && /^\d{10}$/.test(phone)) return `+1 ${phone.slice(0, 3)}-${phone.slice(3, 6)}-${phone.slice(6)}`;
  return `+${countryCode} ${phone}`;
}

export const outcome = (told) => (told.answered ? "answered" : REASONS[told.reason] ?? "not answered");

// State and outcome of a call as words and a colour.
export function standing(call) {
  if (call.outcome) return [outcome(call.outcome), call.outcome.answered ? "good" : "bad"];
  return [call.state, call.state === "answered" ? "good" : "call"];
}
