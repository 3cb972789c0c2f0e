// One event: its video or picture, what is known of it, and what can be done with it.

import { colorOf } from "./colors.js";
import { $, capital, element, said } from "./dom.js";
import { lastedOf } from "./events.js";
import { get, remove } from "./net.js";
import { dateTimeOf, lengthOf, percent } from "./words.js";

const WHY = {
  left: "it left the picture",
  still: "it came to rest",
  long: "it went on for too long for one event",
  lost: "the camera was lost",
  stopped: "the program was stopped",
  "cut off": "the program was cut off",
};

export class EventView {
  constructor(events, toast) {
    Object.assign(this, { events, toast, id: null, event: null });
    for (const [name, by] of [["newer", -1], ["older", 1]]) $(name).addEventListener("click", () => this.step(by));
  }

  async open(id) {
    if (id === this.id) return;
    this.close();
    this.id = id;
    this.events.mark(id);
    const known = this.events.events.get(id);
    if (known) return this.show(known);
    $("event-title").textContent = "Event";
    await this.read();
  }

  // Asks for it, as when news were missed. What is shown stays, unless it is known to be gone.
  async read() {
    const { id } = this;
    if (id === null) return;
    try {
      const { event } = await get(`/api/events/${encodeURIComponent(id)}`);
      if (id === this.id) this.show(event);
    } catch (failure) {
      if (id === this.id && (!this.event || failure.status === 404)) this.say(said(failure));
    }
  }

  // Nothing goes on playing once it is not seen.
  close() {
    this.id = this.event = null;
    this.events.mark(null);
    $("event-body").querySelector("video")?.removeAttribute("src");
    $("event-body").replaceChildren();
  }

  heard(event) {
    if (event.id === this.id) this.show(event);
  }

  gone(id) {
    if (id === this.id) this.say("This event was deleted.");
  }

  say(text) {
    this.event = null;
    $("event-body").replaceChildren(element("p", { class: "empty", textContent: text }));
  }

  step(by) {
    const id = this.id && this.events.beside(this.id, by);
    if (id) location.replace(`#event/${encodeURIComponent(id)}`);
    else if (by > 0) this.events.fill();
  }

  show(event) {
    const same = this.event && (this.event.end === null) === (event.end === null) && this.event.clip === event.clip && this.event.snapshot === event.snapshot
      && (event.clip || this.event.score === event.score);
    this.event = event;
    $("event-title").textContent = `${capital(event.label)} at ${event.camera}`;
    $("newer").disabled = !this.events.beside(event.id, -1);
    const facts = this.facts(event);
    if (same) return $("event-body").querySelector(".facts").replaceWith(facts);
    const path = `/api/events/${encodeURIComponent(event.id)}`;
    const picture = `${path}/snapshot.jpg?v=${event.score}`;
    const stage = element("div", { class: "stage" });
    const buttons = element("div", { class: "choice" });
    const film = () => stage.replaceChildren(element("video", { src: `${path}/clip.mp4`, controls: true, autoplay: true, muted: true,
      playsInline: true, loop: true, preload: "metadata", poster: event.snapshot ? picture : "", "aria-label": "Video of the event" }));
    const still = () => stage.replaceChildren(event.snapshot
      ? element("img", { src: picture, alt: `${event.label} at ${event.camera}, the best moment` })
      : element("p", { class: "empty", textContent: event.end === null ? "No picture yet." : "There is no picture of it." }));
    if (event.clip && event.snapshot) buttons.append(choice("Video", film, true), choice("Picture", still));
    (event.clip ? film : still)();
    if (event.clip) buttons.append(save(`${path}/clip.mp4?download=1`, "Save video"));
    if (event.snapshot) buttons.append(save(`${path}/snapshot.jpg?download=1`, "Save picture"));
    if (event.end !== null) buttons.append(element("button", { type: "button", class: "danger", textContent: "Delete", onclick: () => this.ask(event) }));
    $("event-body").replaceChildren(stage, buttons, facts);
  }

  facts(event) {
    const live = event.end === null;
    const rows = [
      ["Object", element("span", {}, swatch(event.label), ` ${capital(event.label)}, ${percent(event.score)} at its best moment`)],
      ["Camera", element("a", { href: `#live/${encodeURIComponent(event.camera)}`, textContent: event.camera })],
      event.zones.length ? ["Zones", event.zones.join(", then ")] : null,
      ["Began", dateTimeOf(event.start)],
      [live ? "So far" : "Lasted", lengthOf(lastedOf(event))],
      live ? ["Now", event.clip ? "It still goes on." : "It still goes on; the video comes when it has ended."]
        : ["Ended", `because ${WHY[event.why] ?? "of an unknown reason"}`],
    ];
    return element("dl", { class: "facts" }, ...rows.filter(Boolean).map(([name, value]) =>
      element("div", {}, element("dt", { textContent: name }), element("dd", {}, value))));
  }

  ask(event) {
    const dialog = $("confirm");
    dialog.returnValue = "no";
    dialog.onclose = () => {
      if (dialog.returnValue === "yes") this.remove(event);
    };
    dialog.showModal();
  }

  async remove(event) {
    const next = this.events.beside(event.id, 1) ?? this.events.beside(event.id, -1);
    try {
      await remove(`/api/events/${encodeURIComponent(event.id)}`);
    } catch (failure) {
      this.toast(said(failure), true);
      if (failure.status !== 404) return;
    }
    this.events.gone(event.id);
    this.toast("The event was deleted.");
    location.replace(next ? `#event/${encodeURIComponent(next)}` : "#events");
  }
}

function choice(text, show, pressed = false) {
  return element("button", { type: "button", class: "part", textContent: text, "aria-pressed": String(pressed), onclick: ({ target }) => {
    for (const other of target.parentElement.querySelectorAll(".part")) other.setAttribute("aria-pressed", String(other === target));
    show();
  } });
}

const save = (href, text) => element("a", { class: "button", href, textContent: text, download: "" });

function swatch(label) {
  const made = element("i", { class: "swatch" });
  made.style.setProperty("--swatch", colorOf(label));
  return made;
}
