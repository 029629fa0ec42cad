// An episode as a conversation: every call beside its result, every change of state with what it replaced.

import { h } from "./dom.js";
import { contentText, duration, inline, num, printable } from "./format.js";

const LONG = 1200; // characters after which a text is folded

/** Return the messages before the first turn. */
export function promptView(episode) {
  return h("section", { class: "prompt" }, episode.prompt.map((message) => said(message.role, contentText(message.content), message.role)));
}

/** Return one turn. `fork` is called with its number when a fork is asked for; none: it cannot be. */
export function turnView(episode, index, { fork = null, current = false } = {}) {
  const turn = episode.turns[index];
  const pending = [...turn.messages];
  const parts = [];
  if (turn.action.reasoning) parts.push(said("thinks", printable(turn.action.reasoning), "reasoning"));
  if (contentText(turn.action.content).trim()) parts.push(said("assistant", contentText(turn.action.content), "assistant"));
  for (const call of turn.action.tool_calls || []) {
    const at = pending.findIndex((message) => message.tool_call_id === call.id);
    parts.push(exchange(call, at < 0 ? null : pending.splice(at, 1)[0]));
  }
  for (const message of pending) parts.push(said(message.role, contentText(message.content), message.is_error ? "error" : message.role));
  if (!parts.length) parts.push(h("p", { class: "quiet" }, "The model said nothing."));
  return h("section", { class: `turn${current ? " is-current" : ""}`, id: `turn-${index}`, data: { turn: index } },
    h("header", { class: "turn-head" },
      h("h3", {}, `Turn ${index + 1}`),
      h("span", { class: "quiet" }, factsOf(episode, turn, index ? episode.turns[index - 1].hash : null)),
      fork ? h("button", { class: "link turn-fork", title: "New episodes that share everything before this turn (F)", on: { click: () => fork(index) } }, "Fork here") : null),
    parts, changesView(turn.changes));
}

function factsOf(episode, turn, before) {
  const known = [];
  if (turn.finish && turn.finish !== "stop") known.push(`ended by ${turn.finish}`);
  if (!episode.is_text) known.push(`${turn.sampled} tokens`);
  known.push(`model ${duration(turn.generate)}`, `environment ${duration(turn.env)}`);
  if (turn.reward) known.push(`reward ${num(turn.reward)}`);
  if (turn.changes?.length === 0 || (turn.hash && turn.hash === before)) known.push("state unchanged");
  else if (turn.hash) known.push(`state ${turn.changes ? "changed to " : ""}${printable(turn.hash).slice(0, 8)}`);
  return known.join(" · ");
}

function said(label, text, kind) {
  return h("div", { class: `said is-${safe(kind)}` }, h("span", { class: "who" }, printable(label)), folded(text, "said-text"));
}

function safe(kind) {
  return ["system", "developer", "user", "assistant", "tool", "reasoning", "error"].includes(kind) ? kind : "other";
}

/** Return a text that is folded when it is long. */
function folded(text, kind) {
  if (text.length <= LONG) return h("div", { class: kind }, text || h("i", { class: "quiet" }, "empty"));
  return h("details", { class: `${kind} folded` },
    h("summary", {}, text.slice(0, LONG), h("span", { class: "more" }, `… ${(text.length - LONG).toLocaleString("en-US")} more characters`)),
    text.slice(LONG));
}

function exchange(call, result) {
  return h("div", { class: "exchange" },
    h("div", { class: "call" }, h("span", { class: "who" }, "call"), callView(call)),
    h("div", { class: `result${result?.is_error ? " is-error" : ""}` }, h("span", { class: "who" }, result ? (result.is_error ? "error" : "result") : ""), resultView(result)));
}

/** Return a call as it reads: name(argument: value). */
export function callView(call) {
  const name = h("b", { class: "call-name" }, printable(call.name || "?"));
  if ("raw" in call) return h("div", { class: "call-text" }, name, " ", h("span", { class: "warn" }, printable(call.raw)));
  const known = call.arguments && typeof call.arguments === "object" ? Object.entries(call.arguments) : [["", call.arguments]];
  return h("div", { class: "call-text" }, name,
    known.map(([key, value]) => h("span", { class: "argument" }, key ? h("span", { class: "key" }, printable(key)) : null, valueView(value))));
}

function valueView(value) {
  return h("span", { class: "value" }, typeof value === "string" ? printable(value) : inline(value));
}

function resultView(result) {
  if (!result) return h("i", { class: "quiet" }, "no result");
  const text = contentText(result.content);
  const error = result.is_error ? errorOf(text) : null;
  return error ? h("div", { class: "result-text" }, h("b", {}, error.type), ` ${error.message}`) : folded(text, "result-text");
}

/** Return { type, message } of an error a tool answered with; null when it has another form. */
export function errorOf(text) {
  try {
    const { error } = JSON.parse(text);
    return error && typeof error === "object" && error.type ? { type: printable(error.type), message: printable(error.message) } : null;
  } catch {
    return null;
  }
}

/** Return what a turn changed in the world. */
export function changesView(changes) {
  if (!changes?.length) return null;
  return h("div", { class: "changes" }, h("span", { class: "who" }, "state"), h("ul", {}, changes.map(changeView)));
}

/** Return a change: where, what was there, what is there now. */
export function changeView(change) {
  const path = change.path.flatMap((name, i) => [i ? h("span", { class: "sep" }, "›") : null, h("span", { class: "name" }, printable(name) || "∅")]);
  return h("li", { class: `change is-${["add", "remove", "replace"].includes(change.kind) ? change.kind : "other"}${change.unexpected ? " is-unexpected" : ""}` },
    h("span", { class: "path" }, path), effect(change),
    change.unexpected ? h("span", { class: "flag", title: "no successful episode of this task made this change" }, "unexpected") : null);
}

function effect(change) {
  const old = "old" in change ? [h("del", {}, plain(change.old)), " → "] : [];
  if (change.kind === "add") return h("span", { class: "effect" }, "added ", h("ins", {}, plain(change.new)));
  if (change.kind === "replace") return h("span", { class: "effect" }, old, h("ins", {}, plain(change.new)));
  if (change.kind === "remove") return h("span", { class: "effect" }, old, "removed");
  return h("span", { class: "effect" }, `${printable(change.kind)} ${printable(change.from || "")}`);
}

function plain(value) {
  return typeof value === "string" && value ? printable(value) : inline(value);
}
