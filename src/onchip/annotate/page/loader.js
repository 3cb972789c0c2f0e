// Gets photos ready before they are wanted: their boxes, and a picture decoded off the main thread
// at the size of the stage. A few are kept; the full size is decoded for the photo on the screen
// alone, and only when somebody zooms in.

import { blob, get } from "./net.js";

const MOST = 7; // photos that are kept
const SPARE = 1.1; // how much larger than the stage a picture is decoded

// Whether a picture has the shape that its photo has when upright.
function upright({ bitmap, picture }) {
  const skew = (bitmap.width * picture.height) / (bitmap.height * picture.width);
  return Math.abs(skew - 1) < 0.02 || Math.min(bitmap.width, bitmap.height) < 64;
}

export class Loader {
  constructor(fitted) {
    this.fitted = fitted; // () => width and height of the stage in device pixels
    this.entries = new Map();
  }

  // Returns the entry of a photo; `ready` resolves when its boxes and its picture are there.
  get(id) {
    let entry = this.entries.get(id);
    if (!entry) {
      entry = { id, stop: new AbortController(), full: null, asked: performance.now() };
      entry.ready = this.load(entry);
      entry.ready.catch(() => this.entries.get(id) === entry && this.entries.delete(id));
    }
    this.entries.delete(id); // to the end: the ones used longest ago go first
    this.entries.set(id, entry);
    this.shrink();
    return entry;
  }

  async load(entry) {
    const facts = await get(`/api/labels/${entry.id}`, entry.stop.signal);
    Object.assign(entry, { labels: facts.labels, classes: facts.classes, damage: facts.damage });
    if (facts.damage) return entry;
    entry.picture = facts.picture;
    const address = `/api/photo/${entry.id}?v=${facts.tag}`;
    try {
      await this.fetch(entry, address);
      // A browser that turns photos in another way gets one that is upright as training sees it.
      if (!upright(entry)) await this.fetch(entry, `${address}&upright`);
    } catch (error) {
      if (error.name === "AbortError" || error.status !== undefined) throw error;
      entry.damage = "This photo is damaged or cut short: the browser cannot decode it.";
    }
    entry.done = true;
    return entry;
  }

  async fetch(entry, address) {
    entry.blob = await blob(address, entry.stop.signal);
    entry.bitmap?.close();
    entry.bitmap = await this.decode(entry, this.size(entry.picture));
  }

  size({ width, height }) {
    const stage = this.fitted();
    const scale = SPARE * Math.min(stage.width / width, stage.height / height);
    if (scale >= 1) return null;
    return { width: Math.max(1, Math.round(width * scale)), height: Math.max(1, Math.round(height * scale)) };
  }

  async decode(entry, size) {
    const small = size ? { resizeWidth: size.width, resizeHeight: size.height, resizeQuality: "medium" } : {};
    const made = await createImageBitmap(entry.blob, { imageOrientation: "from-image", ...small });
    if (entry.stop.signal.aborted) made.close();
    entry.stop.signal.throwIfAborted();
    return made;
  }

  // The picture in full, for looking closely.
  async sharpen(entry) {
    if (entry.full || entry.sharpening || !entry.bitmap || !this.size(entry.picture)) return null;
    entry.sharpening = true;
    try {
      entry.full = await this.decode(entry, null);
      return entry.full;
    } finally {
      entry.sharpening = false;
    }
  }

  // The photo on the stage is not dropped, and it alone may be held in full.
  keep(id) {
    this.shown = id;
    for (const entry of this.entries.values()) {
      if (entry.id === id || !entry.full) continue;
      entry.full.close();
      entry.full = null;
    }
  }

  // Boxes that were read again replace those that were read ahead.
  renew(id, labels) {
    const entry = this.entries.get(id);
    if (entry?.labels) entry.labels = labels;
  }

  forget(id) {
    const entry = this.entries.get(id);
    if (!entry) return;
    this.entries.delete(id);
    this.free(entry);
  }

  clear() {
    for (const id of [...this.entries.keys()]) this.forget(id);
  }

  shrink() {
    for (const [id, entry] of this.entries) {
      if (this.entries.size <= MOST) return;
      if (id !== this.shown) {
        this.entries.delete(id);
        this.free(entry);
      }
    }
  }

  free(entry) {
    entry.stop.abort();
    entry.bitmap?.close();
    entry.full?.close();
    Object.assign(entry, { bitmap: null, full: null, blob: null });
  }
}
