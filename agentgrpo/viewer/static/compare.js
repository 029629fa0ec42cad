// Compare: the same tasks in two runs (or at two steps of one), and one task's episodes side by side.

import { cut, h, fill } from "./dom.js";
import { address, get, ofRun } from "./api.js";
import { columnKeys, columnsView } from "./columns.js";
import { middle, percent, printable, signed } from "./format.js";
import { to } from "./router.js";
import { differences } from "./runs.js";
import { chip } from "./steps.js";
import { Rows } from "./table.js";

const TASK_ROW = 34;
const MOST_SIDE = 4; // episodes of each side that are put beside each other

export async function openCompare({ query, go, signal, remember }) {
  const { runs } = await get("/api/runs", signal);
  if (!runs.length) return { title: "Compare", node: h("p", { class: "empty" }, "No runs yet.") };
  const name = (wanted, i) => (runs.some((run) => run.name === wanted) ? wanted : (runs[i] || runs[0]).name);
  const state = { a: name(query.a, 1), b: name(query.b, 0), phase: query.phase === "train" ? "train" : "eval", as: query.as, bs: query.bs, task: query.task };
  const details = await Promise.all([state.a, state.b].map((run) => get(ofRun(run, "steps"), signal)));
  const step = (wanted, data) => {
    const known = data[state.phase].steps;
    return known.includes(Number(wanted)) && wanted !== undefined ? Number(wanted) : known.at(-1) ?? null;
  };
  if (state.phase === "eval" && !query.phase && !(details[0].eval.steps.length && details[1].eval.steps.length)) state.phase = "train";
  state.as = step(state.as, details[0]);
  state.bs = state.a === state.b && query.bs === undefined && details[1][state.phase].steps.length > 1 && query.as === undefined ? details[1][state.phase].steps.at(-1) : step(state.bs, details[1]);
  if (state.a === state.b && query.as === undefined) state.as = details[0][state.phase].steps[0] ?? null;

  const here = (more = {}) => {
    const all = { a: state.a, b: state.b, phase: state.phase, as: state.as, bs: state.bs, task: state.task, ...more };
    return to.compare(all);
  };
  const sides = await Promise.all([[state.a, state.as], [state.b, state.bs]].map(([run, at]) => (at === null ? { groups: [] } : get(ofRun(run, "groups", { phase: state.phase, step: at }), signal))));
  const lines = pair(sides);
  const at = { column: 0 };
  const beside = h("section", { class: "beside" });
  const list = new Rows({ label: "Tasks", rowHeight: TASK_ROW, draw: (line) => taskLine(line), open: (line) => show(line.task) });
  const select = (side, values, value, change) => h("select", { "aria-label": side, on: { change: (event) => change(event.target.value) } }, values.map(([text, label]) => h("option", { value: text, selected: String(text) === String(value) }, label)));
  const steps = (data) => data[state.phase].steps.map((number) => [number, `step ${number}`]);
  const names = runs.map((run) => [run.name, run.name]);
  const note = summary(lines, state);

  async function show(task) {
    state.task = task;
    remember(here());
    const line = lines.find((known) => known.task === task);
    const picks = line ? [["a", state.a], ["b", state.b]].flatMap(([side, run]) => (line[side]?.episodes || []).slice(0, MOST_SIDE).map((episode) => `${run} ${episode.id}`)) : [];
    if (!picks.length) return fill(beside);
    const data = await get(address("/api/compare", { pick: picks }), signal);
    at.column = 0;
    fill(beside, h("h2", {}, printable(task)), columnsView(data, { withRun: true, chosen: 0 }));
    list.choose(list.chosen); // the list is lower now: what was chosen stays in sight
  }

  const table = h("div", {});
  if (state.a !== state.b) differences([{ name: state.a }, { name: state.b }], signal).then((found) => fill(table, found), () => {});
  const node = h("div", { class: "page is-wide compare" },
    h("div", { class: "heading" }, h("h1", {}, "Compare"), h("p", { class: "quiet" }, note)),
    h("div", { class: "compare-bar" },
      h("div", { class: "compare-side" }, h("b", { class: "legend c1" }, "A"), select("run A", names, state.a, (a) => go(here({ a, as: null, task: null }))), select("step of A", steps(details[0]), state.as, (as) => go(here({ as })))),
      h("div", { class: "compare-side" }, h("b", { class: "legend c2" }, "B"), select("run B", names, state.b, (b) => go(here({ b, bs: null, task: null }))), select("step of B", steps(details[1]), state.bs, (bs) => go(here({ bs })))),
      select("episodes", [["eval", "held-out tasks"], ["train", "training groups"]], state.phase, (phase) => go(here({ phase, as: null, bs: null, task: null })))),
    lines.length ? [h("div", { class: "task-line is-head" }, h("span", {}, "task"), h("span", {}, "A"), h("span", {}, "B"), h("span", { class: "n" }, h("span", { class: "wide" }, "reward, "), "B − A")), list.node] : h("p", { class: "empty" }, "The two have no task in common there. Choose other steps or other episodes."),
    beside, table);
  list.set(lines);
  const columns = columnKeys(beside, at, () => beside.querySelectorAll(".columns-head").length, go).filter(({ keys }) => !keys.includes("j") && !keys.includes("k"));
  return {
    title: "Compare", node, up: to.runs(),
    ready: () => {
      list.show();
      list.node.focus({ preventScroll: true });
      if (state.task) {
        list.choose(Math.max(0, lines.findIndex((line) => line.task === state.task)));
        show(state.task);
      }
    },
    close: () => list.close(),
    keys: [
      ...list.keys("task").map((key) => (key.keys.includes("o") ? { ...key, about: "its episodes side by side" } : key)),
      ...columns.map((key) => (key.keys.includes("o") ? { ...key, keys: ["O"] } : key)),
      { keys: ["w"], about: "swap A and B", act: () => go(here({ a: state.b, b: state.a, as: state.bs, bs: state.as })) },
      { keys: ["v"], about: "held-out tasks or training groups", act: () => go(here({ phase: state.phase === "eval" ? "train" : "eval", as: null, bs: null, task: null })) },
    ],
  };
}

/** Return the tasks both have, those that differ most first. */
function pair([a, b]) {
  const known = new Map(b.groups.map((group) => [group.task, group]));
  const both = a.groups.filter((group) => known.has(group.task)).map((group) => ({ task: group.task, a: group, b: known.get(group.task) }));
  const gap = ({ a: one, b: two }) => Math.abs((two.reward ?? 0) - (one.reward ?? 0));
  return both.sort((x, y) => gap(y) - gap(x) || (x.task < y.task ? -1 : 1));
}

function summary(lines, state) {
  const mean = (side) => lines.reduce((sum, line) => sum + (line[side].success ?? 0), 0) / (lines.length || 1);
  const better = lines.filter(({ a, b }) => (b.reward ?? 0) > (a.reward ?? 0)).length;
  const worse = lines.filter(({ a, b }) => (b.reward ?? 0) < (a.reward ?? 0)).length;
  if (!lines.length) return "";
  return `${lines.length} tasks in both: success ${percent(mean("a"))} in A (${middle(state.a, 32)}, step ${state.as}), ${percent(mean("b"))} in B (${middle(state.b, 32)}, step ${state.bs}). B is better on ${better}, worse on ${worse}.`;
}

function taskLine({ task, a, b }) {
  const gap = a.reward === null || b.reward === null ? null : b.reward - a.reward;
  return h("div", { class: "task-line" },
    cut(printable(task)),
    h("span", { class: "chips" }, a.episodes.slice(0, 16).map(chip)), h("span", { class: "chips" }, b.episodes.slice(0, 16).map(chip)),
    h("span", { class: `n ${gap > 0 ? "good" : gap < 0 ? "bad" : "quiet"}` }, signed(gap)));
}
