// What the daemon tells while the page is open: figures, counts of each second, calls that changed.

const REDRAW = 250; // milliseconds between two, at least

class Live {
  figures = null;
  connected = true;
  counts = new Map(); // second -> [accepted, answered, then the reasons 0, 1, 3, 5, 8]
  calls = new Map(); // id -> row, the one that changed last at the end
  now = Date.now() / 1000; // by the daemon's clock
  #listeners = new Set();
  #source = null;
  #waiting = null;

  // Returns what ends it. The listener is called at once, and after each change.
  subscribe(listener) {
    this.#listeners.add(listener);
    if (!this.#source) this.#open();
    listener(this);
    return () => this.#listeners.delete(listener);
  }

  #open() {
    this.#source = new EventSource("/live");
    this.#source.addEventListener("all", (event) => {
      this.counts.clear();
      this.calls.clear();
      this.#take(JSON.parse(event.data));
    });
    this.#source.addEventListener("tick", (event) => this.#take(JSON.parse(event.data)));
    this.#source.onerror = () => {
      this.connected = false;
      this.#tell();
      if (this.#source.readyState === EventSource.CLOSED) setTimeout(() => this.#open(), 3000);
    };
  }

  #take(told) {
    this.connected = true;
    this.now = told.now;
    this.figures = told.figures;
    for (const [second, counts] of Object.entries(told.counts)) this.counts.set(Number(second), counts);
    for (const second of this.counts.keys()) if (second < told.now - 600) this.counts.delete(second);
    for (const row of told.calls) {
      this.calls.delete(row.id);
      this.calls.set(row.id, row);
    }
    this.#forget();
    this.#tell();
  }

  // Of those that have ended, the newest hundred stay.
  #forget() {
    let ended = 0;
    for (const row of this.calls.values()) ended += row.over ? 1 : 0;
    for (const [id, row] of this.calls) {
      if (ended <= 100) break;
      if (row.over) {
        this.calls.delete(id);
        ended -= 1;
      }
    }
  }

  #tell() {
    this.#waiting ||= setTimeout(() => {
      this.#waiting = null;
      for (const listener of this.#listeners) listener(this);
    }, document.hidden ? 5 * REDRAW : REDRAW / 5);
  }
}

export const live = new Live();
