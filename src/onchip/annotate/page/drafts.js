// What was drawn and not saved, kept in the browser, so that a page closed by accident loses nothing.
//
// Every loaded page writes under a name of its own, so two tabs never write over each other; who
// opens a photo takes over what a page left behind.

const page = Math.random().toString(36).slice(2, 10);
let prefix = "";
const unkept = new Set(); // photos whose draft the browser did not take

export function open(folder) {
  prefix = `onchip-annotate/${folder}/`;
}

// Whether the browser keeps what it is given; it need not, in a private window or when it is full.
export const kept = () => !unkept.size;

export function keep(id, draft) {
  try {
    localStorage.setItem(`${prefix}${id}/${page}`, JSON.stringify({ ...draft, at: Date.now() }));
    unkept.delete(id);
  } catch {
    unkept.add(id);
  }
}

export function drop(id) {
  unkept.delete(id);
  try {
    localStorage.removeItem(`${prefix}${id}/${page}`);
  } catch { /* nothing can be kept, so nothing is there */ }
}

function names(id = "") {
  try {
    return Object.keys(localStorage).filter((name) => name.startsWith(`${prefix}${id}`));
  } catch {
    return [];
  }
}

// Returns the newest draft of a photo, whichever page it is from, and makes it ours.
export function take(id) {
  const found = names(`${id}/`).map(read).filter(Boolean).sort((a, b) => b.draft.at - a.draft.at);
  if (!found.length) return null;
  const { name, draft } = found[0];
  keep(id, draft);
  if (!unkept.has(id) && !name.endsWith(page)) localStorage.removeItem(name);
  return draft;
}

function read(name) {
  try {
    const draft = JSON.parse(localStorage.getItem(name));
    return Array.isArray(draft.items) && Array.isArray(draft.saved) ? { name, draft } : null;
  } catch {
    return null;
  }
}

export const all = () => new Set(names().map((name) => name.slice(prefix.length).split("/")[0]));

export function remember(name, value) {
  try {
    sessionStorage.setItem(prefix + name, value);
  } catch { /* then the next page begins anew */ }
}

export function recall(name) {
  try {
    return sessionStorage.getItem(prefix + name);
  } catch {
    return null;
  }
}
