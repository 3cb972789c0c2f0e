// Times, lengths and sizes as people say them. The server's clock and the viewer's may differ: what
// is long ago or soon is counted by the server's, from what it last said.

let ahead = 0; // milliseconds by which the server's clock is ahead of ours

export function heardTime(seconds) {
  ahead = seconds * 1000 - Date.now();
}

export const serverNow = () => (Date.now() + ahead) / 1000;

const clock = new Intl.DateTimeFormat([], { hour: "numeric", minute: "2-digit", second: "2-digit" });
const dayName = new Intl.DateTimeFormat([], { weekday: "long", day: "numeric", month: "long" });
const whole = new Intl.DateTimeFormat([], { dateStyle: "medium", timeStyle: "medium" });

export const timeOf = (seconds) => clock.format(seconds * 1000);
export const dateTimeOf = (seconds) => whole.format(seconds * 1000);

export function dayOf(seconds) {
  const day = new Date(seconds * 1000).toDateString();
  const now = new Date(serverNow() * 1000);
  if (day === now.toDateString()) return "Today";
  now.setDate(now.getDate() - 1);
  return day === now.toDateString() ? "Yesterday" : dayName.format(seconds * 1000);
}

export function lengthOf(seconds) {
  const all = Math.max(0, Math.round(seconds));
  if (all < 60) return `${all} s`;
  if (all < 3600) return `${Math.floor(all / 60)} min${all % 60 ? ` ${all % 60} s` : ""}`;
  const minutes = Math.floor((all % 3600) / 60);
  if (all < 172_800) return `${Math.floor(all / 3600)} h${minutes ? ` ${minutes} min` : ""}`;
  return `${Math.floor(all / 86_400)} days`;
}

export function sizeOf(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  const power = Math.min(units.length - 1, Math.floor(Math.log10(Math.max(1, bytes)) / 3));
  return `${number(bytes / 1000 ** power, bytes < 1000 || bytes / 1000 ** power >= 100 ? 0 : 1)} ${units[power]}`;
}

export const number = (value, digits = 0) =>
  value.toLocaleString([], { minimumFractionDigits: digits, maximumFractionDigits: digits });

export const percent = (part) => `${number(Math.min(1, part) * 100)} %`;
