// The cameras: a tile for each, with the newest picture, what was found on it, and how it is.

import { bright, colorOf } from "./colors.js";
import { $, capital, element } from "./dom.js";
import { Pictures } from "./net.js";
import { lengthOf, number, serverNow } from "./words.js";

const WIDTHS = [320, 480, 640, 960, 1280, 1920]; // as the server rounds them
const MISSED = 0.25; // the part of what is due that nobody looks at, from which a camera is behind
const OLD = 4000; // milliseconds after which a picture's age is said

const MOVING = "M4 8c2-2 4-2 6 0s4 2 6 0M4 13c2-2 4-2 6 0s4 2 6 0";

class Tile {
  constructor(name, changed) {
    this.name = name;
    this.picture = null;
    this.header = null;
    this.state = null;
    this.canvas = element("canvas", { role: "img", "aria-label": `${name}: no picture yet` });
    this.trouble = element("div", { class: "trouble", id: `trouble-${name}` });
    this.figures = element("span", { class: "figures" });
    this.moving = svg(MOVING, "Something moves");
    this.box = element("article", { class: "tile" },
      element("a", { class: "screen", href: `#live/${encodeURIComponent(name)}`, "aria-label": `${name}: show it large`, "aria-describedby": this.trouble.id },
        this.canvas, this.trouble),
      element("div", { class: "caption" },
        element("i", { class: "dot" }), element("b", { textContent: name }), this.moving, this.figures));
    this.seen = new ResizeObserver(() => {
      this.draw();
      changed();
    });
    this.seen.observe(this.canvas);
  }

  get width() {
    return this.canvas.clientWidth * Math.min(2, devicePixelRatio);
  }

  show(header, bitmap) {
    this.picture?.close();
    Object.assign(this, { header, picture: bitmap });
    this.box.style.setProperty("--shape", header.size[0] / header.size[1]);
    this.draw();
    this.tell();
  }

  update(state) {
    this.state = state;
    this.box.dataset.state = state.part.state;
    const [wide, tall] = state.size;
    if (!this.picture && wide && tall) this.box.style.setProperty("--shape", wide / tall);
    this.tell();
  }

  // Milliseconds since the picture on the screen was taken.
  get age() {
    return this.header ? this.header.age + performance.now() - this.header.heard : Infinity;
  }

  tell() {
    const { state } = this;
    if (!state) return;
    const { part } = state;
    const fine = part.state === "ok";
    this.moving.hidden = !(fine && state.motion);
    const old = fine && this.picture && this.age > OLD;
    const rate = `${number(state.detect_fps, state.detect_fps < 10 ? 1 : 0)} of ${number(state.wanted_fps)} fps`;
    const age = old ? `${lengthOf(this.age / 1000)} old` : `${number(state.age_ms[0])} ms`;
    const text = fine ? `${rate} · ${age}` : { starting: "connecting", failing: "not reached" }[part.state];
    if (this.figures.textContent !== text) this.figures.textContent = text;
    this.figures.title = fine ? `Looked at ${rate}. The camera sends ${number(state.fps, 1)} a second; boxes are known `
      + `${number(state.age_ms[0])} ms after the picture (at worst ${number(state.age_ms[1])} ms in the last minute).` : "";
    this.box.classList.toggle("late", old || (fine && state.missed_fps > MISSED * state.wanted_fps));
    this.explain(part);
    const what = this.header?.sightings.map((s) => s.label).join(", ") || "nothing found";
    this.canvas.setAttribute("aria-label", this.picture ? `${this.name}: ${what}` : `${this.name}: no picture yet`);
  }

  explain({ state, message, hint, retry }) {
    if (state === "ok" && this.picture) return this.trouble.replaceChildren();
    const lines = [element("b", { textContent: capital(message) || "Waiting for a picture …" })];
    if (hint) lines.push(element("p", { textContent: capital(hint) }));
    if (retry !== null) {
      const left = retry - serverNow();
      lines.push(element("p", { class: "retry", textContent: left > 1 ? `Trying again in ${lengthOf(left)}` : "Trying again now" }));
    }
    this.trouble.replaceChildren(...lines);
  }

  draw() {
    const scale = Math.min(2, devicePixelRatio);
    const { canvas, picture, header } = this;
    const wide = Math.round(canvas.clientWidth * scale);
    const tall = Math.round(canvas.clientHeight * scale);
    if (!picture || !wide || !tall) return;
    if (canvas.width !== wide || canvas.height !== tall) Object.assign(canvas, { width: wide, height: tall });
    const ink = canvas.getContext("2d");
    const size = Math.min(wide / picture.width, tall / picture.height);
    const [w, h] = [picture.width * size, picture.height * size];
    ink.clearRect(0, 0, wide, tall);
    ink.save();
    ink.translate((wide - w) / 2, (tall - h) / 2);
    ink.drawImage(picture, 0, 0, w, h);
    if ($("show-zones").checked && this.state) zones(ink, this.state.zones, w, h, scale);
    if ($("show-boxes").checked) for (const seen of header.sightings) outline(ink, seen, w, h, scale);
    ink.restore();
  }

  close() {
    this.seen.disconnect();
    this.picture?.close();
    this.box.remove();
  }
}

function svg(path, title) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  made.setAttribute("viewBox", "0 0 20 20");
  made.setAttribute("class", "moving");
  made.setAttribute("role", "img");
  made.setAttribute("aria-label", title);
  const line = document.createElementNS("http://www.w3.org/2000/svg", "path");
  line.setAttribute("d", path);
  made.append(line);
  Object.defineProperty(made, "hidden", { set(value) { made.toggleAttribute("hidden", value); } });
  return made;
}

function zones(ink, all, w, h, scale) {
  ink.font = `600 ${11 * scale}px system-ui, sans-serif`;
  ink.lineWidth = 1.5 * scale;
  for (const [name, points] of Object.entries(all)) {
    ink.beginPath();
    for (const [x, y] of points) ink.lineTo(x * w, y * h);
    ink.closePath();
    ink.fillStyle = "rgb(255 255 255 / .09)";
    ink.fill();
    ink.setLineDash([6 * scale, 4 * scale]);
    ink.strokeStyle = "rgb(255 255 255 / .8)";
    ink.stroke();
    ink.setLineDash([]);
    const [x, y] = points.reduce((low, point) => (point[1] > low[1] ? point : low));
    ink.textBaseline = "bottom";
    ink.textAlign = x > 0.5 ? "right" : "left";
    ink.shadowColor = "rgb(0 0 0 / .9)";
    ink.shadowBlur = 3 * scale;
    ink.fillStyle = "#fff";
    ink.fillText(name, x * w + (x > 0.5 ? -6 : 6) * scale, y * h - 5 * scale);
    ink.shadowBlur = 0;
    ink.textAlign = "left";
  }
}

function outline(ink, { label, score, box: [x1, y1, x2, y2], still, event }, w, h, scale) {
  const color = colorOf(label);
  ink.lineWidth = (event ? 2.5 : 1.5) * scale;
  ink.strokeStyle = color;
  ink.setLineDash(still ? [5 * scale, 4 * scale] : []);
  ink.strokeRect(x1 * w, y1 * h, (x2 - x1) * w, (y2 - y1) * h);
  ink.setLineDash([]);
  const text = `${label} ${Math.round(score * 100)}`;
  ink.font = `600 ${11 * scale}px system-ui, sans-serif`;
  const tall = 16 * scale;
  const wide = ink.measureText(text).width + 8 * scale;
  const x = Math.max(0, Math.min(x1 * w - ink.lineWidth / 2, w - wide));
  const y = y1 * h >= tall ? y1 * h - tall : y1 * h;
  ink.fillStyle = color;
  ink.fillRect(x, y, wide, tall);
  ink.fillStyle = bright(color) ? "#000" : "#fff";
  ink.textBaseline = "middle";
  ink.fillText(text, x + 4 * scale, y + tall / 2 + scale / 2);
}

export class Live {
  constructor(failed) {
    this.tiles = new Map();
    this.one = null;
    this.open = false;
    this.pictures = new Pictures((header, bitmap) => {
      const tile = this.tiles.get(header.camera);
      if (tile) tile.show(header, bitmap);
      else bitmap.close();
    }, failed);
    for (const name of ["show-boxes", "show-zones"]) {
      $(name).checked = localStorage.getItem(name) !== "no" && (name === "show-boxes" || localStorage.getItem(name) === "yes");
      $(name).addEventListener("change", () => {
        localStorage.setItem(name, $(name).checked ? "yes" : "no");
        for (const tile of this.tiles.values()) tile.draw();
      });
    }
    document.addEventListener("visibilitychange", () => this.ask());
    setInterval(() => {
      if (this.open) for (const tile of this.tiles.values()) tile.tell();
    }, 1000);
  }

  get names() {
    return [...this.tiles.keys()];
  }

  update({ cameras }) {
    const names = new Set(cameras.map((camera) => camera.name));
    for (const [name, tile] of this.tiles) {
      if (names.has(name)) continue;
      tile.close();
      this.tiles.delete(name);
    }
    for (const camera of cameras) {
      let tile = this.tiles.get(camera.name);
      if (!tile) {
        tile = new Tile(camera.name, () => this.ask());
        this.tiles.set(camera.name, tile);
        $("grid").append(tile.box);
      }
      tile.update(camera);
    }
    $("no-cameras").hidden = cameras.length > 0;
    this.arrange();
  }

  // Shows all cameras, or one large; nothing is asked for while nobody sees it.
  show(open, one = null) {
    Object.assign(this, { open, one });
    this.arrange();
  }

  arrange() {
    const one = this.tiles.has(this.one) ? this.one : null;
    for (const [name, tile] of this.tiles) tile.box.hidden = one !== null && name !== one;
    $("grid").classList.toggle("one", one !== null);
    $("grid").dataset.count = one ? 1 : this.tiles.size;
    $("all-cameras").hidden = one === null;
    $("live-title").textContent = one ?? "Cameras";
    this.ask();
  }

  ask() {
    if (!this.open || document.hidden) return this.pictures.stop();
    const seen = [...this.tiles.values()].filter((tile) => !tile.box.hidden && tile.width);
    const width = Math.max(0, ...seen.map((tile) => tile.width));
    this.pictures.want(seen.map((tile) => tile.name), WIDTHS.find((w) => w >= width * 0.9) ?? WIDTHS.at(-1));
  }

  beside(by) {
    const { names } = this;
    const at = names.indexOf(this.one);
    return at < 0 ? null : names[(at + by + names.length) % names.length];
  }
}
