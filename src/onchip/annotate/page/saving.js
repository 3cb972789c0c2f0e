// Saving, and all that can come of it. A box is a draft until the server says that it is in the file.

import { askConflict } from "./dialogs.js";
import { get, link, send } from "./net.js";
import { plural, said, toast } from "./panels.js";
import { Sheet } from "./sheet.js";

export class Saving {
  constructor(app) {
    this.app = app;
    this.busy = false;
    this.sure = null; // what the next press of the same key confirms
  }

  // Something that may not be meant: the same key again confirms it.
  confirmed(what, text) {
    if (this.sure === what) return true;
    this.sure = what;
    toast(text);
    return false;
  }

  // Saves the photo on the stage and goes on.
  async save(pressed = null, stay = false) {
    const { app } = this;
    const { sheet } = app;
    if (this.busy || app.loading) return;
    if (!sheet && !stay) return app.step(1, pressed);
    if (!sheet || !this.may(sheet)) return;
    const kept = !sheet.dirty && sheet.state !== "unlabelled";
    if (!kept && !await this.write(sheet)) return;
    if (stay) toast("Saved.");
    else if (sheet === app.sheet) await app.step(1, pressed);
  }

  may(sheet) {
    const { app } = this;
    const open = app.proposals.length;
    if (sheet.locked) toast(`${sheet.fault}. Nothing was saved.`, { bad: true });
    else if (sheet.lost.length) {
      app.chose(sheet.lost[0].id);
      toast(`${app.classes.title(sheet.lost[0])}: choose another class with 0–9 or /, or remove the box.`, { bad: true });
    } else if (sheet.items.length || !open) return true;
    else {
      return this.confirmed("empty", `${plural(open, "proposal is", "proposals are")} not taken over. `
        + "Enter takes over; Space again saves a photo without boxes.");
    }
    return false;
  }

  async negative(pressed) {
    const { app } = this;
    const { sheet } = app;
    if (!sheet || this.busy || app.loading) return;
    if (sheet.locked) return this.save();
    const many = sheet.items.length;
    if (many) {
      const [are, them] = many === 1 ? ["is", "it"] : ["are", "them"];
      const text = `There ${are} ${plural(many, "box", "boxes")}. N again removes ${them} and saves a negative.`;
      if (!this.confirmed("negative", text)) return;
      app.edit(() => sheet.change([]));
    }
    const kept = !sheet.dirty && sheet.state === "negative";
    if ((kept || await this.write(sheet)) && sheet === app.sheet) await app.step(1, pressed);
  }

  // Returns whether the boxes are in the file; where not, it was said why.
  async write(sheet, forget = false) {
    const { items, saved, state, version } = sheet;
    const body = { version, classes: this.app.classes.version, rows: sheet.rows(), forget };
    let labels;
    this.busy = true;
    try {
      ({ labels } = await send("PUT", `/api/labels/${sheet.id}`, body));
    } catch (error) {
      this.busy = false;
      return this.failed(error, sheet);
    }
    this.busy = false;
    sheet.wrote(items, labels);
    this.app.loader.renew(sheet.id, labels);
    this.app.folder.mark(sheet.id, sheet.state);
    this.app.classes.recount(saved, sheet.saved);
    this.app.changed(sheet);
    if (state === "unlabelled" && sheet.state === "negative") this.offerBack(sheet);
    return true;
  }

  offerBack(sheet) {
    const text = "Saved as a negative: nothing to see in it.";
    if (!this.app.folder.facts.forgets) return toast(text);
    return toast(text, { action: ["Undo", async () => {
      if (!await this.write(sheet, true)) return;
      await this.app.openPhoto(sheet.id);
      toast("It counts as not labelled again.");
    }] });
  }

  async failed(error, sheet) {
    if (error.code === "labels") return this.settle(sheet);
    if (error.code === "classes") {
      if (!await this.app.classes.renew()) return this.write(sheet); // it only grew
      toast("Not saved yet: the list of classes was changed. Look at the boxes, then press Space again.", { bad: true });
    } else if (link.state === "good") {
      toast(`Not saved: ${said(error)} The boxes are kept on this page.`, { bad: true });
    }
    return false;
  }

  // Somebody else was first: shows both and lets the person choose.
  async settle(sheet) {
    const { app } = this;
    const { labels } = await get(`/api/labels/${sheet.id}`);
    if (labels.fault) {
      toast(`Not saved: ${labels.fault}`, { bad: true });
      return false;
    }
    const theirs = new Sheet(sheet.id, sheet.size, labels).items;
    const { items } = sheet;
    const joined = sheet.merged(labels);
    await app.openPhoto(sheet.id);
    const choice = await askConflict(app.entry, theirs, items, (i) => app.classes.color(i));
    if (choice === null) return false;
    sheet.read(labels);
    if (choice === "mine") {
      sheet.items = items;
      return this.write(sheet);
    }
    sheet.change(choice === "theirs" ? sheet.saved : joined);
    app.loader.renew(sheet.id, labels);
    app.folder.mark(sheet.id, labels.state);
    app.selected = null;
    app.changed(sheet);
    toast(choice === "theirs" ? "These are the boxes of the file. Ctrl Z brings yours back." : "Joined. Space saves it.");
    return false;
  }
}
