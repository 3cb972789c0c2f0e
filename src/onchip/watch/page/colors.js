// One colour for each kind of object, the same everywhere and at every visit.

// What most people watch for is told apart for sure.
const OFTEN = ["person", "car", "dog", "cat", "bicycle", "truck", "bird", "bus"];
let palette = ["rgb(136 136 136)"];

export function setColors(colors) {
  palette = colors;
}

export function colorOf(label) {
  const often = OFTEN.indexOf(label);
  if (often >= 0) return palette[often % palette.length];
  let hash = 7;
  for (const letter of label) hash = (hash * 31 + letter.codePointAt(0)) >>> 0;
  return palette[hash % palette.length];
}

// Whether dark letters are read better on a colour.
export function bright(color) {
  const [red, green, blue] = color.match(/\d+/g).map(Number);
  return 0.3 * red + 0.59 * green + 0.11 * blue > 140;
}
