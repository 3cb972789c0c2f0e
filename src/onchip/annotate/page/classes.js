// The list of classes: what they are called and coloured, which one is chosen, and how many boxes
// each has. A box keeps the name that it was given, also when the list changes under it.

import { askClass, askName } from "./dialogs.js";
import { get, send } from "./net.js";
import { $, said, showClasses, toast } from "./panels.js";

const GREY = "rgb(150 158 166)";

export class Classes {
  constructor(app) {
    this.app = app;
    this.names = [];
    this.counts = new Map();
    this.current = 0;
    this.version = "";
    this.fault = "";
  }

  get name() {
    return this.names[this.current];
  }

  color(index) {
    const { colors } = this.app.folder.facts;
    return index === null ? GREY : colors[index % colors.length];
  }

  title(item) {
    if (item.index === null) return item.name ? `${item.name} (no longer in the list)` : "no class";
    return this.names[item.index] ?? `class ${item.index} (not in the list)`;
  }

  show() {
    showClasses(this.names, this.counts, this.current, (i) => this.color(i), (i) => this.choose(i));
  }

  // Takes a list from the server; returns whether it says something else than the one before.
  adopt({ names, version, place, fault }) {
    const before = this.names;
    Object.assign(this, { version, fault });
    $("classes").title = `from ${place}`;
    if (fault) return false;
    const changed = before.length > 0 && before.join("\n") !== names.join("\n");
    const name = before[this.current];
    this.names = [...names];
    this.current = changed && names.includes(name) ? names.indexOf(name) : Math.min(this.current, Math.max(0, names.length - 1));
    if (changed) this.app.renumber(names);
    this.show();
    return changed;
  }

  // Asks for the list again. Returns whether boxes may have another number now than the page said.
  async renew() {
    const before = this.names;
    const { classes } = await get("/api/classes");
    const changed = this.adopt(classes);
    const grown = before.every((name, i) => this.names[i] === name);
    if (changed) {
      toast(grown ? `The list of classes has grown: ${this.names.slice(before.length).join(", ")}.`
        : "The list of classes was changed. Boxes that are not saved keep their names.", { stay: 8000 });
      await this.app.reclassed();
    }
    return this.fault !== "" || !grown;
  }

  // Adds a class, or calls one something else; returns whether that worked.
  async call(index, name) {
    try {
      const { classes } = await send("POST", "/api/classes", { version: this.version, index, name });
      this.app.renamed(this.names[index], classes.names[index]);
      this.adopt(classes);
      await this.app.reclassed();
      return true;
    } catch (error) {
      if (error.code === "classes") await this.renew();
      toast(said(error), { bad: true });
      return false;
    }
  }

  choose(index) {
    if (index >= this.names.length) return toast(`There is no class ${index}. Press / to add one.`);
    this.current = index;
    this.app.classify(index, this.names[index]);
    return this.show();
  }

  // Chooses a class by its name, or adds it; returns whether one was chosen.
  async search(title = "Class") {
    const answer = await askClass(title, this.names, (i) => this.color(i));
    if (answer === null) return false;
    const index = Number.isInteger(answer) ? answer : this.names.length;
    if (index === this.names.length && !await this.call(index, answer)) return false;
    this.choose(index);
    return true;
  }

  async rename() {
    const { name, current } = this;
    const answer = name === undefined ? null : await askName(name);
    if (answer !== null && answer !== name) await this.call(current, answer);
  }

  async count() {
    const { counts } = await get("/api/counts").catch(() => ({ counts: {} }));
    this.counts = new Map(Object.entries(counts).map(([index, n]) => [Number(index), n]));
    this.show();
  }

  // Counts boxes that were in a file and those that are there now.
  recount(before, after) {
    const add = (items, by) => {
      for (const { index } of items) if (index !== null) this.counts.set(index, (this.counts.get(index) ?? 0) + by);
    };
    add(before, -1);
    add(after, 1);
    this.show();
  }
}
