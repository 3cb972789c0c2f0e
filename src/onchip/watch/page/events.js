// The list of events, newest first; their ids sort as they came. What happens while somebody reads further down waits above, so
// that nothing jumps.

import { colorOf } from "./colors.js";
import { $, capital, element, plural, said } from "./dom.js";
import { get } from "./net.js";
import { dateTimeOf, dayOf, lengthOf, percent, serverNow, timeOf } from "./words.js";

const PAGE = 40;
const KEPT = 400; // rows; at the top the oldest go, and come back by scrolling
const NEAR = 900; // pixels from the end at which more is asked for
const TOP = 24; // pixels from the top that count as the top

export const thumbOf = (event) => `/api/events/${encodeURIComponent(event.id)}/thumb.jpg?v=${event.score}-${event.box.join("-")}`;

export function lastedOf(event) {
  return event.end === null ? serverNow() - event.start : event.end - event.start;
}

function mark(row, current) {
  if (current) row.setAttribute("aria-current", "true");
  else row.removeAttribute("aria-current");
}

export class Events {
  constructor(tell) {
    this.tell = tell;
    this.filter = {};
    this.events = new Map(); // in the order of the list
    this.rows = new Map();
    this.held = new Map(); // new ones that wait above
    this.known = { camera: new Set(), label: new Set(), zone: new Set() };
    this.turn = 0;
    this.scroll = $("scroll");
    this.scroll.addEventListener("scroll", () => {
      if (this.atTop) this.release();
      this.fill();
    }, { passive: true });
    $("fresh").addEventListener("click", () => this.release(true));
    for (const kind of ["camera", "label", "zone"]) {
      $(`by-${kind}`).addEventListener("change", () => {
        const filter = { ...this.filter, [kind]: $(`by-${kind}`).value };
        const asked = new URLSearchParams(Object.entries(filter).filter(([, value]) => value));
        location.hash = `#events${asked.size ? `?${asked}` : ""}`;
      });
    }
    new ResizeObserver(() => this.fill()).observe(this.scroll);
    setInterval(() => this.tick(), 1000);
  }

  get atTop() {
    return this.scroll.scrollTop <= TOP;
  }

  get running() {
    return [...this.events.values()].filter((event) => event.end === null).length;
  }

  beside(id, by) {
    const ids = [...this.events.keys()];
    const at = ids.indexOf(id);
    return at < 0 ? undefined : ids[at + by];
  }

  // ---- what is listed

  choose(filter) {
    const same = JSON.stringify(filter) === JSON.stringify(this.filter);
    this.filter = filter;
    this.options();
    if (!same || !this.loaded) this.load();
  }

  fits(event) {
    const { camera, label, zone } = this.filter;
    return (!camera || event.camera === camera) && (!label || event.label === label) && (!zone || event.zones.includes(zone));
  }

  // Reads the newest again; what is there stays until it has come.
  async load() {
    const mine = ++this.turn;
    this.loaded = true;
    this.busy = true;
    this.say(this.events.size ? "" : "Loading …");
    const found = await this.ask(null);
    if (mine !== this.turn) return;
    this.busy = false;
    if (!found) return;
    this.held.clear();
    this.rows.clear(); // they may say what is over
    this.events = new Map(found.events.map((event) => [event.id, event]));
    this.end = !found.more;
    this.paint();
    this.scroll.scrollTop = 0;
  }

  async fill() {
    const { scrollHeight, scrollTop, clientHeight } = this.scroll;
    if (this.busy || this.end || !this.loaded || !clientHeight || scrollHeight - scrollTop - clientHeight > NEAR) return;
    const mine = this.turn;
    this.busy = true;
    const found = await this.ask([...this.events.keys()].at(-1));
    if (mine !== this.turn) return;
    this.busy = false;
    if (!found) return;
    for (const event of found.events) this.events.set(event.id, event);
    this.end = !found.more;
    this.paint();
  }

  async ask(before) {
    const asked = new URLSearchParams({ limit: PAGE });
    if (before) asked.set("before", before);
    for (const [name, value] of Object.entries(this.filter)) if (value) asked.set(name, value);
    try {
      return await get(`/api/events?${asked}`);
    } catch (failure) {
      this.say(said(failure));
      return null;
    }
  }

  // ---- what happens meanwhile

  heard(event) {
    this.learn(event);
    if (this.events.has(event.id)) {
      this.events.set(event.id, event);
      this.refresh(event);
    } else if (this.held.has(event.id)) this.held.set(event.id, event);
    else if (this.loaded && this.fits(event) && !this.older(event)) {
      this.held.set(event.id, event);
      if (this.atTop) this.release();
      else this.pill();
    }
    this.tell();
  }

  // Whether an event belongs below what has been read so far.
  older(event) {
    const last = [...this.events.values()].at(-1);
    return last !== undefined && !this.end && event.id < last.id;
  }

  gone(id) {
    this.held.delete(id);
    if (this.events.delete(id)) this.paint();
    this.pill();
    this.tell();
  }

  release(jump = false) {
    if (jump) this.scroll.scrollTop = 0;
    if (!this.held.size) return this.pill();
    const all = [...this.held.values(), ...this.events.values()].sort((a, b) => (a.id < b.id ? 1 : -1));
    if (all.length > KEPT) this.end = false;
    this.held.clear();
    this.events = new Map(all.slice(0, KEPT).map((event) => [event.id, event]));
    this.paint();
  }

  pill() {
    $("fresh").hidden = !this.held.size;
    $("fresh").textContent = `↑ ${plural(this.held.size, "new event")}`;
  }

  // ---- what is seen

  paint() {
    const items = [];
    let day = "";
    const rows = new Map();
    for (const event of this.events.values()) {
      if (dayOf(event.start) !== day) items.push(element("li", { class: "day", textContent: (day = dayOf(event.start)) }));
      const row = this.rows.get(event.id) ?? this.row(event);
      rows.set(event.id, row);
      items.push(row);
      this.learn(event);
    }
    this.rows = rows;
    const { scrollTop } = this.scroll;
    $("list").replaceChildren(...items);
    this.scroll.scrollTop = scrollTop;
    const nothing = Object.values(this.filter).some(Boolean) ? "No event is like that." : "Nothing has happened yet.";
    this.say(!this.events.size ? nothing : this.end ? "" : "Loading …");
    this.pill();
    this.options();
    this.tell();
    this.fill();
  }

  row(event) {
    const row = element("li", { class: "event" });
    this.rows.set(event.id, row);
    this.refresh(event);
    return row;
  }

  refresh(event) {
    const row = this.rows.get(event.id);
    const live = event.end === null;
    row.classList.toggle("live", live);
    row.style.setProperty("--swatch", colorOf(event.label));
    const image = row.querySelector("img") ?? element("img", { alt: "", loading: "lazy", decoding: "async",
      onerror: ({ target }) => this.failed(target), onload: ({ target }) => target.classList.remove("none") });
    const source = event.snapshot ? thumbOf(event) : "";
    if (source && image.getAttribute("src") !== source) image.src = source;
    if (!source) image.classList.add("none");
    const where = [event.camera, ...event.zones].join(" · ");
    const name = element("b", {}, element("i", { class: "swatch" }), capital(event.label));
    const lasted = element("span", { class: "lasted", textContent: lengthOf(lastedOf(event)) });
    const text = element("div", {},
      element("p", { class: "what" }, name, element("span", { class: "score", textContent: percent(event.score) })),
      element("p", { class: "where", textContent: where, title: where }),
      element("p", { class: "when" }, element("time", { textContent: timeOf(event.start), title: dateTimeOf(event.start),
        dateTime: new Date(event.start * 1000).toISOString() }), lasted));
    row.replaceChildren(element("a", { href: `#event/${encodeURIComponent(event.id)}` },
      element("span", { class: "thumb" }, image, ...(live ? [element("em", { textContent: "live" })] : [])), text));
    mark(row, event.id === this.current);
  }

  // Shows nothing rather than the sign of a broken picture; the next time it is asked for again.
  failed(image) {
    image.classList.add("none");
    image.removeAttribute("src");
  }

  mark(id) {
    this.current = id;
    for (const [own, row] of this.rows) mark(row, own === id);
  }

  // Running events grow longer by the second.
  tick() {
    for (const event of this.events.values()) {
      if (event.end !== null) continue;
      const place = this.rows.get(event.id)?.querySelector(".lasted");
      if (place) place.textContent = lengthOf(lastedOf(event));
    }
  }

  say(text) {
    $("list-end").textContent = text;
  }

  // ---- filters

  learn(event) {
    this.known.camera.add(event.camera);
    this.known.label.add(event.label);
    for (const zone of event.zones) this.known.zone.add(zone);
  }

  update({ cameras, labels = [] }) {
    for (const camera of cameras) {
      this.known.camera.add(camera.name);
      for (const zone of Object.keys(camera.zones)) this.known.zone.add(zone);
    }
    for (const label of labels) this.known.label.add(label);
    this.options();
  }

  options() {
    for (const [kind, all] of [["camera", "All cameras"], ["label", "All objects"], ["zone", "All zones"]]) {
      const place = $(`by-${kind}`);
      const value = this.filter[kind] ?? "";
      const names = [...new Set([...this.known[kind], value])].filter(Boolean).sort((a, b) => a.localeCompare(b));
      const key = JSON.stringify(names);
      if (place.dataset.key !== key) {
        place.dataset.key = key;
        place.replaceChildren(element("option", { value: "", textContent: all }),
          ...names.map((name) => element("option", { value: name, textContent: kind === "label" ? capital(name) : name })));
      }
      place.value = value;
      place.classList.toggle("set", Boolean(value));
      place.hidden = kind === "zone" && !names.length;
    }
  }
}
