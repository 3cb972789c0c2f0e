// The annotator: which photo is on the stage, and what happens to its boxes.
//
// Nothing is saved but by Space, N or Ctrl S. What was drawn and not saved is kept in the browser
// from the moment it is drawn until the server says that it is in the file.

import { actions } from "./actions.js";
import { Classes } from "./classes.js";
import * as drafts from "./drafts.js";
import { Folder } from "./folder.js";
import { listen } from "./keys.js";
import { Loader } from "./loader.js";
import { Model } from "./model.js";
import { begin, check, get, link } from "./net.js";
import { $, banner, blank, fillHelp, plural, said, showBoxes, toast } from "./panels.js";
import { Saving } from "./saving.js";
import { box, drawable, Sheet, snapped } from "./sheet.js";
import { View } from "./view.js";

const SHEETS = 60; // photos whose steps can be undone
const SLOW = 400; // milliseconds after which a photo that is still coming is said to be
const FRESH = 1000; // milliseconds for which labels that were read ahead are taken for true

class Annotator {
  constructor() {
    this.turn = 0;
    this.loading = false;
    this.sheets = new Map();
    this.sheet = null;
    this.entry = null;
    this.selected = null;
    this.proposals = [];
    this.folder = new Folder(this);
    this.classes = new Classes(this);
    this.saving = new Saving(this);
    this.model = new Model(this);
    this.view = new View($("photo"), $("boxes"), this.tells());
    this.loader = new Loader(() => {
      const { width, height } = this.view.stage;
      return { width: width * devicePixelRatio, height: height * devicePixelRatio };
    });
  }

  async start() {
    this.take(await begin());
    document.body.classList.toggle("has-model", this.folder.model);
    if (this.folder.model) $("order").value = "doubt"; // sorted as soon as the model has looked
    document.body.classList.remove("loading");
    await this.open(this.folder.start());
    if (this.folder.model) this.model.watch();
    await this.classes.count();
    if (!this.classes.names.length && !this.classes.fault) await this.classes.search("Name the first class");
  }

  take(facts) {
    this.folder.take(facts);
    this.classes.adopt(facts.classes);
  }

  // Looks again at what other programs may have changed meanwhile.
  async refresh() {
    const facts = await begin().catch(() => null);
    if (facts === null) return;
    this.take(facts);
    if (this.folder.at < 0) await this.open(0);
    else await this.reread();
    this.told();
    this.prepare();
  }

  // ---- going from photo to photo

  openPhoto(id) {
    const at = this.folder.sequence.indexOf(id);
    return at === this.folder.at ? undefined : this.open(at);
  }

  async open(at, pressed = null) {
    const id = this.folder.sequence[at];
    if (id === undefined) return;
    const mine = ++this.turn;
    this.stash();
    this.selected = this.sheet = this.saving.sure = null;
    this.proposals = [];
    this.folder.go(at);
    if (!this.folder.labellable(id)) return this.close(this.folder.photos.get(id).said);
    const entry = this.loader.get(id);
    if (!entry.done && !await this.arrived(entry, mine)) return;
    if (entry.damage) this.close(entry.damage);
    else this.present(entry, pressed);
    this.prepare();
    if (performance.now() - entry.asked > FRESH) await this.reread();
  }

  // Waits for a photo, on which nothing can be drawn before; returns whether it is still wanted.
  async arrived(entry, mine) {
    this.loading = true;
    this.view.size = null;
    this.told();
    const slow = setTimeout(() => mine === this.turn && this.empty("Loading …"), SLOW);
    try {
      await entry.ready;
    } catch (error) {
      if (mine === this.turn) this.close(error.message);
      return false;
    } finally {
      clearTimeout(slow);
      if (mine === this.turn) this.loading = false;
    }
    return mine === this.turn;
  }

  empty(why) {
    this.view.show(null, null);
    this.view.set([], [], null);
    blank(why);
  }

  // A photo that cannot be shown; the others go on.
  close(why) {
    this.loading = false;
    this.empty(why);
    this.told();
  }

  present(entry, pressed) {
    blank("");
    this.loading = false;
    this.entry = entry;
    this.loader.keep(entry.id);
    this.sheet = this.sheetOf(entry);
    this.view.show(entry.picture, entry.full ?? entry.bitmap);
    this.changed(this.sheet);
    this.view.now();
    if (pressed !== null) measured(pressed);
    if (entry.classes !== this.classes.version) this.classes.renew();
  }

  sheetOf(entry) {
    let sheet = this.sheets.get(entry.id);
    if (!sheet || (!sheet.dirty && sheet.version !== entry.labels.version)) {
      sheet = new Sheet(entry.id, entry.picture, entry.labels);
      const draft = this.folder.drafted.has(entry.id) ? drafts.take(entry.id) : null;
      if (draft) this.restore(sheet, draft);
    }
    this.sheets.delete(entry.id);
    this.sheets.set(entry.id, sheet);
    for (const [id, old] of this.sheets) {
      if (this.sheets.size <= SHEETS) break;
      if (old !== sheet && (!old.dirty || drafts.kept())) this.sheets.delete(id);
    }
    return sheet;
  }

  restore(sheet, draft) {
    const { version } = sheet;
    sheet.restore(draft);
    if (draft.names.join("\n") !== this.classes.names.join("\n")) sheet.renumber(this.classes.names);
    const time = new Date(draft.at).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
    if (sheet.dirty) toast(`Here is what was not saved at ${time}: ${plural(sheet.items.length, "box", "boxes")}.`);
    else sheet.version = version;
  }

  // Gets the photos ready that come next, and what the model says of this one.
  prepare() {
    const next = this.folder.coming();
    const before = this.folder.sequence[this.folder.at - 1];
    if (before && this.folder.labellable(before)) this.loader.get(before);
    for (const id of [...next].reverse()) this.loader.get(id);
    if (this.folder.model && this.sheet) this.model.ask(this.sheet.id, next);
  }

  // What was not saved stays a draft, and is said.
  stash() {
    const { sheet } = this;
    if (!sheet?.dirty) return;
    toast(`${this.folder.name(sheet.id)} is not saved; its boxes are kept as a draft.`);
  }

  async step(by, pressed = null) {
    const { left } = this.folder;
    const at = this.folder.beside(by);
    if (at >= 0) return this.open(at, pressed);
    if (by < 0) return toast("This is the first photo.");
    return toast(left ? `This is the last photo here; ${plural(left, "photo")} without labels left. U goes to one.`
      : "This is the last photo, and all are done.");
  }

  // Reads the boxes of this photo again, in case they are not what was read ahead.
  async reread() {
    const { sheet } = this;
    if (!sheet) return;
    const { version } = sheet;
    const facts = await get(`/api/labels/${sheet.id}`).catch(() => null);
    if (!facts || sheet !== this.sheet || this.saving.busy) return;
    if (sheet.version !== version) return; // saved meanwhile: this may be from before
    this.loader.renew(sheet.id, facts.labels);
    if (facts.classes !== this.classes.version) await this.classes.renew();
    if (facts.labels.version === sheet.version) return;
    if (sheet.dirty) {
      toast("Somebody else changed the labels of this photo. Saving will ask what to keep.");
      return;
    }
    this.sheet = this.sheetOf({ ...this.entry, labels: facts.labels });
    this.folder.mark(sheet.id, facts.labels.state);
    this.changed(this.sheet);
    toast("The labels of this photo were changed by another program; this is how they are now.");
  }

  // ---- boxes

  get chosen() {
    return this.sheet?.items.find((item) => item.id === this.selected && drawable(item)) ?? null;
  }

  edit(change) {
    const { sheet } = this;
    if (!sheet) return;
    if (sheet.locked) toast(sheet.fault, { bad: true });
    else {
      change(sheet);
      this.changed(sheet);
    }
  }

  // Whatever changed boxes ends here: the draft is kept before anything else can happen.
  changed(sheet) {
    if (sheet.dirty) drafts.keep(sheet.id, sheet.draft(this.classes.names));
    else drafts.drop(sheet.id);
    this.folder.draft(sheet.id, sheet.dirty);
    this.saving.sure = null;
    if (sheet !== this.sheet) return;
    this.painted();
    this.told();
  }

  shape(id, corners) {
    this.edit((sheet) => {
      const item = sheet.items.find((one) => one.id === id);
      if (!item) return; // it was removed while it was moved
      const { index, name } = item;
      sheet.edit(id, { ...corners, name: name ?? this.classes.names[index] ?? null });
    });
  }

  async drew(corners) {
    if (!this.classes.names.length && !await this.classes.search("Name the first class")) {
      toast("A box needs a class.");
      return;
    }
    const { current: index, name } = this.classes;
    this.edit((sheet) => sheet.add(box({ ...corners, index, name })));
  }

  chose(id) {
    this.selected = id;
    const item = this.chosen;
    if (item && item.index !== null && item.index < this.classes.names.length) this.classes.current = item.index;
    this.painted();
    this.classes.show();
    if (item) this.view.reveal(item);
  }

  refuse() {
    toast("This is a polygon. Remove it and draw a box in its place.");
  }

  // ---- classes: a box keeps the name that it was given

  classify(index, name) {
    const item = this.chosen;
    if (item && item.index !== index) this.edit((sheet) => sheet.classify(item.id, index, name));
  }

  renumber(names) {
    for (const sheet of this.sheets.values()) sheet.renumber(names);
    this.model.found.clear();
  }

  renamed(before, after) {
    for (const sheet of this.sheets.values()) sheet.rename(before, after);
  }

  async reclassed() {
    if (!this.sheet) return;
    this.changed(this.sheet);
    if (!this.folder.model) return;
    this.model.found.clear();
    await this.model.ask(this.sheet.id, []);
  }

  // ---- what is seen

  painted() {
    const { sheet } = this;
    if (!sheet) return;
    const ask = this.folder.model && !sheet.locked;
    this.proposals = ask ? this.model.open(sheet.id, sheet.items, sheet.size) : [];
    this.view.set(sheet.items, this.proposals, this.selected);
    showBoxes(sheet.items, this.proposals, this.selected, {
      title: (item) => this.classes.title(item),
      color: (index) => this.classes.color(index),
      choose: (id) => this.chose(id),
      remove: (id) => this.edit(() => sheet.remove(id)),
      accept: (proposal) => this.accept([proposal]),
    });
    $("undo-button").disabled = !sheet.past.length;
    $("redo-button").disabled = !sheet.future.length;
  }

  // The line at the bottom, and the name of the stage for those who hear it.
  told() {
    const { sheet, folder } = this;
    const { said: note } = folder.photos.get(folder.id) ?? {};
    const size = sheet ? `${sheet.size.width} × ${sheet.size.height}` : "";
    const state = sheet?.dirty ? "not saved" : folder.word(folder.id);
    const text = [`${folder.at + 1} / ${folder.sequence.length}`, folder.name(folder.id), size, state,
      sheet?.size.note, sheet && note].filter(Boolean).join(" · ");
    $("where").textContent = $("where").title = text;
    $("boxes").setAttribute("aria-label", `Photo ${text}${sheet ? `, ${plural(sheet.items.length, "box", "boxes")}` : ""}`);
    if (!sheet) {
      showBoxes([], [], null, {});
      $("undo-button").disabled = $("redo-button").disabled = true;
    }
    if (link.state !== "good") return;
    if (sheet?.locked) banner(`${sheet.fault}. They are shown and kept, not edited.`);
    else banner(this.classes.fault);
  }

  pointed(x, y) {
    const { width, height } = this.sheet?.size ?? {};
    const inside = x !== null && x >= 0 && y >= 0 && x <= width && y <= height;
    $("cursor").textContent = inside ? `${Math.floor(x)}, ${Math.floor(y)}` : "";
  }

  async closer() {
    const { entry } = this;
    const full = await this.loader.sharpen(entry).catch(() => null);
    if (full && entry === this.entry) this.view.sharpen(full);
  }

  tells() {
    return {
      drew: (corners) => this.drew(corners),
      changed: (id, corners) => this.shape(id, corners),
      chose: (id) => this.chose(id),
      accepted: (proposal) => this.accept([proposal]),
      refused: () => this.refuse(),
      at: (x, y) => this.pointed(x, y),
      zoomed: (scale) => { $("zoom").textContent = `${scale < 0.1 ? (100 * scale).toFixed(1) : Math.round(100 * scale)} %`; },
      closer: () => this.closer(),
      color: (index) => this.classes.color(index),
      title: (item) => this.classes.title(item),
      current: () => (this.classes.names.length ? this.classes.current : null),
    };
  }

  // ---- the model

  proposed(id) {
    if (this.sheet?.id !== id) return;
    const { fault } = this.model.found.get(id) ?? {};
    if (fault) toast(`The model saw nothing here: ${fault}`, { bad: true });
    this.painted();
  }

  doubted() {
    this.folder.again();
  }

  looked(done, total) {
    $("model").textContent = done < total ? `The model has looked at ${done} of ${total}.` : `The model has looked at all ${total}.`;
  }

  accept(proposals) {
    if (!proposals.length) {
      toast(this.folder.model ? "Nothing is proposed here." : "There is no model; start with --model best.onnx.");
      return;
    }
    const { names } = this.classes;
    const known = proposals.filter((p) => p.index !== null);
    const strange = [...new Set(proposals.filter((p) => p.index === null).map((p) => p.name))];
    if (known.length) {
      this.edit((sheet) => sheet.add(...known.map((p) => {
        const { x1, y1, x2, y2 } = snapped(p, sheet.size) ?? p;
        return box({ x1, y1, x2, y2, index: p.index, name: names[p.index] });
      })));
    }
    if (!strange.length) return;
    const add = [strange.length > 1 ? "Add them" : "Add it", () => this.learn(strange)];
    toast(`Not in the list of classes: ${strange.join(", ")}.`, { stay: 9000, action: add });
  }

  async learn(names) {
    for (const name of names) if (!await this.classes.call(this.classes.names.length, name)) return;
    toast(`Added: ${names.join(", ")}. Enter takes over what is proposed.`);
  }
}

// Notes how long it took from a key to the next photo on the screen, for whoever wants to know
// (benchmarks/annotate.py): the frame after this one is when it is seen.
function measured(pressed) {
  requestAnimationFrame(() => {
    const channel = new MessageChannel();
    channel.port1.onmessage = () => performance.measure("shown", { start: pressed, end: performance.now() });
    channel.port2.postMessage(null);
  });
}

// ---- beginning

function unreachable(app) {
  const kept = drafts.kept() ? "What you drew is kept in this browser." : "Leave this page open: this browser keeps nothing.";
  const { again } = app.folder.facts ?? {};
  if (link.state === "lost") banner(`The server does not answer. ${kept} Start it again, and this page goes on:`, again);
  const how = app.folder.facts?.password ? "Give the password in another tab" : "Open the newest link of its terminal in this browser";
  if (link.state === "closed") banner(`The server no longer knows this page; it may have been started anew. ${kept}\n${how}, and this page goes on.`);
  if (link.state === "other") banner(`Another folder is served at this address now. ${kept}\nThis page goes on when its own folder is served here again:`, again);
}

function connect(app) {
  link.addEventListener("change", () => unreachable(app));
  link.addEventListener("back", async () => {
    banner("");
    if (link.restarted) app.model.reset();
    await app.refresh();
    if (!app.sheet) await app.open(Math.max(0, app.folder.at));
    toast("Connected again.");
  });
  document.addEventListener("visibilitychange", async () => {
    if (document.visibilityState !== "visible") return;
    await check();
    if (link.state === "good") await app.refresh();
  });
  addEventListener("beforeunload", (event) => {
    const open = [...app.sheets.values()].some((sheet) => sheet.dirty);
    if (open && !drafts.kept()) event.preventDefault();
  });
}

function press(app) {
  const does = actions(app);
  listen(does, app.view);
  const buttons = ["save", "negative", "next", "back", "undo", "redo", "goto", "search", "accept", "help"];
  for (const name of buttons) $(`${name}-button`).addEventListener("click", (event) => does[name](event));
  for (const id of ["filter", "order"]) {
    $(id).addEventListener("change", () => {
      $(id).blur();
      app.folder.arrange();
    });
  }
}

const app = new Annotator();
fillHelp();
connect(app);
press(app);
$("boxes").focus({ preventScroll: true });
app.start().catch((error) => {
  document.body.classList.remove("loading");
  if (link.state === "good") banner(said(error));
  else unreachable(app);
});
