// Talks to the server, and knows whether it is there.

export class Failure extends Error {
  constructor(status, { code, message, hint = "" }) {
    super(message);
    Object.assign(this, { status, code, hint });
  }
}

export const link = Object.assign(new EventTarget(), { state: "good" });
const PAUSE = 2000; // milliseconds between two looks for a server that is gone
let run = null;
let folder = null;

function become(state) {
  if (link.state === state) return;
  const back = link.state !== "good" && state === "good";
  link.state = state;
  link.dispatchEvent(new Event(back ? "back" : "change"));
}

async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, { credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    look("lost");
    throw new Failure(0, { code: "lost", message: "The server does not answer." });
  }
  if (answer.ok) return answer;
  const { error } = await answer.json().catch(() => ({}));
  const failure = new Failure(answer.status, error
    ?? { code: "server", message: `The server failed (${answer.status}).` });
  if (answer.status === 401) look("closed");
  if (answer.status === 404) await again(); // another folder may be served here by now
  throw failure;
}

// Keeps asking until the server is there, it is the same folder, and we may come in.
let looking = null;
function look(state) {
  become(state);
  looking ??= setInterval(again, PAUSE);
}

async function again() {
  try {
    const answer = await fetch("/api/hello", { credentials: "same-origin" });
    if (answer.status === 401) return become("closed");
    if (!answer.ok) return become("lost");
    const hello = await answer.json();
    if (folder !== null && hello.id !== folder) return look("other");
    clearInterval(looking);
    looking = null;
    link.restarted = run !== null && hello.run !== run;
    run = hello.run;
    become("good");
  } catch {
    become("lost");
  }
}

export async function get(path, signal) {
  return (await ask(path, { signal })).json();
}

export async function blob(path, signal) {
  return (await ask(path, { signal })).blob();
}

const JSON_BODY = { "content-type": "application/json" };

export async function send(method, path, body) {
  const text = JSON.stringify(body);
  return (await ask(path, { method, headers: JSON_BODY, body: text })).json();
}

export async function begin() {
  const facts = await get("/api/folder");
  if (folder !== null && facts.id !== folder) {
    look("other");
    throw new Failure(0, { code: "other", message: "This is another folder." });
  }
  ({ run, id: folder } = facts);
  return facts;
}

export const check = again;
