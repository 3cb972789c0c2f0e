// What stands around the stage: lists, numbers, messages. It shows what it is given and tells what
// was pressed; it decides nothing.

import { $, element, plural, said } from "./dom.js";
import { GROUPS } from "./keys.js";
import { drawable } from "./sheet.js";

export { $, element, plural, said };

// Lists are painted after the frame that shows the photo, each once however often it changed: the
// next photo does not wait for them.
const waiting = new Map();

function soon(name, work) {
  if (!waiting.size) requestAnimationFrame(() => setTimeout(paintAll));
  waiting.set(name, work);
}

function paintAll() {
  const works = [...waiting.values()];
  waiting.clear();
  for (const work of works) work();
}

// ---- photos: as many rows as can be seen, however many photos there are

const TALL = 28;

export class PhotoList {
  constructor(chosen) {
    this.box = $("photos");
    this.list = this.box.firstElementChild;
    this.chosen = chosen;
    this.rows = [];
    this.at = -1;
    this.box.addEventListener("scroll", () => this.fill());
    new ResizeObserver(() => this.fill()).observe(this.box);
    this.list.addEventListener("click", (event) => {
      const row = event.target.closest("li");
      if (row) chosen(Number(row.dataset.at));
    });
  }

  // `rows` are functions' results later: state(id) and photo(id) are asked for rows that are seen.
  set(ids, photo) {
    Object.assign(this, { rows: ids, photo });
    this.paint();
  }

  select(at) {
    this.at = at;
    this.moved = true;
    this.paint();
  }

  paint() {
    soon("photos", () => {
      this.list.style.height = `${this.rows.length * TALL}px`;
      if (this.moved) this.scroll();
      this.fill();
    });
  }

  scroll() {
    this.moved = false;
    const { scrollTop, clientHeight } = this.box;
    const top = this.at * TALL;
    if (top < scrollTop + TALL || top > scrollTop + clientHeight - 3 * TALL) {
      this.box.scrollTop = top - clientHeight / 2 + TALL;
    }
  }

  fill() {
    const first = Math.max(0, Math.floor(this.box.scrollTop / TALL) - 4);
    const last = Math.min(this.rows.length, first + Math.ceil(this.box.clientHeight / TALL) + 9);
    const rows = [];
    for (let at = first; at < last; at++) rows.push(this.row(at));
    this.list.replaceChildren(...rows);
    this.box.setAttribute("aria-activedescendant", `photo-${this.at}`);
  }

  row(at) {
    const { name, state, fault, note } = this.photo(this.rows[at]);
    const row = element("li", {
      id: `photo-${at}`, role: "option", title: [name, fault || note].filter(Boolean).join("\n"),
      "aria-selected": at === this.at, "aria-posinset": at + 1, "aria-setsize": this.rows.length,
      class: fault ? "fault" : "",
    });
    row.style.top = `${at * TALL}px`;
    row.dataset.at = at;
    const words = { labelled: "labelled", negative: "negative", draft: "not saved yet" };
    const dot = element("span", { class: `state ${fault ? "" : state}` });
    dot.setAttribute("role", "img");
    dot.setAttribute("aria-label", fault ? "cannot be labelled" : words[state] ?? "not labelled");
    row.append(dot, element("b", { textContent: visible(name) }));
    if (fault || note) row.append(element("em", { textContent: "!", "aria-label": fault || note }));
    return row;
  }
}

// Names may hold anything; what would break a line or turn its direction is shown as a sign.
export const visible = (name) => name.replace(/[\p{Cc}\u2028\u2029\u202a-\u202e\u2066-\u2069]/gu, "␤");

// ---- classes

export function showClasses(...given) {
  soon("classes", () => paintClasses(...given));
}

function paintClasses(names, counts, current, color, choose) {
  const rows = names.map((name, index) => {
    const row = element("button", {
      type: "button", class: "row", role: "option", title: name, tabIndex: -1,
      "aria-selected": index === current, onclick: () => choose(index),
    },
    element("i"), element("b", { textContent: name }),
    element("small", { textContent: counts.get(index) || "", title: "boxes in this folder" }),
    element("kbd", { textContent: index < 10 ? index : "" }));
    row.style.setProperty("--swatch", color(index));
    return row;
  });
  if (!rows.length) rows.push(element("p", { class: "empty", textContent: "No classes yet. Press / to add the first." }));
  $("classes").replaceChildren(...rows);
  $("classes").children[current]?.scrollIntoView({ block: "nearest" });
}

// ---- boxes of one photo

export function showBoxes(...given) {
  soon("boxes", () => paintBoxes(...given));
}

function paintBoxes(items, proposals, selected, tells) {
  const own = items.map((item) => {
    const odd = !drawable(item);
    const row = element("button", {
      type: "button", class: "row", title: item.why, disabled: odd, onclick: () => tells.choose(item.id),
    },
    element("i"), element("b", { textContent: odd ? `kept as it is: ${item.why}` : tells.title(item) }),
    element("small", { textContent: odd ? "" : sized(item) }));
    if (item.id === selected) row.setAttribute("aria-current", "true");
    row.style.setProperty("--swatch", tells.color(item.index));
    const remove = element("button", {
      type: "button", class: "remove", textContent: "✕", title: "Remove",
      "aria-label": `Remove ${tells.title(item)}`, onclick: () => tells.remove(item.id),
    });
    return element("div", { class: odd ? "item odd" : "item", role: "listitem" }, row, remove);
  });
  const offered = proposals.map((p) => {
    const row = element("button", {
      type: "button", class: "row", title: "Take over", onclick: () => tells.accept(p),
    },
    element("i", { class: "dashed" }),
    element("b", { textContent: p.name + (p.index === null ? " (not in the list)" : "") }),
    element("small", { textContent: p.score.toFixed(2) }));
    row.style.setProperty("--swatch", tells.color(p.index));
    return element("div", { class: "item", role: "listitem" }, row);
  });
  $("list").replaceChildren(...own, ...offered);
  $("list").querySelector("[aria-current]")?.scrollIntoView({ block: "nearest" });
  $("count").textContent = items.length || "";
  const button = $("accept-button");
  button.hidden = !proposals.length;
  button.replaceChildren(`Take over ${proposals.length} proposed `, element("kbd", { textContent: "Enter" }));
}

const sized = (b) => `${Math.round(b.x2 - b.x1)} × ${Math.round(b.y2 - b.y1)}`;

// ---- messages

// Says something for a while; `action` is [text, function]. Returns what takes it away.
export function toast(text, { bad = false, action = null, stay = bad ? 9000 : 4500 } = {}) {
  const made = element("div", { class: bad ? "toast bad" : "toast" }, element("span", { textContent: text }));
  const away = () => made.remove();
  if (action) {
    made.append(element("button", { type: "button", textContent: action[0], onclick: () => { away(); action[1](); } }));
  }
  $("toasts").append(made);
  while ($("toasts").children.length > 3) $("toasts").firstElementChild.remove();
  setTimeout(away, stay);
  return away;
}

export function banner(text, command = "") {
  const place = $("banner");
  place.hidden = !text;
  if (!text) return;
  const said = element("span", { textContent: text });
  if (command) said.append(" ", element("code", { textContent: command }));
  place.replaceChildren(said);
}

export function blank(text) {
  $("blank").hidden = !text;
  $("blank").textContent = text;
}

export function progress(done, total) {
  const bar = $("progress");
  bar.setAttribute("aria-valuemax", total);
  bar.setAttribute("aria-valuenow", done);
  bar.firstElementChild.style.transform = `scaleX(${total ? done / total : 0})`;
  $("done").textContent = `${done} of ${total} done`;
}

export function fillHelp() {
  const sections = GROUPS.map(([title, rows]) => element("section", {}, element("h3", { textContent: title }),
    element("dl", {}, ...rows.filter(([shown]) => shown).flatMap(([shown, , , text]) => [
      element("dt", {}, ...shown.split(" · ").flatMap((key, i) => [i ? " " : "", element("kbd", { textContent: key })])),
      element("dd", { textContent: text }),
    ]))));
  $("keys").replaceChildren(...sections);
}
