// What the model proposes, and which photos it is least sure of.

import { get } from "./net.js";
import { drawable, overlap } from "./sheet.js";

const SAME = 0.5; // the overlap from which a box and a proposal show one thing
const PAUSE = 2500; // milliseconds between two questions about doubts

export class Model {
  // `told` has: proposed(id), doubted(), looked(done, total).
  constructor(told) {
    this.told = told;
    this.found = new Map(); // photo id -> proposals, in parts of the photo
    this.doubts = new Map(); // photo id -> how unsure, from 0 to 1
    this.disagrees = new Set();
    this.after = 0;
    this.asking = null;
  }

  watch() {
    const look = async () => {
      try {
        const { doubts, done, total } = await get(`/api/doubts?after=${this.after}`);
        this.after += doubts.length;
        for (const [id, value, disagrees] of doubts) {
          this.doubts.set(id, value);
          if (disagrees) this.disagrees.add(id);
          else this.disagrees.delete(id);
        }
        this.told.looked(done, total);
        if (doubts.length) this.told.doubted();
      } catch { /* a server that is gone is said elsewhere */ }
      setTimeout(look, PAUSE);
    };
    look();
  }

  // Begins anew, as after a restart of the server.
  reset() {
    this.after = 0;
    this.found.clear();
  }

  // Asks about the photo on the screen until there is an answer, then nudges the next ones.
  async ask(id, next) {
    this.asking?.abort();
    const { signal } = (this.asking = new AbortController());
    try {
      while (!this.found.has(id)) {
        const answer = await get(`/api/proposals/${id}`, signal);
        if (answer.ready) this.found.set(id, answer);
      }
      if (signal.aborted) return;
      this.told.proposed(id);
      for (const other of next) {
        if (this.found.has(other)) continue;
        const answer = await get(`/api/proposals/${other}?soon`, signal);
        if (answer.ready) this.found.set(other, answer);
      }
    } catch { /* another photo is asked for, or the server is gone, which is said elsewhere */ }
  }

  // The proposals that no box of their class covers yet, in photo pixels.
  open(id, items, { width, height }) {
    const boxes = this.found.get(id)?.boxes ?? [];
    const own = items.filter(drawable);
    return boxes.map(({ name, index, score, corners: [x1, y1, x2, y2] }, at) => ({
      id: `proposal ${at}`, name, index, score,
      x1: x1 * width, y1: y1 * height, x2: x2 * width, y2: y2 * height,
    })).filter((p) => !own.some((item) => item.index === p.index && overlap(item, p) >= SAME));
  }
}
