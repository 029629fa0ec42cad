// Episodes: the list of a run, filtered, sorted and searched; it follows the run while that trains.

import { cut, h, fill } from "./dom.js";
import { get, ofRun } from "./api.js";
import { count, duration, num, printable, signed } from "./format.js";
import { FilterBar } from "./filterbar.js";
import { Rows } from "./table.js";
import { to } from "./router.js";

const ROW = 30; // pixels

// Columns: name, heading, how it is ordered (none: not), which width it is dropped at, how it is drawn.
const COLUMNS = [
  ["id", "#", "id", "wide", (row) => h("span", { class: "n quiet" }, String(row.id))],
  ["step", "step", "step", "", (row) => h("span", { class: "n" }, row.phase === "train" ? "" : h("span", { class: "tag" }, row.phase), String(row.step))],
  ["task", "task", "task_id", "", (row) => cut(printable(row.task))],
  ["sample", "sample", null, "wide", (row) => h("span", { class: "n quiet" }, row.attempt ? `${row.sample}.${row.attempt}` : String(row.sample))],
  ["success", "", "success", "", (row) => verdict(row.success)],
  ["reward", "reward", "reward", "", (row) => h("span", { class: `n ${row.reward === null ? "quiet" : row.success ? "good" : row.reward > 0 ? "" : "bad"}` }, num(row.reward))],
  ["advantage", "advantage", "advantage", "wide", (row) => (row.filtered ? h("span", { class: "n quiet", title: `did not train: ${row.filtered}` }, "—") : h("span", { class: `n ${row.advantage > 0 ? "up" : row.advantage < 0 ? "down" : "quiet"}` }, signed(row.advantage)))],
  ["turns", "turns", "turns", "wide", (row) => h("span", { class: "n" }, String(row.turns))],
  ["calls", "calls", "tool_calls", "wide", (row) => h("span", { class: "n" }, String(row.calls), row.errors ? h("span", { class: "warn", title: "failed" }, ` ${row.errors}✗`) : null)],
  ["tokens", "tokens", "tokens", "wide", (row) => h("span", { class: "n" }, count(row.tokens))],
  ["stop", "ended", "stop_reason", "", (row) => h("span", { class: `cut ${stopClass(row.stop)}`, title: row.cause ? printable(row.cause) : null }, row.boundary ? `${row.stop}: ${row.boundary}` : row.stop)],
  ["seconds", "took", "seconds", "wide", (row) => h("span", { class: "n quiet" }, duration(row.seconds))],
];

/** Return a tick, a cross, or a dash where nobody knows. */
export function verdict(success) {
  if (success === null || success === undefined) return h("span", { class: "quiet", title: "not scored" }, "–");
  return success ? h("span", { class: "good", title: "success" }, "✓") : h("span", { class: "bad", title: "no success" }, "✗");
}

/** Return the class of an ending by how bad it is. */
export function stopClass(stop) {
  if (stop === "failed") return "bad";
  return ["max_turns", "max_tokens", "context_full", "deadline", "cancelled"].includes(stop) ? "warn" : "quiet";
}

const kept = { address: "", rows: [], chosen: 0, top: 0, more: false }; // of the list that was left last, to come back to

export async function openEpisodes({ run, query, go, signal, remember, fail }) {
  const state = { filter: query.filter || "", order: query.order || "id", way: query.way === "up" ? "up" : "down", more: true, asking: 0 };
  const list = new Rows({ label: "Episodes", rowHeight: ROW, draw, open: (row) => go(to.episode(run, row.key)), more: () => more() });
  const head = h("div", { class: "list-head", role: "row" });
  const news = h("button", { class: "news", hidden: true, on: { click: () => load() } });
  const bar = new FilterBar({ text: state.filter, details: { words: {}, fields: [] }, change: (text) => change({ filter: text }) });
  const empty = h("p", { class: "empty", hidden: true });
  let loading = null;

  const address = () => to.episodes(run, { filter: state.filter, order: state.order === "id" ? null : state.order, way: state.way === "down" ? null : "up" });
  const ask = (after, limit = 100) => get(ofRun(run, "episodes", { filter: state.filter, order: state.order, way: state.way, after, limit }), signal);
  const change = (values) => {
    Object.assign(state, values);
    remember(address());
    if (values.order || values.way) drawHead();
    return load();
  };
  const load = async () => {
    const mine = (state.asking += 1);
    news.hidden = true;
    const counted = tell(mine); // at the same time
    counted.catch(() => {});
    try {
      const page = await ask(null);
      if (mine !== state.asking) return;
      state.more = page.more;
      loading = null;
      list.set(page.rows);
      empty.hidden = page.rows.length > 0;
      fill(empty, state.filter ? "No episode matches. Take a term out of the filter." : "No episode has finished yet. They show here as they do.");
      await counted;
    } catch (error) {
      if (error.name !== "AbortError" && mine === state.asking) bar.refuse(error);
    }
  };
  const tell = async (mine) => {
    const found = await get(ofRun(run, "count", { filter: state.filter }), signal);
    if (mine === state.asking) bar.tell(state.filter ? `${count(found.count)}${found.more ? "+" : ""} of ${count(found.total)} episodes` : `${count(found.total)} episodes`);
  };
  const more = () => {
    if (loading || !state.more || !list.rows.length) return;
    const mine = state.asking;
    loading = ask(list.rows.at(-1).id).then((page) => {
      if (mine !== state.asking) return;
      state.more = page.more;
      loading = null;
      list.append(page.rows);
    }).catch((error) => {
      loading = null; // scrolling on asks again
      if (error.name !== "AbortError") bar.refuse(error);
    });
  };
  const sort = (order) => change(order === state.order ? { way: state.way === "down" ? "up" : "down" } : { order, way: order === "task_id" ? "up" : "down" });
  const drawHead = () => fill(head, COLUMNS.map(([name, title, order, kind]) => heading(name, title, order, kind, state, sort)));
  const turnSort = () => {
    const orders = COLUMNS.map(([, , order]) => order).filter(Boolean);
    sort(orders[(orders.indexOf(state.order) + 1) % orders.length]);
  };
  const refresh = async () => {
    const page = await ask(null);
    const known = new Set(list.rows.map((row) => row.id));
    const fresh = page.rows.filter((row) => !known.has(row.id));
    empty.hidden = page.rows.length > 0;
    if (list.node.scrollTop < ROW || !list.rows.length) {
      // In sight: rows that changed (an advantage came) and new ones take their places.
      const chosen = list.rows[list.chosen]?.id;
      const rest = list.rows.filter((row) => !page.rows.some((other) => other.id === row.id));
      const wasTop = list.chosen === 0;
      list.set(state.order === "id" && !fresh.length ? [...page.rows, ...rest] : page.rows, { keep: true });
      state.more = page.more || rest.length > 0;
      if (!wasTop) list.choose(Math.max(0, list.rows.findIndex((row) => row.id === chosen)));
      fresh.forEach((row) => list.drawn.get(list.rows.indexOf(row))?.classList.add("is-new"));
    } else if (fresh.length) {
      news.hidden = false;
      fill(news, `${fresh.length}${page.more && fresh.length === page.rows.length ? "+" : ""} new: show them`);
    }
    await tell(state.asking);
  };

  drawHead();
  get(ofRun(run), signal).then((details) => (bar.details = details), (error) => error.status === 404 && fail(error)); // what it offers; the list needs none of it
  if (kept.address === address()) {
    list.set(kept.rows);
    state.more = kept.more;
    tell(state.asking).catch(() => {});
  } else load();
  const node = h("div", { class: "list-screen" }, h("div", { class: "list-top" }, bar.node, news), head, list.node, empty);
  return {
    title: `Episodes · ${run}`, node, up: to.steps(run),
    refresh: () => refresh().catch((error) => error.name === "AbortError" || bar.refuse(error)),
    ready: () => {
      const isBack = kept.address === address();
      if (isBack) list.node.scrollTop = kept.top;
      list.show();
      list.choose(isBack ? kept.chosen : list.chosen);
      list.node.focus({ preventScroll: true });
    },
    close: () => {
      Object.assign(kept, { address: address(), rows: list.rows, chosen: list.chosen, top: list.node.scrollTop, more: state.more });
      list.close();
    },
    keys: [
      { keys: ["/"], about: "filter", act: () => bar.focus() },
      ...list.keys("episode"),
      { keys: ["s"], about: "sort by the next column", act: turnSort },
      { keys: ["r"], about: "the other way round", act: () => sort(state.order) },
      { keys: ["G"], about: "its whole group", act: () => list.rows[list.chosen] && go(to.group(run, list.rows[list.chosen].key)) },
      { keys: ["c"], about: "no filter", act: () => bar.set("") },
    ],
  };
}

function draw(row) {
  return h("div", { class: `list-row${row.filtered ? " is-filtered" : ""}` }, COLUMNS.map(([name, , , kind, cell]) => h("div", { class: `col-${name} ${kind}` }, cell(row))));
}

function heading(name, title, order, kind, state, sort) {
  const isOn = order && order === state.order;
  const mark = isOn ? (state.way === "down" ? " ↓" : " ↑") : "";
  const inside = order ? h("button", { class: "link", "aria-label": `sort by ${title || "success"}`, on: { click: () => sort(order) } }, title || "✓", mark) : title;
  return h("div", { class: `col-${name} ${kind}`, role: "columnheader", "aria-sort": isOn ? (state.way === "down" ? "descending" : "ascending") : null }, inside);
}
