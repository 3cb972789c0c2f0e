// How everything is: what limits it, how busy chip and processor are, the room on the disk, and each
// part and camera.

import { $, capital, element, plural, said } from "./dom.js";
import { dateTimeOf, lengthOf, number, percent, serverNow, sizeOf } from "./words.js";

const PAST = 90; // states that are remembered: three minutes
const NAMES = { chip: "Chip", disk: "Disk", broker: "Broker", page: "Page" };

export class Status {
  constructor(signOut) {
    this.signOut = signOut;
    this.past = { load: [], processor: [] };
    this.password = false;
  }

  update(state) {
    this.state = state;
    for (const [name, values] of Object.entries(this.past)) {
      values.push(state[name]);
      if (values.length > PAST) values.shift();
    }
    if (this.open) this.paint();
  }

  show(open) {
    this.open = open;
    if (open && this.state) this.paint();
  }

  paint() {
    const { state } = this;
    const room = state.stored_bytes + state.free_bytes;
    const limit = element("p", { class: "limit" }, element("span", { textContent: "What limits it" }), element("b", { textContent: capital(state.limit) || "Nothing." }));
    const cards = element("div", { class: "cards" },
      card("Chip", percent(state.load), "busy", [`${state.chip_ms ? `${number(state.chip_ms, 1)} ms a picture` : "no picture yet"}, ${number(state.chip_fps, 1)} a second`,
        [state.chip, state.model].filter(Boolean).join(" · ")], state.load, this.past.load),
      card("Processor", percent(state.processor), "busy", ["of all cores of this machine"], state.processor, this.past.processor),
      card("Events", number(state.events), "kept", [`${sizeOf(state.stored_bytes)} of pictures and video`, `${sizeOf(state.free_bytes)} free`],
        room ? state.stored_bytes / room : 0));
    const parts = element("ul", { class: "parts" }, ...state.parts.map((one) => part(one)));
    const rows = element("ul", { class: "parts" }, ...state.cameras.map((one) => camera(one)));
    const body = [limit, cards, element("h3", { textContent: "Parts" }), parts, element("h3", { textContent: "Cameras" }), rows];
    if (this.password) body.push(element("p", { class: "out" }, element("button", { type: "button", textContent: "Sign out", onclick: this.signOut })));
    const focused = document.activeElement?.textContent === "Sign out";
    $("status-body").replaceChildren(...body);
    if (focused) $("status-body").querySelector(".out button")?.focus();
  }
}

export const troubles = (state) =>
  [...state.parts, ...state.cameras.map((one) => one.part)].filter((one) => one.state === "failing").length;

function card(name, value, unit, lines, part, past = null) {
  const bar = element("div", { class: "gauge" }, element("i"));
  bar.firstChild.style.width = `${Math.min(1, part) * 100}%`;
  bar.classList.toggle("full", part > 0.9);
  return element("section", { class: "card", "aria-label": name }, element("h3", { textContent: name }),
    element("p", { class: "big" }, element("b", { textContent: value }), ` ${unit}`), past && past.length > 4 ? curve(past) : "", bar,
    ...lines.filter(Boolean).map((text) => element("p", { textContent: text })));
}

function curve(values) {
  const space = "http://www.w3.org/2000/svg";
  const made = document.createElementNS(space, "svg");
  made.setAttribute("viewBox", `0 0 ${PAST - 1} 24`);
  made.setAttribute("preserveAspectRatio", "none");
  made.setAttribute("class", "curve");
  made.setAttribute("aria-hidden", "true");
  const line = document.createElementNS(space, "polyline");
  const from = PAST - values.length;
  line.setAttribute("points", values.map((value, at) => `${from + at},${23 - 22 * Math.min(1, value)}`).join(" "));
  made.append(line);
  return made;
}

function part(one, more = []) {
  const state = { ok: "working", starting: "starting", failing: "not working" }[one.state];
  const since = one.since ? `for ${lengthOf(serverNow() - one.since)}` : "";
  const lines = [said(one)].filter(Boolean).map((text) => element("p", { textContent: text }));
  if (one.retry !== null) {
    const left = one.retry - serverNow();
    lines.push(element("p", { textContent: left > 1 ? `Trying again in ${lengthOf(left)}.` : "Trying again now." }));
  }
  return element("li", {}, dot(one.state), element("b", { textContent: NAMES[one.name] ?? one.name }),
    element("span", { class: "since", textContent: `${state} ${since}`.trim(), title: one.since ? `since ${dateTimeOf(one.since)}` : "" }),
    ...lines, ...more);
}

function camera(one) {
  const [wide, tall] = one.size;
  const figures = one.part.state === "ok" ? [
    wide ? `${wide} × ${tall}` : "", `sends ${number(one.fps, 1)} fps`, `looked at ${number(one.detect_fps, 1)} of ${number(one.wanted_fps, 1)} fps`,
    `boxes after ${number(one.age_ms[0])} ms, at worst ${number(one.age_ms[1])}`, plural(one.objects, "object"), one.motion ? "motion" : "no motion",
  ].filter(Boolean).join(" · ") : "";
  return part(one.part, figures ? [element("p", { textContent: figures })] : []);
}

function dot(state) {
  const made = element("i", { class: "dot" });
  made.dataset.state = state;
  return made;
}
