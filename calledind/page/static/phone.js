// The phone: a WebSocket to the built-in carrier's telephone, a speaker, and what is known of the call in hand.

import {Speaker} from "./speaker.js";

class Phone {
  is = "away"; // away: no connection; quiet, ringing, up, over
  call = null; // {call, number, caller} of the call in hand, or of the last one
  how = ""; // how it ended
  told = new Map(); // call id -> the callback that came
  speaker = new Speaker();
  #socket = null;
  #listeners = new Set();

  subscribe(listener) {
    this.#listeners.add(listener);
    listener();
    return () => this.#listeners.delete(listener);
  }

  open() {
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    this.#socket = new WebSocket(`${scheme}://${location.host}/phone/line`);
    this.#socket.binaryType = "arraybuffer";
    this.#socket.onmessage = ({data}) => (typeof data === "string" ? this.#hear(JSON.parse(data)) : this.speaker.play(data));
    this.#socket.onclose = () => {
      this.#become("away");
      setTimeout(() => this.open(), 2000);
    };
  }

  #hear(told) {
    if (told.is === "told") {
      this.told.set(told.call, told);
      this.#tell();
      return;
    }
    if (told.is === "ringing") this.call = told;
    if (told.is === "over") this.how = told.how;
    this.#become(told.is);
  }

  #become(is) {
    this.is = is;
    if (is !== "up") this.speaker.stop();
    this.#tell();
  }

  #tell() {
    for (const listener of this.#listeners) listener();
  }

  #say(said) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(said));
  }

  // A browser plays sound only after a click, so the speaker begins with this one.
  async answer() {
    await this.speaker.start();
    this.#say({do: "answer"});
  }

  decline() { this.#say({do: "decline"}); }
  busy() { this.#say({do: "busy"}); }
  hangUp() { this.#say({do: "hang up"}); }
  key(digit) { this.#say({do: "key", digit}); }
  lose(share) { this.#say({do: "lose", share}); }
}

export const phone = new Phone();
