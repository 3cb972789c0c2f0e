// The stage: the photo on one canvas, the boxes on another above it, and what the pointer does.
//
// "photo pixels" are those of the upright photo in full; "stage pixels" are CSS pixels of the
// canvas. stage = photo * scale + (left, top).

import { area, drawable, moved, snapped } from "./sheet.js";

const CLICK = 4; // stage pixels that a click may wander
const GRIP = 7; // half the side in which a handle is caught
const MARGIN = 16; // around a photo that is shown whole
const CLOSEST = 40; // stage pixels per photo pixel
const DARK = "rgb(0 0 0 / .55)";
const FONT = "600 12px 'Segoe UI', Roboto, 'Helvetica Neue', 'Liberation Sans', sans-serif";
const SIDES = [["x1", "y1"], ["x2", "y1"], ["x2", "y2"], ["x1", "y2"],
  [null, "y1"], ["x2", null], [null, "y2"], ["x1", null]];
const CURSORS = ["nwse", "nesw", "nwse", "nesw", "ns", "ew", "ns", "ew"];

export class View {
  // `told` has: drew(box), changed(id, box), chose(id), accepted(proposal), at(x, y), zoomed(scale),
  // closer(), color(index), title(item), refused(item).
  constructor(photo, boxes, told) {
    this.canvas = { photo, boxes };
    this.told = told;
    this.size = null;
    this.items = [];
    this.proposals = [];
    this.selected = null;
    this.shows = { boxes: true, titles: true, proposals: true, cross: true };
    this.scale = 1;
    this.left = this.top = 0;
    this.fitting = true;
    this.pointer = null;
    this.drag = null;
    this.hand = false;
    this.stale = { photo: false, boxes: false };
    this.stage = { width: boxes.clientWidth, height: boxes.clientHeight };
    new ResizeObserver(() => this.resize()).observe(boxes);
    this.listen(boxes);
  }

  listen(on) {
    on.addEventListener("pointerdown", (e) => this.down(e));
    on.addEventListener("pointermove", (e) => this.move(e));
    on.addEventListener("pointerup", (e) => this.up(e));
    on.addEventListener("pointercancel", () => this.cancel());
    on.addEventListener("pointerleave", () => this.leave());
    on.addEventListener("wheel", (e) => this.wheel(e), { passive: false });
    on.addEventListener("contextmenu", (e) => e.preventDefault());
    on.addEventListener("auxclick", (e) => e.preventDefault());
  }

  // ---- what is shown

  // Shows a photo, whole; a size without a bitmap is one that is still being loaded.
  show(size, bitmap) {
    this.size = size;
    this.bitmap = bitmap;
    this.drag = null;
    this.fit();
  }

  sharpen(bitmap) {
    this.bitmap = bitmap;
    this.paint("photo");
  }

  set(items, proposals, selected) {
    Object.assign(this, { items, proposals, selected });
    this.paint("boxes");
  }

  toggle(what) {
    this.shows[what] = !this.shows[what];
    this.paint("boxes");
    return this.shows[what];
  }

  // ---- where things are

  get best() {
    const { width, height } = this.stage;
    return Math.max(0.001, Math.min((width - 2 * MARGIN) / this.size.width,
      (height - 2 * MARGIN) / this.size.height));
  }

  fit() {
    this.fitting = true;
    if (!this.size) return this.paint("photo", "boxes");
    const { width, height } = this.stage;
    this.scale = this.best;
    this.left = (width - this.size.width * this.scale) / 2;
    this.top = (height - this.size.height * this.scale) / 2;
    this.viewed();
  }

  zoom(factor, at = null) {
    if (!this.size) return;
    const { width, height } = this.stage;
    const { x, y } = at ?? { x: width / 2, y: height / 2 };
    const least = Math.min(1, this.best) / 2;
    const scale = Math.min(CLOSEST, Math.max(least, this.scale * factor));
    this.left = x - ((x - this.left) * scale) / this.scale;
    this.top = y - ((y - this.top) * scale) / this.scale;
    this.scale = scale;
    this.fitting = false;
    this.viewed();
  }

  pan(dx, dy) {
    this.left += dx;
    this.top += dy;
    this.fitting = false;
    this.viewed();
  }

  // Moves the photo so that a box can be seen, for those who go through boxes by keyboard.
  reveal(item) {
    if (!drawable(item)) return;
    const { width, height } = this.stage;
    const [a, b] = [this.toStage(item.x1, item.y1), this.toStage(item.x2, item.y2)];
    const off = (low, high, most) => (high < 0 || low > most ? most / 2 - (low + high) / 2 : 0);
    const [dx, dy] = [off(a.x, b.x, width), off(a.y, b.y, height)];
    if (dx || dy) this.pan(dx, dy);
  }

  viewed() {
    const { width, height } = this.stage;
    const keep = 40; // of the photo stays in sight, however far it is moved
    this.left = Math.min(width - keep, Math.max(keep - this.size.width * this.scale, this.left));
    this.top = Math.min(height - keep, Math.max(keep - this.size.height * this.scale, this.top));
    if (this.bitmap && this.scale * devicePixelRatio > 1.15 * (this.bitmap.width / this.size.width)) {
      this.told.closer();
    }
    this.told.zoomed(this.scale);
    this.paint("photo", "boxes");
  }

  toStage(x, y) {
    return { x: x * this.scale + this.left, y: y * this.scale + this.top };
  }

  toPhoto({ x, y }) {
    return { x: (x - this.left) / this.scale, y: (y - this.top) / this.scale };
  }

  // The middle of what is seen, as a box for those who draw by keyboard.
  middle() {
    const { width, height } = this.stage;
    const a = this.toPhoto({ x: width * 0.4, y: height * 0.4 });
    const b = this.toPhoto({ x: width * 0.6, y: height * 0.6 });
    return snapped({ x1: a.x, y1: a.y, x2: b.x, y2: b.y }, this.size);
  }

  // ---- the pointer

  point(event) {
    const place = this.canvas.boxes.getBoundingClientRect();
    return { x: event.clientX - place.left, y: event.clientY - place.top };
  }

  down(event) {
    if (!this.size || !this.bitmap || this.drag) return;
    this.canvas.boxes.focus({ preventScroll: true });
    const at = this.point(event);
    const start = this.toPhoto(at);
    const kept = { id: event.pointerId, at, start, far: false };
    if (event.button === 1 || event.button === 2 || this.hand) {
      this.drag = { ...kept, kind: "pan" };
    } else if (event.button === 0) {
      this.drag = { ...kept, ...this.grasp(at, event) };
    } else {
      return;
    }
    event.preventDefault();
    this.canvas.boxes.setPointerCapture(event.pointerId);
    this.pointOut();
  }

  // What a press begins: pulling a handle or moving the chosen box, or else a new box.
  grasp(at, event) {
    const item = this.chosen();
    if (item && !event.ctrlKey && !event.metaKey) {
      const side = this.handle(item, at);
      if (side >= 0) return { kind: "pull", item, side, box: item };
      if (this.inside(item, at)) return { kind: "move", item, box: item };
    }
    return { kind: "draw", box: null };
  }

  move(event) {
    this.pointer = this.point(event);
    const { drag } = this;
    if (drag && drag.id === event.pointerId) this.pull(drag);
    if (this.size) {
      const { x, y } = this.toPhoto(this.pointer);
      this.told.at(x, y);
    }
    this.pointOut();
    this.paint("boxes");
  }

  pull(drag) {
    const { x, y } = this.pointer;
    drag.far ||= Math.hypot(x - drag.at.x, y - drag.at.y) >= CLICK;
    if (drag.kind === "pan") {
      this.pan(x - (drag.last ?? drag.at).x, y - (drag.last ?? drag.at).y);
      drag.last = this.pointer;
    } else if (drag.far) {
      drag.box = this.shape(drag, this.toPhoto(this.pointer)) ?? drag.box;
    }
  }

  // The box as it would be if the pointer were let go now.
  shape({ kind, start, item, side }, to) {
    if (kind === "draw") return snapped({ x1: start.x, y1: start.y, x2: to.x, y2: to.y }, this.size);
    const [dx, dy] = [to.x - start.x, to.y - start.y];
    if (kind === "move") return moved(item, dx, dy, this.size);
    const [across, along] = SIDES[side];
    const { x1, y1, x2, y2 } = item;
    const pulled = { x1, y1, x2, y2 };
    if (across) pulled[across] += dx;
    if (along) pulled[along] += dy;
    return snapped(pulled, this.size);
  }

  up(event) {
    const { drag } = this;
    if (!drag || drag.id !== event.pointerId) return;
    this.pointer = this.point(event);
    this.pull(drag);
    this.drag = null;
    if (drag.kind === "pan") return this.pointOut();
    if (!drag.far) this.click(drag.at);
    else if (drag.kind === "draw") drag.box && this.told.drew(drag.box);
    else if (drag.item.polygon) this.told.refused(drag.item);
    else this.told.changed(drag.item.id, drag.box);
    this.pointOut();
    this.paint("boxes");
  }

  // Chooses the smallest box there; a click again, the next larger one. A proposal is accepted.
  click(at) {
    const own = this.shows.boxes ? this.items.filter(drawable) : [];
    const offered = this.shows.proposals ? this.proposals : [];
    const there = [...own, ...offered].filter((b) => this.inside(b, at, 3));
    there.sort((a, b) => area(a) - area(b));
    const next = (there.findIndex((b) => b.id === this.selected) + 1) % (there.length || 1);
    const hit = there[next];
    if (!hit) this.told.chose(null);
    else if (offered.includes(hit)) this.told.accepted(hit);
    else this.told.chose(hit.id);
  }

  // Gives up what is being drawn; says whether there was anything.
  cancel() {
    const was = this.drag !== null;
    this.drag = null;
    this.pointOut();
    this.paint("boxes");
    return was;
  }

  leave() {
    this.pointer = null;
    this.told.at(null, null);
    this.paint("boxes");
  }

  wheel(event) {
    event.preventDefault();
    if (!this.size) return;
    const lines = event.deltaMode === 1 ? 16 : 1;
    const rate = event.ctrlKey ? 0.01 : 0.0016; // a pinch sends small steps
    this.zoom(Math.exp(-event.deltaY * lines * rate), this.point(event));
  }

  grab(hand) {
    this.hand = hand;
    this.pointOut();
  }

  chosen() {
    if (!this.shows.boxes) return null;
    return this.items.find((i) => i.id === this.selected && drawable(i)) ?? null;
  }

  inside(b, at, slack = 0) {
    const [low, high] = [this.toStage(b.x1, b.y1), this.toStage(b.x2, b.y2)];
    return at.x >= low.x - slack && at.x <= high.x + slack
      && at.y >= low.y - slack && at.y <= high.y + slack;
  }

  handles(b) {
    const [low, high] = [this.toStage(b.x1, b.y1), this.toStage(b.x2, b.y2)];
    const [x, y] = [(low.x + high.x) / 2, (low.y + high.y) / 2];
    return [[low.x, low.y], [high.x, low.y], [high.x, high.y], [low.x, high.y],
      [x, low.y], [high.x, y], [x, high.y], [low.x, y]];
  }

  handle(b, at) {
    const near = ([x, y]) => Math.abs(at.x - x) <= GRIP && Math.abs(at.y - y) <= GRIP;
    return this.handles(b).findIndex(near);
  }

  pointOut() {
    const item = this.pointer && this.chosen();
    const side = item ? this.handle(item, this.pointer) : -1;
    let cursor = "crosshair";
    if (this.drag?.kind === "pan") cursor = "grabbing";
    else if (this.hand) cursor = "grab";
    else if (side >= 0) cursor = `${CURSORS[side]}-resize`;
    else if (item && this.inside(item, this.pointer)) cursor = "move";
    this.canvas.boxes.style.cursor = cursor;
  }

  // ---- painting, once for each frame in which something changed

  resize() {
    const { clientWidth: width, clientHeight: height } = this.canvas.boxes;
    this.stage = { width, height }; // asking for it in every frame would lay out the page each time
    for (const canvas of Object.values(this.canvas)) {
      canvas.width = Math.round(canvas.clientWidth * devicePixelRatio);
      canvas.height = Math.round(canvas.clientHeight * devicePixelRatio);
    }
    if (this.fitting) this.fit();
    else this.viewed();
    this.now();
  }

  paint(...layers) {
    for (const layer of layers) this.stale[layer] = true;
    this.frame ??= requestAnimationFrame(() => this.now());
  }

  now() {
    cancelAnimationFrame(this.frame);
    this.frame = null;
    if (this.stale.photo) this.paintPhoto(this.brush("photo"));
    if (this.stale.boxes) this.paintBoxes(this.brush("boxes"));
    this.stale = { photo: false, boxes: false };
  }

  brush(layer) {
    const brush = this.canvas[layer].getContext("2d");
    brush.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    const { width, height } = this.stage;
    brush.clearRect(0, 0, width, height);
    return brush;
  }

  paintPhoto(brush) {
    if (!this.bitmap) return;
    const { width, height } = this.size;
    brush.imageSmoothingEnabled = this.scale * devicePixelRatio < 3;
    brush.imageSmoothingQuality = "high";
    brush.drawImage(this.bitmap, this.left, this.top, width * this.scale, height * this.scale);
  }

  paintBoxes(brush) {
    if (!this.size) return;
    brush.font = FONT;
    brush.textBaseline = "middle";
    if (this.shows.proposals) for (const p of this.proposals) this.paintProposal(brush, p);
    const own = this.shows.boxes ? this.items.filter(drawable) : [];
    const now = (item) => (this.drag?.item === item ? { ...item, ...this.drag.box } : item);
    for (const item of own) if (item.id !== this.selected) this.paintBox(brush, item);
    const chosen = this.chosen();
    if (chosen) this.paintChosen(brush, now(chosen));
    if (this.drag?.kind === "draw" && this.drag.box) this.paintNew(brush, this.drag.box);
    if (this.shows.cross && this.pointer && !this.hand) this.paintCross(brush);
  }

  paintBox(brush, item) {
    this.frameOf(brush, item, this.told.color(item.index), 2);
    if (this.shows.titles) this.tag(brush, item, this.told.title(item), this.told.color(item.index));
  }

  paintChosen(brush, item) {
    const color = this.told.color(item.index);
    const [low, high] = [this.toStage(item.x1, item.y1), this.toStage(item.x2, item.y2)];
    brush.globalAlpha = 0.16;
    brush.fillStyle = color;
    brush.fillRect(low.x, low.y, high.x - low.x, high.y - low.y);
    brush.globalAlpha = 1;
    this.frameOf(brush, item, color, 2.5);
    if (this.shows.titles) this.tag(brush, item, this.told.title(item), color);
    for (const [x, y] of item.polygon ? [] : this.handles(item)) {
      brush.fillStyle = DARK;
      brush.fillRect(x - 5, y - 5, 10, 10);
      brush.fillStyle = "#fff";
      brush.fillRect(x - 4, y - 4, 8, 8);
      brush.fillStyle = color;
      brush.fillRect(x - 2, y - 2, 4, 4);
    }
  }

  paintProposal(brush, p) {
    brush.setLineDash([7, 5]);
    this.frameOf(brush, p, this.told.color(p.index), 2);
    brush.setLineDash([]);
    if (this.shows.titles) {
      this.tag(brush, p, `${p.name}${p.index === null ? " (not in the list)" : ""} ${p.score.toFixed(2)}`,
        this.told.color(p.index), true);
    }
  }

  paintNew(brush, box) {
    const color = this.told.color(this.told.current());
    this.frameOf(brush, box, color, 2);
    this.tag(brush, box, `${box.x2 - box.x1} × ${box.y2 - box.y1}`, color);
  }

  // A dark line under the coloured one keeps it apart from any photo.
  frameOf(brush, b, color, wide) {
    const [low, high] = [this.toStage(b.x1, b.y1), this.toStage(b.x2, b.y2)];
    for (const [style, line] of [[DARK, wide + 2], [color, wide]]) {
      brush.strokeStyle = style;
      brush.lineWidth = line;
      brush.strokeRect(low.x, low.y, high.x - low.x, high.y - low.y);
    }
  }

  tag(brush, b, text, color, hollow = false) {
    const [low, high] = [this.toStage(b.x1, b.y1), this.toStage(b.x2, b.y2)];
    const { width, height } = this.stage;
    const [wide, tall] = [Math.ceil(brush.measureText(text).width) + 10, 18];
    if (high.x < 0 || low.x > width || high.y < 0 || low.y > height) return;
    const x = Math.min(Math.max(low.x - 1, 0), Math.max(0, width - wide));
    const above = low.y - tall - 1;
    const y = above >= 0 ? above : Math.max(low.y + 1, 0);
    brush.fillStyle = hollow ? "rgb(16 18 20 / .8)" : color;
    brush.beginPath();
    brush.roundRect(x, y, wide, tall, 3);
    brush.fill();
    brush.fillStyle = hollow ? "#fff" : ink(color);
    brush.fillText(text, x + 5, y + tall / 2 + 0.5);
  }

  paintCross(brush) {
    const { width, height } = this.stage;
    const x = Math.round(this.pointer.x) + 0.5;
    const y = Math.round(this.pointer.y) + 0.5;
    brush.beginPath();
    brush.moveTo(x, 0);
    brush.lineTo(x, height);
    brush.moveTo(0, y);
    brush.lineTo(width, y);
    brush.lineWidth = 1;
    brush.strokeStyle = "rgb(0 0 0 / .45)";
    brush.stroke();
    brush.setLineDash([3, 3]);
    brush.strokeStyle = "rgb(255 255 255 / .9)";
    brush.stroke();
    brush.setLineDash([]);
  }
}

// Black or white, whichever is read better on a colour.
export function ink(color) {
  const [r, g, b] = color.match(/\d+/g).map(Number);
  return 0.3 * r + 0.59 * g + 0.11 * b > 140 ? "#000" : "#fff";
}
