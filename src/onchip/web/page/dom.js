// Short words for what every page does.

export const $ = (id) => document.getElementById(id);

export const plural = (n, one, many = `${one}s`) => `${n} ${n === 1 ? one : many}`;

// A text as a sentence begins; an address at its beginning stays as it is.
export const capital = (text) => (/^\S*[/:.]\S/.test(text) ? text : text && text[0].toUpperCase() + text.slice(1));

// What failed and what to do, as sentences.
export function said({ message, hint }) {
  const sentence = (text) => `${capital(text)}${/[.!?]$/.test(text) ? "" : "."}`;
  return [message, hint].filter(Boolean).map(sentence).join(" ");
}

export function element(tag, fields = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(fields)) {
    if (name === "class") made.className = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name.includes("-") || name === "role") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}
