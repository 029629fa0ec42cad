// Numbers, times and foreign text as people read them. An unknown value is a dash, never a zero.

const DASH = "–";

/** Return a number with a sensible count of digits. */
export function num(value, digits = 2) {
  if (value === null || value === undefined || Number.isNaN(value)) return DASH;
  const size = Math.abs(value);
  if (size >= 1e6) return `${trim(value / 1e6, 1)}M`;
  if (size >= 1e4) return `${trim(value / 1e3, 1)}k`;
  if (size !== 0 && size < 10 ** -digits) return value.toExponential(1).replace(".0e", "e").replace("e-", "e−").replace(/^-/, "−");
  const kept = Number.isInteger(value) && size >= 10 ? 0 : size >= 100 ? Math.min(digits, 1) : size >= 10 ? Math.min(digits, 2) : digits;
  return value.toFixed(kept).replace("-", "−");
}

function trim(value, digits) {
  return String(Number(value.toFixed(digits))).replace("-", "−");
}

/** Return a whole number with thousands apart. */
export function count(value) {
  return value === null || value === undefined ? DASH : value.toLocaleString("en-US").replaceAll(",", " ");
}

/** Return a number with its sign. */
export function signed(value, digits = 2) {
  if (value === null || value === undefined) return DASH;
  return (value > 0 ? "+" : "") + num(value, digits);
}

/** Return a share as a percentage: of nothing else does it say 0 % or 100 %. */
export function percent(value) {
  if (value === null || value === undefined) return DASH;
  const shown = value * 100;
  if (shown > 0 && shown < 0.1) return "< 0.1 %";
  if (shown > 99.9 && shown < 100) return "> 99.9 %";
  return `${shown.toFixed((shown > 0 && shown < 10) || (shown > 99 && shown < 100) ? 1 : 0)} %`;
}

/** Return a duration given in seconds. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return DASH;
  if (seconds === 0) return "0 s";
  if (seconds < 1e-3) return `${(seconds * 1e6).toFixed(0)} µs`;
  if (seconds < 1) return `${(seconds * 1e3).toFixed(seconds < 0.1 ? 1 : 0)} ms`;
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${String(Math.floor(seconds % 60)).padStart(2, "0")} s`;
  return `${Math.floor(seconds / 3600)} h ${String(Math.floor((seconds % 3600) / 60)).padStart(2, "0")} min`;
}

/** Return when something was, given in seconds since the epoch. */
export function when(seconds) {
  if (!seconds) return DASH;
  const date = new Date(seconds * 1000);
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  return `${day} ${two(date.getHours())}:${two(date.getMinutes())}`;
}

function two(value) {
  return String(value).padStart(2, "0");
}

// Characters that would move text about, hide it, or reach beyond it.
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;

/** Return text with control, invisible and direction-changing characters spelled out; newlines and tabs stay. */
export function printable(text) {
  return String(text).replace(HIDDEN, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

/** Return JSON data in one line. */
export function inline(value) {
  return printable(value === undefined ? "" : JSON.stringify(value, null, 1).replace(/\n\s*/g, " "));
}

/** Return what a message says: its text, or the JSON of its parts. */
export function contentText(content) {
  if (content === null || content === undefined) return "";
  return typeof content === "string" ? printable(content) : inline(content);
}

/** Return a text cut in the middle: the ends of names tell them apart. */
export function middle(text, room) {
  const shown = printable(text);
  if (shown.length <= room) return shown;
  const tail = Math.floor(room / 2);
  return `${shown.slice(0, room - tail - 1)}…${shown.slice(-tail)}`;
}
