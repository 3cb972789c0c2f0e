// The boxes of one photo: what was read, what was drawn since, and the way back. Nothing here
// touches the page or the network.
//
// A box is frozen; editing makes a new one. Corners are in pixels of the upright photo.
//   key      the row of the label file that it still is, null once it was edited or if it is new
//   was      the row that an edited box came from
//   index    its class; null where the list has no such class any more, or the row has none
//   name     what that class was called when the box was drawn or edited; null for untouched rows
//   polygon  its row is an outline: it can be kept, deleted and given a class, not moved
//   x1 … y2  null where the row cannot be read; `why` says what is wrong with it

const STEPS = 200; // of undo, for each photo
let ids = 0;

export const box = (fields) => Object.freeze({
  id: ++ids, key: null, was: null, index: null, name: null, polygon: false, why: "",
  x1: null, y1: null, x2: null, y2: null, ...fields,
});

export const drawable = (item) => item.x1 !== null;
export const area = (b) => (b.x2 - b.x1) * (b.y2 - b.y1);

export function overlap(a, b) {
  const wide = Math.min(a.x2, b.x2) - Math.max(a.x1, b.x1);
  const tall = Math.min(a.y2, b.y2) - Math.max(a.y1, b.y1);
  if (wide <= 0 || tall <= 0) return 0;
  return (wide * tall) / (area(a) + area(b) - wide * tall);
}

// Puts a box inside the photo, on whole pixels; null where nothing is left of it.
export function snapped(b, size) {
  const within = (v, most) => Math.min(most, Math.max(0, Math.round(v)));
  const [x1, x2] = [within(b.x1, size.width), within(b.x2, size.width)].sort((a, c) => a - c);
  const [y1, y2] = [within(b.y1, size.height), within(b.y2, size.height)].sort((a, c) => a - c);
  return x2 > x1 && y2 > y1 ? { x1, y1, x2, y2 } : null;
}

// Moves a box without changing its size, as far as the photo reaches.
export function moved(b, dx, dy, size) {
  const x = Math.min(Math.max(Math.round(dx), -Math.round(b.x1)), size.width - Math.round(b.x2));
  const y = Math.min(Math.max(Math.round(dy), -Math.round(b.y1)), size.height - Math.round(b.y2));
  return { x1: b.x1 + x, y1: b.y1 + y, x2: b.x2 + x, y2: b.y2 + y };
}

function fromRow(row, size) {
  const { key, index, polygon, why } = row;
  if (!row.box) return box({ key, index, why });
  const [cx, cy, w, h] = row.box;
  return box({
    key, index, polygon, why,
    x1: (cx - w / 2) * size.width, y1: (cy - h / 2) * size.height,
    x2: (cx + w / 2) * size.width, y2: (cy + h / 2) * size.height,
  });
}

function toRow(item, size) {
  if (!drawable(item)) return { key: item.key };
  const part = (v) => Math.min(1, Math.max(0, v));
  const x1 = part(item.x1 / size.width), x2 = part(item.x2 / size.width);
  const y1 = part(item.y1 / size.height), y2 = part(item.y2 / size.height);
  const numbers = { box: [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], index: item.index };
  if (item.key !== null) return { key: item.key, ...(item.index === null ? {} : numbers) };
  return item.was === null ? numbers : { was: item.was, ...numbers };
}

export class Sheet {
  constructor(id, size, labels) {
    this.id = id;
    this.size = size;
    this.past = [];
    this.future = [];
    this.read(labels);
    this.items = this.saved;
  }

  read(labels) {
    this.version = labels.version;
    this.state = labels.state;
    this.fault = labels.fault;
    this.saved = labels.rows.map((row) => fromRow(row, this.size));
  }

  get dirty() {
    const { items, saved } = this;
    return items.length !== saved.length
      || items.some((item, i) => item.key === null || item.key !== saved[i].key);
  }

  get locked() {
    return this.fault !== "";
  }

  // All boxes whose class is not known, which cannot be saved like that.
  get lost() {
    return this.items.filter((item) => item.key === null && item.index === null);
  }

  change(items) {
    this.past.push(this.items);
    if (this.past.length > STEPS) this.past.shift();
    this.future = [];
    this.items = items;
  }

  add(...items) {
    this.change([...this.items, ...items]);
  }

  remove(id) {
    this.change(this.items.filter((item) => item.id !== id));
  }

  // An edited box is no longer its row, but remembers it.
  edit(id, fields) {
    this.change(this.items.map((item) => (item.id === id
      ? Object.freeze({ ...item, was: item.key ?? item.was, key: null, why: "", ...fields })
      : item)));
  }

  // A polygon given another class stays the same polygon: its line says so after the number.
  classify(id, index, name) {
    const item = this.items.find((one) => one.id === id);
    if (item.polygon && item.key !== null) {
      const key = item.key.replace(/^\s*\S+/, String(index));
      this.change(this.items.map((one) => (one === item
        ? Object.freeze({ ...one, key, index, name: null }) : one)));
    } else {
      this.edit(id, { index, name });
    }
  }

  undo() {
    if (!this.past.length) return false;
    this.future.push(this.items);
    this.items = this.past.pop();
    return true;
  }

  redo() {
    if (!this.future.length) return false;
    this.past.push(this.items);
    this.items = this.future.pop();
    return true;
  }

  // What is sent to be saved.
  rows() {
    return this.items.map((item) => toRow(item, this.size));
  }

  // Takes note that `items` are in the file now, in whichever order it has them. Earlier steps keep
  // their boxes, which are known by their new rows from here on, so that undoing a step is no
  // change by itself.
  wrote(items, labels) {
    const settled = this.items === items;
    this.read(labels);
    const rows = new Set(this.saved);
    const [known, places] = [new Map(), new Map()];
    const pair = (fits) => {
      for (const item of items) {
        const row = known.has(item) ? null : [...rows].find((one) => fits(item, one));
        if (!row) continue;
        rows.delete(row);
        known.set(item, Object.freeze({ ...row, id: item.id }));
        places.set(row, known.get(item));
      }
    };
    pair((item, row) => item.key === row.key);
    pair(same);
    const renew = (list) => list.map((item) => known.get(item) ?? item);
    this.saved = this.saved.map((row) => places.get(row) ?? row);
    this.items = settled ? this.saved : renew(this.items);
    this.past = this.past.map(renew);
    this.future = this.future.map(renew);
  }

  // Every box keeps the name that it was given, whatever number that has in another list.
  renumber(names) {
    const numbers = new Map(names.map((name, i) => [name, i]));
    const renew = (item) => (item.name === null ? item
      : Object.freeze({ ...item, index: numbers.get(item.name) ?? null }));
    const all = (list) => list.map(renew);
    this.items = all(this.items);
    this.past = this.past.map(all);
    this.future = this.future.map(all);
  }

  // The same for a class that was called something else.
  rename(before, after) {
    const renew = (item) => (item.name === before ? Object.freeze({ ...item, name: after }) : item);
    const all = (list) => list.map(renew);
    this.items = all(this.items);
    this.past = this.past.map(all);
    this.future = this.future.map(all);
  }

  // Joins what somebody else saved with what is here. What they added is added; what they took
  // away goes, unless it was edited here; nothing that was drawn here goes.
  merged(labels) {
    const theirs = new Sheet(this.id, this.size, labels).items;
    const [base, there] = [this.saved, theirs].map((list) => new Set(list.map((i) => i.key)));
    const mine = this.items.filter((i) => i.key === null || there.has(i.key) || !base.has(i.key));
    const here = new Set(this.items.map((i) => i.key));
    const added = theirs.filter((i) => !base.has(i.key) && !here.has(i.key)
      && !mine.some((m) => same(m, i)));
    return [...mine, ...added];
  }

  draft(names) {
    return { version: this.version, state: this.state, saved: this.saved, items: this.items, names };
  }

  // Takes up what was kept in the browser; the file may have changed since, which the save notices.
  restore(draft) {
    const again = (list) => list.map((item) => box({ ...item, id: ++ids }));
    this.version = draft.version;
    this.state = draft.state;
    this.saved = again(draft.saved);
    this.change(again(draft.items));
  }
}

const same = (a, b) => drawable(a) && drawable(b) && a.index === b.index
  && ["x1", "y1", "x2", "y2"].every((c) => Math.abs(a[c] - b[c]) < 0.5);
