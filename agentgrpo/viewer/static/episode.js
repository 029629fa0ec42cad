// Episode: one in full, as a conversation or as tokens, with its group, its rewards and its forks.

import { h, fill } from "./dom.js";
import { bytes, get, ofRun } from "./api.js";
import { EpisodeBody } from "./episodebody.js";
import { forkDialog } from "./fork.js";
import { printable } from "./format.js";
import { to } from "./router.js";

export async function openEpisode({ run, query, go, signal, remember }) {
  let data = await get(ofRun(run, "episode", { episode: query.key }), signal);
  const { key } = data.row;
  const state = { view: query.view === "tokens" ? "tokens" : "text", colour: query.colour || "mask", path: Number(query.path) || 0, turn: Number(query.turn) || 0 };
  const save = () => remember(to.episode(run, key, { view: state.view === "text" ? null : "tokens", colour: state.view === "tokens" ? state.colour : null, path: state.path || null, turn: state.turn || null }));
  const fork = (turn) => forkDialog({ run, episode: data, turn, done: refresh });
  const load = () => bytes(ofRun(run, "tokens", { episode: String(data.row.id) }), signal);
  const links = { episode: (other) => to.episode(run, other), group: (other) => to.group(run, other), step: (row) => to.steps(run, { step: row.step, phase: row.phase === "eval" ? "eval" : null }), task: (row) => to.episodes(run, { filter: `task:"${row.task.replace(/[\\"]/g, "\\$&")}"` }) };
  let body = new EpisodeBody({ data, state, save, fork, load, links });
  const node = h("div", { class: "page is-wide" }, body.node);

  async function refresh() {
    const fresh = await get(ofRun(run, "episode", { episode: key }), signal);
    if (JSON.stringify(fresh) === JSON.stringify(data)) return;
    data = fresh;
    body = new EpisodeBody({ data, state, save, fork, load, links });
    fill(node, body.node);
    body.ready();
  }
  const mates = () => data.group.map((mate) => mate.key);
  const sibling = (by) => {
    const next = mates()[mates().indexOf(key) + by];
    if (next) go(to.episode(run, next, { view: state.view === "text" ? null : "tokens", colour: state.view === "tokens" ? state.colour : null }));
  };
  return {
    title: `${printable(key)} · ${run}`, node, refresh, up: to.group(run, key),
    ready: () => body.ready(),
    keys: [
      { keys: ["j", "ArrowDown"], about: "next turn", act: () => body.move(1) },
      { keys: ["k", "ArrowUp"], about: "previous turn", act: () => body.move(-1) },
      { keys: ["l", "ArrowRight"], about: "next episode of the group", act: () => sibling(1) },
      { keys: ["h", "ArrowLeft"], about: "previous episode of the group", act: () => sibling(-1) },
      { keys: ["e"], about: "next call that failed", act: () => body.nextError() },
      { keys: ["t"], about: "tokens or conversation", act: () => body.toggle() },
      { keys: ["m"], about: "colour tokens by something else", act: () => body.nextColour() },
      { keys: ["."], about: "next token", act: () => body.step(1) },
      { keys: [","], about: "previous token", act: () => body.step(-1) },
      { keys: ["]"], about: "next training row of a forked episode", act: () => body.nextPath(1) },
      { keys: ["["], about: "previous training row", act: () => body.nextPath(-1) },
      { keys: ["G"], about: "the whole group", act: () => go(to.group(run, key)) },
      { keys: ["F"], about: "fork from the turn at hand", act: () => fork(state.turn) },
      { keys: ["a"], about: "all episodes of the task", act: () => go(links.task(data.row)) },
    ],
  };
}
