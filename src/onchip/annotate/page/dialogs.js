// The questions that the page asks.

import { $, element, visible } from "./panels.js";
import { drawable } from "./sheet.js";

function closed(dialog) {
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(), { once: true }));
}

export function help() {
  $("help").showModal();
}

// Returns the number of a class, a new name, or null if nothing was chosen.
export async function askClass(title, names, color) {
  const [dialog, text, list] = [$("search"), $("search-text"), $("search-list")];
  $("search-title").textContent = title;
  text.value = "";
  let answer = null;
  let active = 0;
  let found = [];
  const finish = (value) => { answer = value; dialog.close(); };
  const paint = () => {
    const wanted = text.value.trim().toLowerCase();
    found = names.map((name, index) => ({ name, value: index, rank: name.toLowerCase().indexOf(wanted) }))
      .filter(({ rank }) => rank >= 0).sort((a, b) => Boolean(a.rank) - Boolean(b.rank) || a.value - b.value);
    if (wanted && !names.some((name) => name.toLowerCase() === wanted)) {
      found.push({ name: `Add “${text.value.trim()}” as class ${names.length}`, value: text.value.trim() });
    }
    active = Math.min(active, Math.max(0, found.length - 1));
    list.replaceChildren(...found.map(({ name, value }, i) => {
      const row = element("li", { class: "row", role: "option", id: `found-${i}`, "aria-selected": i === active, onclick: () => finish(value) },
        element("i"), element("b", { textContent: name }), element("small", { textContent: Number.isInteger(value) ? value : "" }));
      row.style.setProperty("--swatch", Number.isInteger(value) ? color(value) : "transparent");
      return row;
    }));
    text.setAttribute("aria-activedescendant", `found-${active}`);
    list.children[active]?.scrollIntoView({ block: "nearest" });
  };
  text.oninput = () => { active = 0; paint(); };
  text.onkeydown = (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) active = (active + step + found.length) % (found.length || 1);
    else if (event.key === "Enter" && found[active]) finish(found[active].value);
    else return;
    event.preventDefault();
    if (step) paint();
  };
  paint();
  dialog.showModal();
  await closed(dialog);
  return answer;
}

async function askText(dialog, text, value, allowed) {
  text.value = value;
  let answer = null;
  dialog.querySelector("form").onsubmit = (event) => {
    const given = allowed(text.value.trim());
    if (given === null) return event.preventDefault();
    answer = given;
  };
  dialog.showModal();
  text.select();
  await closed(dialog);
  return answer;
}

export async function askName(name) {
  $("rename-title").textContent = `Rename “${name}”`;
  return askText($("rename"), $("rename-text"), name, (text) => text || null);
}

// Returns the place of a photo in the list, or null. `names` are those of the list, in its order.
export async function askPlace(names) {
  const [text, said] = [$("goto-text"), $("goto-said")];
  const place = (wanted) => {
    const number = /^\d+$/.test(wanted) ? Number(wanted) : 0;
    if (number >= 1 && number <= names.length) return number - 1;
    const at = wanted ? names.findIndex((name) => name.toLowerCase().includes(wanted.toLowerCase())) : -1;
    return at < 0 ? null : at;
  };
  text.oninput = () => {
    const at = place(text.value.trim());
    said.textContent = at === null ? `There is no such photo among ${names.length}.` : `${at + 1}: ${visible(names[at])}`;
  };
  said.textContent = `1 to ${names.length}`;
  return askText($("goto"), text, "", place);
}

// Shows what the file says now and what is on the page; returns "theirs", "mine", "both" or null.
export async function askConflict(entry, theirs, mine, color) {
  const dialog = $("conflict");
  const many = (items) => `${items.length} ${items.length === 1 ? "box" : "boxes"}`;
  $("theirs-said").textContent = `In the file now: ${many(theirs)}`;
  $("mine-said").textContent = `On this page: ${many(mine)}`;
  let answer = null;
  for (const choice of ["theirs", "mine", "both", "none"]) {
    $(`take-${choice}`).onclick = () => { answer = choice === "none" ? null : choice; dialog.close(); };
  }
  dialog.showModal();
  sketch($("conflict-theirs"), entry, theirs, color);
  sketch($("conflict-mine"), entry, mine, color);
  $("take-both").focus();
  await closed(dialog);
  return answer;
}

function sketch(canvas, { bitmap, picture }, items, color) {
  canvas.width = canvas.clientWidth * devicePixelRatio;
  canvas.height = canvas.clientHeight * devicePixelRatio;
  const scale = Math.min(canvas.width / picture.width, canvas.height / picture.height);
  const brush = canvas.getContext("2d");
  brush.translate((canvas.width - picture.width * scale) / 2, (canvas.height - picture.height * scale) / 2);
  brush.drawImage(bitmap, 0, 0, picture.width * scale, picture.height * scale);
  brush.lineWidth = 2 * devicePixelRatio;
  for (const item of items.filter(drawable)) {
    brush.strokeStyle = color(item.index);
    brush.strokeRect(item.x1 * scale, item.y1 * scale, (item.x2 - item.x1) * scale, (item.y2 - item.y1) * scale);
  }
}
