// What keys and buttons do to boxes and to the view.

import { askPlace, help } from "./dialogs.js";
import { $, plural, toast } from "./panels.js";
import { box, drawable, moved, Sheet, snapped } from "./sheet.js";

// Gives up what is being drawn, or else the choice of a box, or else the changes of this photo.
async function leave(app) {
  const { sheet } = app;
  if (app.view.cancel()) return;
  if (app.selected !== null) return app.chose(null);
  if (sheet?.dirty) {
    app.edit(() => sheet.change(sheet.saved));
    toast(`${app.folder.name(sheet.id)} was left without saving.`, {
      stay: 8000,
      action: ["Undo", async () => {
        await app.openPhoto(sheet.id);
        undo(app);
      }],
    });
  }
  await app.step(1);
}

function undo(app) {
  app.edit((sheet) => sheet.undo() || toast("There is nothing to undo."));
}

function redo(app) {
  app.edit((sheet) => sheet.redo() || toast("There is nothing to do again."));
}

function removeChosen(app) {
  const id = app.selected;
  if (id === null) return false;
  app.selected = null;
  app.edit((sheet) => sheet.remove(id));
  return true;
}

function removeLast(app) {
  if (removeChosen(app)) return;
  const last = app.sheet?.items.filter(drawable).at(-1);
  if (last) app.edit((sheet) => sheet.remove(last.id));
  else toast("There is no box to remove.");
}

function choose(app, step) {
  const items = app.sheet?.items.filter(drawable) ?? [];
  if (!items.length) return;
  const at = items.findIndex((item) => item.id === app.selected);
  const first = step > 0 ? 0 : items.length - 1;
  app.chose(items[at < 0 ? first : (at + step + items.length) % items.length].id);
}

// Moves or resizes the chosen box; without one, left and right are the photos beside this one.
// Returns whether the key meant anything.
function arrow(app, dx, dy, resize) {
  const item = app.chosen;
  if (!item) {
    if (resize) return false;
    app.step(Math.sign(dx || dy));
    return true;
  }
  if (item.polygon) {
    app.refuse();
    return true;
  }
  const { size } = app.sheet;
  const x2 = Math.max(item.x1 + 1, item.x2 + dx);
  const y2 = Math.max(item.y1 + 1, item.y2 + dy);
  const to = resize ? snapped({ ...item, x2, y2 }, size) : moved(item, dx, dy, size);
  if (to) app.shape(item.id, to);
  return true;
}

async function addMiddle(app) {
  const corners = app.sheet && app.view.middle();
  if (!corners) return;
  await app.drew(corners);
  const last = app.sheet?.items.at(-1);
  if (last) app.chose(last.id);
}

async function copy(app) {
  const { sheet } = app;
  const before = app.folder.beside(-1);
  if (!sheet) return;
  if (before < 0) return toast("There is no photo before this one.");
  const id = app.folder.sequence[before];
  const entry = await app.loader.get(id).ready.catch(() => null);
  if (!entry?.picture || sheet !== app.sheet) return;
  const from = app.sheets.get(id) ?? new Sheet(id, entry.picture, entry.labels);
  const [wide, tall] = [sheet.size.width / from.size.width, sheet.size.height / from.size.height];
  const copies = from.items.filter((i) => drawable(i) && i.index !== null).map((i) => box({
    index: i.index, name: app.classes.names[i.index] ?? null,
    x1: i.x1 * wide, x2: i.x2 * wide, y1: i.y1 * tall, y2: i.y2 * tall,
  }));
  if (!copies.length) return toast("The photo before has no boxes.");
  app.edit(() => sheet.add(...copies));
  toast(`Copied ${plural(copies.length, "box", "boxes")}.`);
}

function unlabelled(app) {
  const at = app.folder.nextUnlabelled();
  return at < 0 ? toast("Every other photo here has labels.") : app.open(at);
}

async function goto(app) {
  const at = await askPlace(app.folder.sequence.map((id) => app.folder.photos.get(id).name));
  if (at !== null) await app.open(at);
}

async function order(app) {
  if (!app.folder.model) return toast("There is no model to ask; start with --model best.onnx.");
  $("order").value = app.folder.byDoubt ? "name" : "doubt";
  await app.folder.arrange();
  toast(app.folder.byDoubt ? "Least sure first." : "In the order of their names.");
}

function brighter() {
  const { classList } = $("photo");
  const next = { "": "bright", bright: "brighter", brighter: "" }[classList.value];
  classList.value = next;
  toast({ "": "As it is.", bright: "Brighter.", brighter: "Much brighter." }[next], { stay: 1500 });
}

function toggle(app, what, words) {
  toast(`${words} ${app.view.toggle(what) ? "on" : "off"}.`, { stay: 1500 });
}

// By the names that keys.js and the buttons use.
export const actions = (app) => ({
  save: (event) => app.saving.save(event.timeStamp),
  stay: () => app.saving.save(null, true),
  negative: (event) => app.saving.negative(event.timeStamp),
  leave: () => leave(app),
  next: (event) => app.step(1, event.timeStamp),
  back: (event) => app.step(-1, event.timeStamp),
  first: () => app.open(0),
  final: () => app.open(app.folder.sequence.length - 1),
  unlabelled: () => unlabelled(app),
  goto: () => goto(app),
  order: () => order(app),
  last: () => removeLast(app),
  remove: () => removeChosen(app),
  choose: () => choose(app, 1),
  chooseBack: () => choose(app, -1),
  arrow: (dx, dy, resize) => arrow(app, dx, dy, resize),
  digit: (n) => app.classes.choose(n),
  middle: () => addMiddle(app),
  copy: () => copy(app),
  undo: () => undo(app),
  redo: () => redo(app),
  search: () => app.classes.search(),
  rename: () => app.classes.rename(),
  accept: () => app.accept(app.proposals),
  closer: () => app.view.zoom(1.25),
  farther: () => app.view.zoom(0.8),
  fit: () => app.view.fit(),
  boxes: () => toggle(app, "boxes", "Boxes"),
  titles: () => toggle(app, "titles", "Names"),
  proposals: () => toggle(app, "proposals", "Proposals"),
  cross: () => toggle(app, "cross", "Crosshair"),
  brighter,
  help,
});
