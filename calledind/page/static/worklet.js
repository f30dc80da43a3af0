// A telephone's receiver, in the browser's audio thread: mu-law decoding, a jitter buffer, and from 8,000 samples a
// second to what the sound card wants.
//
// Packets are put into a ring at the place that their RTP timestamp gives them. Playing begins when BUFFER samples are
// there; what has not come when its turn is there is a gap of silence, as a telephone would have it.

const RATE = 8000;
const BUFFER = 960; // samples that wait before the first is played: 120 ms
const RING = 16384; // samples, a power of two
const TAPS = 16; // of the interpolation on each side: RATE samples
const PHASES = 128;

// ITU-T G.711, table 2a.
const MU_LAW = Float32Array.from({length: 256}, (_, code) => {
  const bits = ~code & 0xff;
  const magnitude = ((((bits & 0x0f) << 3) + 0x84) << ((bits >> 4) & 7)) - 0x84;
  return (bits & 0x80 ? -magnitude : magnitude) / 32768;
});

// A windowed sinc for each of PHASES places between two samples, cut just below 4,000 Hz.
const KERNEL = Array.from({length: PHASES + 1}, (_, phase) => Float32Array.from({length: 2 * TAPS}, (_, tap) => {
  const x = tap - TAPS + 1 - phase / PHASES;
  const window = 0.5 + 0.5 * Math.cos((Math.PI * x) / TAPS);
  const cut = 0.96;
  return x === 0 ? cut : (Math.sin(Math.PI * x * cut) / (Math.PI * x)) * window;
}));

class Telephone extends AudioWorkletProcessor {
  ring = new Float32Array(RING);
  first = null; // RTP timestamp of the first packet
  lowest = null; // sequence number of the first
  highest = null; // of the newest, going on where 16 bits end
  end = 0; // place behind the newest sample
  place = 0; // of the next sample to play, with a fraction
  playing = false;
  figures = {played: 0, missing: 0, late: 0};
  record = false;
  sum = 0;
  summed = 0;

  constructor() {
    super();
    this.port.onmessage = ({data}) => {
      if (data.record) this.record = true;
      else this.take(data);
    };
  }

  take(packet) {
    const view = new DataView(packet);
    const codes = new Uint8Array(packet, 6);
    const timestamp = view.getUint32(2);
    this.first ??= timestamp;
    const place = (timestamp - this.first) | 0;
    if (place + codes.length <= this.place - TAPS || place < 0) {
      this.figures.late += 1;
      return;
    }
    // Far ahead: the caller's clock or ours has stopped for a while.
    if (place + codes.length > this.place + RING / 2) this.place = place - BUFFER;
    for (let index = 0; index < codes.length; index += 1) this.ring[(place + index) & (RING - 1)] = MU_LAW[codes[index]];
    this.figures.played += 1;
    this.end = Math.max(this.end, place + codes.length);
    if (this.end - this.place >= BUFFER) this.playing = true;
    this.count(view.getUint16(0));
  }

  // Sequence numbers between the first and the highest that never came are missing (RFC 3550 appendix A.3).
  count(sequence) {
    this.highest ??= this.lowest = sequence;
    const step = ((sequence - this.highest) << 16) >> 16;
    if (step > 0) this.highest += step;
    this.figures.missing = Math.max(0, this.highest - this.lowest + 1 - this.figures.played - this.figures.late);
  }

  process(_, [[output]]) {
    const step = RATE / sampleRate;
    for (let index = 0; index < output.length; index += 1) {
      // Nothing there yet: wait until the buffer has filled (again).
      if (this.playing && this.place + TAPS >= this.end) this.playing = false;
      if (!this.playing) {
        output[index] = 0;
        continue;
      }
      output[index] = this.sample();
      this.forget();
      this.place += step;
    }
    this.measure(output);
    if (this.record) this.port.postMessage({samples: output.slice()});
    return true;
  }

  sample() {
    const whole = Math.floor(this.place);
    const kernel = KERNEL[Math.round((this.place - whole) * PHASES)];
    let sum = 0;
    for (let tap = 0; tap < 2 * TAPS; tap += 1) sum += kernel[tap] * this.ring[(whole + tap - TAPS + 1) & (RING - 1)];
    return sum;
  }

  // What was played is silence again, should nothing come at that place next time.
  forget() {
    const behind = Math.floor(this.place) - 4 * TAPS;
    if (behind >= 0) this.ring[behind & (RING - 1)] = 0;
  }

  measure(output) {
    for (const sample of output) this.sum += sample * sample;
    this.summed += output.length;
    if (this.summed < sampleRate / 20) return;
    this.port.postMessage({level: Math.min(1, Math.sqrt(this.sum / this.summed) * 3), figures: {...this.figures}});
    this.sum = this.summed = 0;
  }
}

registerProcessor("telephone", Telephone);
