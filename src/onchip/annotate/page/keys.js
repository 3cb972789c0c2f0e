// The keys, once: what is pressed, what it is called in the help, and what it does.
//
// `again` keys may be held down; all others act once however long they are held, so that a key that
// sticks cannot save photo after photo.

export const GROUPS = [
  ["Photos", [
    ["Space", " ", "save", "Save and go on"],
    ["Escape", "Escape", "leave", "Leave without saving"],
    ["Ctrl S", "ctrl+s", "stay", "Save and stay"],
    ["N", "n", "negative", "Nothing to see here: save as a negative"],
    ["→ · PgDn", "PageDown", "next", "Next photo, without saving", "again"],
    ["← · PgUp", "PageUp", "back", "Previous photo, without saving", "again"],
    ["U", "u", "unlabelled", "Next photo that has no labels"],
    ["G", "g", "goto", "Go to a number or a name"],
    ["O", "o", "order", "Order: by name, or least sure first"],
  ]],
  ["Boxes", [
    ["drag", null, null, "Draw a box"],
    ["click", null, null, "Choose a box, or take over a dashed one"],
    ["Backspace", "Backspace", "last", "Remove the chosen box, or else the last"],
    ["Delete", "Delete", "remove", "Remove the chosen box"],
    ["J · K", "j", "choose", "Choose the next or the previous box", "again"],
    [null, "k", "chooseBack", "", "again"],
    ["arrows", null, null, "Move the chosen box; with Shift ten pixels"],
    ["Ctrl arrows", null, null, "Resize it; with Shift ten pixels"],
    ["B", "b", "middle", "New box in the middle of the view"],
    ["C", "c", "copy", "Copy the boxes of the previous photo"],
    ["Ctrl Z", "ctrl+z", "undo", "Undo", "again"],
    ["Ctrl Y", "ctrl+y", "redo", "Redo, also Ctrl Shift Z", "again"],
    [null, "ctrl+shift+z", "redo", "", "again"],
  ]],
  ["Classes", [
    ["0 – 9", null, null, "Choose a class, also for the chosen box"],
    ["/", "/", "search", "Search a class, or add one"],
    ["R", "r", "rename", "Rename the current class"],
  ]],
  ["Model", [
    ["Enter · A", "Enter", "accept", "Take over everything that the model proposes"],
    [null, "a", "accept", ""],
    ["P", "p", "proposals", "Proposals on or off"],
  ]],
  ["View", [
    ["wheel · + −", "+", "closer", "Zoom in and out", "again"],
    [null, "-", "farther", "", "again"],
    ["F", "f", "fit", "Show the whole photo"],
    ["H · middle button", null, null, "Hold to move the photo"],
    ["T", "t", "boxes", "Boxes on or off"],
    ["L", "l", "titles", "Their names on or off"],
    ["X", "x", "cross", "Crosshair on or off"],
    ["E", "e", "brighter", "Brighter, for dark photos"],
    ["?", "?", "help", "This list"],
  ]],
];

const ACTIONS = new Map(GROUPS.flatMap(([, rows]) => rows)
  .filter(([, key]) => key)
  .map(([, key, action, , again]) => [key, { action, again: again === "again" }]));
const SAME = { "=": "+", _: "-", ".": "PageDown", ",": "PageUp", Home: "first", End: "final" };
const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

// The digit that a key means, on keyboards too where digits need Shift; null for other keys.
function digit(event) {
  if (/^[0-9]$/.test(event.key)) return Number(event.key);
  const place = /^Digit([0-9])$/.exec(event.code);
  return place && !event.shiftKey && !/^[a-z]$/i.test(event.key) ? Number(place[1]) : null;
}

function action(event) {
  const command = event.ctrlKey || event.metaKey;
  let key = SAME[event.key] ?? event.key;
  if (command) key = `ctrl+${event.shiftKey ? "shift+" : ""}${key.toLowerCase()}`;
  else if (key.length === 1 && key !== "?" && key !== "/") key = key.toLowerCase();
  if (key === "first" || key === "final") return { action: key, again: false };
  return ACTIONS.get(key) ?? null;
}

// Whether the key belongs to what has the focus: text that is typed, a list that is open, a button
// that was reached by Tab.
function elsewhere(event) {
  const on = document.activeElement;
  if (document.querySelector("dialog[open]")) return true;
  if (on?.matches("input, textarea, select")) {
    if (event.key === "Escape") on.blur();
    return true;
  }
  return [" ", "Enter"].includes(event.key) && on?.matches("button:focus-visible, a:focus-visible");
}

export function listen(does, view) {
  addEventListener("keydown", (event) => {
    if (event.isComposing || event.altKey || elsewhere(event)) return;
    const command = event.ctrlKey || event.metaKey;
    const step = STEPS[event.key];
    const number = command ? null : digit(event);
    if (step) {
      const far = event.shiftKey ? 10 : 1;
      if (!does.arrow(step[0] * far, step[1] * far, command)) return;
    } else if (event.key.toLowerCase() === "h" && !command) {
      view.grab(true);
    } else if (number !== null) {
      if (!event.repeat) does.digit(number);
    } else {
      const found = action(event);
      if (!found) return;
      if (!event.repeat || found.again) does[found.action](event);
    }
    event.preventDefault();
  });
  addEventListener("keyup", (event) => event.key.toLowerCase() === "h" && view.grab(false));
  addEventListener("blur", () => view.grab(false));
  // A button that was clicked must not be pressed again by the Space that saves.
  addEventListener("click", (event) => {
    const on = event.target.closest?.("button");
    if (on && event.detail > 0 && !on.closest("dialog")) on.blur();
  });
}
