// Runs: what there is, how each went, curves over each other, and what their configurations differ in.

import { h, fill } from "./dom.js";
import { get, ofRun } from "./api.js";
import { Chart, spark } from "./charts.js";
import { count, duration, inline, middle, percent, printable, when } from "./format.js";
import { to } from "./router.js";

const MOST_CURVES = 6;
const STATUS = { running: "running", silent: "no word for a minute", finished: "finished", stopped: "stopped", failed: "failed", unknown: "not known" };

export async function openRuns({ query, go, signal, remember }) {
  const data = await get("/api/runs", signal);
  const runs = data.runs;
  const picked = new Set((query.runs || "").split(",").filter((name) => runs.some((run) => run.name === name)));
  const rows = h("div", { class: "run-list", role: "list" });
  const above = h("section", { class: "run-curves" });
  const below = h("section", { class: "differences" });
  let chosen = 0;
  let charts = [];

  const choose = (index) => {
    chosen = Math.max(0, Math.min(index, runs.length - 1));
    [...rows.children].forEach((row, i) => row.classList.toggle("is-chosen", i === chosen));
    rows.children[chosen]?.scrollIntoView({ block: "nearest" });
  };
  const toggle = (name) => {
    if (picked.has(name)) picked.delete(name);
    else if (picked.size < MOST_CURVES) picked.add(name);
    remember(to.runs({ runs: [...picked].join(",") }));
    draw();
  };
  const draw = () => {
    const held = document.activeElement; // stays where it was, though the lines are made anew
    const name = held.closest(".run-line")?.dataset.run;
    fill(rows, runs.map((run, i) => runLine(run, picked, toggle, i === chosen)));
    if (name) [...rows.children].find((row) => row.dataset.run === name)?.querySelector(held.localName)?.focus({ preventScroll: true });
    charts.forEach((chart) => chart.close());
    const shown = picked.size ? runs.filter((run) => picked.has(run.name)) : [];
    charts = shown.length ? curves(shown) : [];
    fill(above, charts.map((chart) => chart.node));
    if (shown.length > 1) differences(shown, signal).then((table) => fill(below, table));
    else fill(below);
  };
  draw();

  const node = h("div", { class: "page" },
    h("div", { class: "heading" }, h("h1", {}, "Runs"), h("p", { class: "quiet" }, `${count(runs.length)} in ${printable(data.root)}. Tick some to lay their curves over each other.`)),
    runs.length ? null : h("p", { class: "empty" }, "No runs yet: agentgrpo demo makes one."),
    rows, above, below);
  const timer = setInterval(async () => {
    if (document.hidden) return;
    const fresh = await get("/api/runs", signal).catch(() => null);
    if (fresh && JSON.stringify(fresh.runs) !== JSON.stringify(runs)) {
      runs.splice(0, runs.length, ...fresh.runs);
      draw();
    }
  }, 3000);
  return {
    title: "Runs", node,
    close: () => (clearInterval(timer), charts.forEach((chart) => chart.close())),
    keys: [
      { keys: ["j", "ArrowDown"], about: "next run", act: () => choose(chosen + 1) },
      { keys: ["k", "ArrowUp"], about: "previous run", act: () => choose(chosen - 1) },
      { keys: ["Enter", "o"], about: "open the run", act: () => runs[chosen] && go(to.steps(runs[chosen].name)) },
      { keys: ["x", " "], about: "lay its curves over others", act: () => runs[chosen] && toggle(runs[chosen].name) },
    ],
  };
}

function runLine(run, picked, toggle, isChosen) {
  const series = [{ colour: 1, points: run.success }, { colour: 3, points: run.heldout, dots: true }];
  const looks = run.heldout;
  const change = looks.length > 1
    ? [h("b", {}, percent(looks.at(-1)[1])), h("span", { class: "quiet" }, ` from ${percent(looks[0][1])}`)]
    : [h("b", {}, percent(looks.at(-1)?.[1] ?? run.success.at(-1)?.[1]))];
  const steps = run.planned ? `${count(run.steps)} of ${count(run.planned)}` : count(run.steps);
  return h("div", { class: `run-line${isChosen ? " is-chosen" : ""}`, role: "listitem", data: { run: run.name } },
    h("label", { class: "tick-box", title: "Lay its curves over others (x)" },
      h("input", { type: "checkbox", checked: picked.has(run.name), "aria-label": `curves of ${run.name}`, on: { change: () => toggle(run.name) } })),
    h("div", { class: "run-name" },
      h("a", { href: to.steps(run.name) }, middle(run.name, 48)),
      h("div", { class: "quiet" }, h("span", { class: `status is-${run.status}`, title: STATUS[run.status] || run.status }, STATUS[run.status] || printable(run.status)), " · ", printable(run.env || "environment not known"), run.model ? ` · ${printable(run.model)}` : "")),
    h("div", { class: "run-spark" }, spark(series)),
    fact(looks.length ? "held out" : "success", change),
    fact("steps", steps),
    fact("episodes", [count(run.episodes), run.failed ? h("span", { class: "bad" }, ` ${count(run.failed)} failed`) : null], "wide"),
    fact("took", duration(run.seconds), "wide"),
    fact("started", when(run.started), "wide"));
}

function fact(name, value, kind = "") {
  return h("div", { class: `fact ${kind}` }, h("span", { class: "label" }, name), h("span", { class: "value" }, value));
}

function curves(runs) {
  const series = (name, dots = false) => runs.map((run, i) => ({ name: middle(run.name, 28), colour: (i % 6) + 1, points: run[name], dots }));
  const charts = [new Chart({ title: "Success in training", series: series("success"), height: 200, format: percent, top: 1 })];
  if (runs.some((run) => run.heldout.length)) charts.push(new Chart({ title: "Held-out success", series: series("heldout", true), height: 200, format: percent, top: 1 }));
  charts.push(new Chart({ title: "Reward", series: series("reward"), height: 200 }));
  return charts;
}

/** Return a table of the settings in which runs differ. */
export async function differences(runs, signal) {
  const details = await Promise.all(runs.map((run) => get(ofRun(run.name), signal)));
  const configs = details.map((run) => run.config);
  const names = [...new Set(configs.flatMap(Object.keys))].sort();
  const text = (config, name) => (name in config ? inline(config[name]) : "");
  const changed = names.filter((name) => name !== "name" && new Set(configs.map((config) => text(config, name))).size > 1);
  if (!changed.length) return h("p", { class: "quiet" }, "Their configurations are the same.");
  return [
    h("h2", {}, "What their configurations differ in"),
    h("div", { class: "scroll-x" }, h("table", { class: "grid" },
      h("thead", {}, h("tr", {}, h("th", {}, "setting"), details.map((run, i) => h("th", {}, h("span", { class: `legend c${(i % 6) + 1}` }, middle(run.name, 32)))))),
      h("tbody", {}, changed.map((name) => h("tr", {}, h("th", { scope: "row" }, printable(name)), configs.map((config) => h("td", {}, text(config, name) || h("span", { class: "quiet" }, "not set")))))))),
  ];
}
