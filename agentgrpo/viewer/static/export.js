// An exported page: one or more episodes out of the data in the page itself, without a server.

import { h, fill } from "./dom.js";
import { num, printable } from "./format.js";
import { Keyboard } from "./keys.js";
import { EpisodeBody } from "./episodebody.js";
import { fromBase64 } from "./tokendata.js";

const keyboard = new Keyboard();
const { episodes } = JSON.parse(document.getElementById("episodes").textContent);
const holder = h("main", {});
const list = h("nav", { class: "tabs exported-list", "aria-label": "Episodes" });
let body = null;
let at = 0;

function show(index) {
  at = Math.max(0, Math.min(index, episodes.length - 1));
  const data = episodes[at];
  const state = { view: "text", colour: "mask", path: 0, turn: 0 };
  const load = async () => {
    if (!data.tokens) throw new Error("The tokens of this episode were not exported.");
    return fromBase64(data.tokens);
  };
  body = new EpisodeBody({ data, state, load });
  fill(holder, body.node);
  fill(list, episodes.length < 2 ? null : episodes.map(tab));
}

function tab({ row }, index) {
  const mark = row.success === null ? "–" : row.success ? "✓" : "✗";
  return h("button", { class: "tab", "aria-current": index === at ? "true" : null, on: { click: () => show(index) } }, `${mark} ${printable(row.task)}, sample ${row.sample}: ${num(row.reward)}`);
}

keyboard.here = [
  { keys: ["j", "ArrowDown"], about: "next turn", act: () => body.move(1) },
  { keys: ["k", "ArrowUp"], about: "previous turn", act: () => body.move(-1) },
  { keys: ["l", "ArrowRight"], about: "next episode", act: () => show(at + 1) },
  { keys: ["h", "ArrowLeft"], about: "previous episode", act: () => show(at - 1) },
  { keys: ["e"], about: "next call that failed", act: () => body.nextError() },
  { keys: ["t"], about: "tokens or conversation", act: () => body.toggle() },
  { keys: ["m"], about: "colour tokens by something else", act: () => body.nextColour() },
  { keys: ["."], about: "next token", act: () => body.step(1) },
  { keys: [","], about: "previous token", act: () => body.step(-1) },
];
keyboard.everywhere = [{ keys: ["?"], about: "this list", act: () => keyboard.help("Episode") }];
document.body.append(h("div", { class: "exported" }, list, holder));
show(0);
