// The photos of the folder: their states, and which of them are shown in which order.

import * as drafts from "./drafts.js";
import { $, PhotoList, progress, toast, visible } from "./panels.js";

export const AHEAD = 3; // photos that are made ready
const WORDS = { unlabelled: "not labelled", labelled: "labelled", negative: "negative" };

export class Folder {
  constructor(app) {
    this.app = app;
    this.photos = new Map();
    this.states = new Map();
    this.drafted = new Set();
    this.sequence = [];
    this.at = -1;
    this.list = new PhotoList((at) => app.open(at));
  }

  // Takes what the server says of the folder, at the beginning and later again.
  take(facts) {
    const known = this.photos;
    this.facts = facts;
    this.photos = new Map(facts.photos.map(([id, name, state, said]) => [id, { name, state, said }]));
    this.states = new Map(facts.photos.map(([id, , state]) => [id, state]));
    const short = facts.name.split("/").slice(-2).join("/");
    $("folder").textContent = visible(short);
    $("folder").title = facts.name;
    document.title = `${visible(short)} · onchip annotate`;
    if (known.size) this.keep(known);
    else {
      drafts.open(facts.id);
      this.drafted = drafts.all();
      this.sort();
    }
    this.tally();
  }

  // Photos that came are added at the end, those that went are left out; the rest stays in place.
  keep(known) {
    const here = this.id;
    const fresh = [...this.photos.keys()].filter((id) => !known.has(id) && this.fits(id));
    this.sequence = [...this.sequence.filter((id) => this.photos.has(id)), ...fresh];
    this.at = this.sequence.indexOf(here);
    this.show();
  }

  get id() {
    return this.sequence[this.at];
  }

  get model() {
    return this.facts.model !== null;
  }

  name(id) {
    return visible(this.photos.get(id)?.name ?? "");
  }

  // A photo without a state is one that cannot be labelled.
  labellable(id) {
    return this.photos.get(id)?.state !== "";
  }

  unlabelled(id) {
    return this.labellable(id) && this.states.get(id) === "unlabelled";
  }

  word(id) {
    return WORDS[this.states.get(id)];
  }

  mark(id, state) {
    this.states.set(id, state);
    this.tally();
    this.list.paint();
  }

  tally() {
    const ids = [...this.photos.keys()].filter((id) => this.labellable(id));
    this.left = ids.filter((id) => this.unlabelled(id)).length;
    progress(ids.length - this.left, ids.length);
  }

  draft(id, kept) {
    if (this.drafted.has(id) === kept) return;
    if (kept) this.drafted.add(id);
    else this.drafted.delete(id);
    this.list.paint();
  }

  // ---- which, and in which order

  fits(id) {
    const filter = $("filter").value;
    if (filter === "all") return true;
    if (filter === "draft") return this.drafted.has(id);
    if (filter === "disagrees") return this.app.model.disagrees.has(id);
    return this.states.get(id) === filter;
  }

  // Photos that are not labelled come first; those that nobody looked at yet come last.
  compare(a, b) {
    const { doubts } = this.app.model;
    const rank = (id) => (doubts.has(id) ? (this.unlabelled(id) ? 0 : 1) : 2);
    return rank(a) - rank(b) || (doubts.get(b) ?? 0) - (doubts.get(a) ?? 0);
  }

  get byDoubt() {
    return $("order").value === "doubt";
  }

  sort() {
    const ids = [...this.photos.keys()].filter((id) => this.fits(id));
    this.sequence = this.byDoubt ? ids.sort((a, b) => this.compare(a, b)) : ids;
  }

  // Another filter or another order was chosen.
  async arrange() {
    const here = this.id;
    this.sort();
    if (!this.sequence.length) {
      toast("No photo is like that.");
      $("filter").value = "all";
      this.sort();
    }
    const at = this.sequence.indexOf(here);
    if (at < 0 || this.byDoubt) return this.app.open(0);
    this.at = at;
    this.show();
    return this.app.told();
  }

  // The model knows more: what lies behind the photos that are ready is sorted again.
  again() {
    if (!this.byDoubt) return;
    const fixed = this.at + 1 + AHEAD;
    const rest = this.sequence.slice(fixed).sort((a, b) => this.compare(a, b));
    this.sequence = [...this.sequence.slice(0, fixed), ...rest];
    this.show();
  }

  show() {
    this.list.set(this.sequence, (id) => {
      const { name, said } = this.photos.get(id);
      const state = this.drafted.has(id) ? "draft" : this.states.get(id);
      return { name, state, ...(this.labellable(id) ? { note: said } : { fault: said }) };
    });
    this.list.select(this.at);
  }

  go(at) {
    this.at = at;
    drafts.remember("at", this.id);
    this.show();
  }

  // Where to begin: where this tab was, or else the first photo that has no labels.
  start() {
    const last = this.sequence.indexOf(drafts.recall("at"));
    return last >= 0 ? last : Math.max(0, this.sequence.findIndex((id) => this.unlabelled(id)));
  }

  // The next photo in a direction that can be labelled, or -1.
  beside(step) {
    let at = this.at + step;
    while (at >= 0 && at < this.sequence.length && !this.labellable(this.sequence[at])) at += step;
    return at >= 0 && at < this.sequence.length ? at : -1;
  }

  coming() {
    return this.sequence.slice(this.at + 1).filter((id, i) => i < 4 * AHEAD && this.labellable(id)).slice(0, AHEAD);
  }

  nextUnlabelled() {
    const after = this.sequence.findIndex((id, i) => i > this.at && this.unlabelled(id));
    return after >= 0 ? after : this.sequence.findIndex((id, i) => i !== this.at && this.unlabelled(id));
  }
}
