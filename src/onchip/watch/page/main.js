// The page of a watch: what is shown follows the address, what it shows follows the news.

import { setColors } from "./colors.js";
import { $, element, plural, said } from "./dom.js";
import { EventView } from "./event.js";
import { Events } from "./events.js";
import { Live } from "./live.js";
import { ask, get, link } from "./net.js";
import { Status, troubles } from "./status.js";
import { heardTime } from "./words.js";

const TOAST = 5000;

function toast(text, bad = false) {
  const made = element("div", { class: bad ? "toast bad" : "toast", textContent: text });
  $("toasts").append(made);
  while ($("toasts").children.length > 3) $("toasts").firstChild.remove();
  setTimeout(() => made.remove(), TOAST);
}

async function signOut() {
  await ask("/logout", { method: "POST" }).catch(() => null);
  location.assign("/");
}

const live = new Live((failure) => toast(said(failure), true));
const events = new Events(() => badge("running", events.running, "running"));
const view = new EventView(events, toast);
const status = new Status(signOut);

function badge(id, count, what) {
  $(id).hidden = !count;
  $(id).textContent = count || "";
  $(id).title = count ? `${count} ${what}` : "";
}

// ---- where we are

function go(first = false) {
  const [place, query = ""] = location.hash.slice(1).split("?");
  const [name, ...rest] = place.split("/");
  const what = rest.length ? decoded(rest.join("/")) : null;
  const at = ["live", "events", "event", "status"].includes(name) ? name : "live";
  const before = document.body.dataset.view;
  document.body.dataset.view = at;
  for (const tab of document.querySelectorAll("[data-tab]")) {
    const own = tab.dataset.tab === at || (at === "event" && tab.dataset.tab === "events");
    if (own) tab.setAttribute("aria-current", "page");
    else tab.removeAttribute("aria-current");
  }
  live.show(at === "live", at === "live" ? what : null);
  status.show(at === "status");
  if (at === "events") events.choose(Object.fromEntries(new URLSearchParams(query)));
  else if (!events.loaded) events.choose({});
  if (at === "event") view.open(what);
  else view.close();
  $("event-back").href = "#events" + filtered();
  document.querySelector("[data-tab=events]").href = "#events" + (at === "events" ? "" : filtered());
  if (!first && before !== at) $(`${at}-title`).focus({ preventScroll: true });
}

// An address that somebody cut or typed may be no text.
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function filtered() {
  const asked = new URLSearchParams(Object.entries(events.filter).filter(([, value]) => value));
  return asked.size ? `?${asked}` : "";
}

addEventListener("hashchange", () => go());

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("confirm").open) return;
  if (event.target.closest("input, select, textarea, video")) return;
  const at = document.body.dataset.view;
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (step && at === "event") view.step(step);
  else if (step && at === "live" && live.one) location.replace(`#live/${encodeURIComponent(live.beside(step))}`);
  else if (event.key === "Escape" && at === "event") location.hash = $("event-back").hash;
  else if (event.key === "Escape" && at === "live" && live.one) location.hash = "#live";
  else return;
  event.preventDefault();
});

// ---- what happens

function take(state) {
  heardTime(state.time);
  live.update(state);
  events.update(state);
  status.update(state);
  const count = troubles(state);
  badge("troubles", count, "not working");
  document.title = count ? `(${count}) onchip watch` : "onchip watch";
}

link.addEventListener("hello", ({ detail }) => {
  if (detail.again) { // what was missed
    events.load();
    view.read();
  }
  if (detail.restarted) toast("The watch was started again.");
});
link.addEventListener("state", ({ detail }) => take(detail));
link.addEventListener("event", ({ detail }) => {
  events.heard(detail.event);
  view.heard(detail.event);
});
link.addEventListener("gone", ({ detail }) => {
  events.gone(detail);
  view.gone(detail);
});
link.addEventListener("link", told);
setInterval(told, 1000);

function told() {
  const place = $("link");
  const left = Math.max(1, Math.round((link.retry - Date.now()) / 1000));
  const text = {
    waiting: "",
    good: "",
    lost: `${link.said?.status === 503 ? said(link.said) : "The server does not answer."} Trying again in ${plural(left, "second")}.`,
    closed: "You are not signed in here any more.",
  }[link.state];
  document.body.dataset.link = link.state;
  if (place.dataset.text === text) return;
  place.dataset.text = text;
  place.replaceChildren(text);
  if (link.state === "lost") place.append(element("button", { type: "button", textContent: "Now", onclick: () => link.now() }));
  if (link.state === "closed") place.append(element("button", { type: "button", textContent: "Sign in again", onclick: () => location.assign("/") }));
}

try {
  const [hello, state] = await Promise.all([get("/api/hello"), get("/api/state")]);
  setColors(hello.colors);
  status.password = hello.password;
  take(state);
} catch (failure) {
  if (link.state !== "closed") toast(said(failure), true);
}
go(true);
if (link.state !== "closed") link.start();
