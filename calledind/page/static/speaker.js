// From the network's packets to the loudspeaker: the work is done by an AudioWorklet (worklet.js).

export class Speaker {
  level = 0; // 0 to 1, of the last 50 milliseconds
  figures = {played: 0, missing: 0, late: 0}; // packets
  onlevel = () => {};
  #context = null;
  #node = null;
  #recorded = null;

  async start() {
    if (!this.#context) {
      this.#context = new AudioContext({latencyHint: "interactive"});
      await this.#context.audioWorklet.addModule("/static/worklet.js");
    }
    await this.#context.resume();
    this.#node?.disconnect();
    this.#node = new AudioWorkletNode(this.#context, "telephone", {numberOfInputs: 0, outputChannelCount: [1]});
    this.#node.port.onmessage = ({data}) => {
      if (data.samples) this.#recorded?.push(data.samples);
      else {
        this.level = data.level;
        this.figures = data.figures;
        this.onlevel();
      }
    };
    if (this.#recorded) this.#node.port.postMessage({record: true});
    this.#node.connect(this.#context.destination);
  }

  // One packet: sequence number (2 octets), RTP timestamp (4), mu-law.
  play(packet) {
    this.#node?.port.postMessage(packet, [packet]);
  }

  stop() {
    this.#node?.disconnect();
    this.#node = null;
    this.level = 0;
    this.onlevel();
  }

  // For tests: keep what the loudspeaker is given, from the next start on.
  record() {
    this.#recorded = [];
  }

  // What was kept: {rate, samples}, samples as numbers from -1 to 1.
  recorded() {
    return {rate: this.#context?.sampleRate ?? 0, samples: this.#recorded?.flatMap((part) => [...part]) ?? []};
  }
}
