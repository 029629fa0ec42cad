// How episodes ended, which tools failed and which kinds of task succeed, step by step: rows of shaded cells.

import { h, svg, fill } from "./dom.js";
import { count, percent, printable } from "./format.js";
import { quote } from "./filterbar.js";
import { stopFilter } from "./shift.js";
import { to } from "./router.js";

const MOST_CELLS = 120;

/** Return a grid for each kind of sum that has something to show; `heldout` are those of the evaluations. */
export function facetGrids(run, { train: facets, eval: heldout }, cursor) {
  if (!facets) return [];
  const share = (rows) => {
    const totals = new Map();
    for (const row of facets.stop || []) row.steps.forEach((step, i) => totals.set(step, (totals.get(step) || 0) + row.episodes[i]));
    return rows.map((row) => ({ ...row, values: row.steps.map((step, i) => [row.episodes[i], totals.get(step)]) }));
  };
  const rate = (rows, part, whole) => rows.map((row) => ({ ...row, values: row.steps.map((_, i) => [row[part][i], row[whole][i]]) }));
  const stops = share(facets.stop || []);
  const failures = stops.filter((row) => row.value.startsWith("failed"));
  return [
    grid(run, { title: "How episodes ended", about: "share of the step's episodes", rows: stops.filter((row) => !row.value.startsWith("failed")), colour: "ends", filter: stopFilter, cursor }),
    failures.length ? grid(run, { title: "What failed", about: "episodes that broke, by the boundary that broke", rows: failures, colour: "bad", filter: stopFilter, cursor }) : null,
    grid(run, { title: "Tool calls that failed", about: "share of the tool's calls", rows: rate(facets.tool || [], "errors", "calls"), colour: "bad", filter: (value) => `error:${quote(value)}`, cursor }),
    (facets.env || []).length > 1 ? grid(run, { title: "Success by environment", about: "", rows: rate(facets.env, "successes", "scored"), colour: "good", filter: (value) => `env:${quote(value)}`, cursor }) : null,
    (facets.family || []).length > 1 ? grid(run, { title: "Success by kind of task", about: "tasks that differ by a number only", rows: rate(facets.family, "successes", "scored"), colour: "good", filter: (value) => `task:${quote(`${value}*`)}`, cursor }) : null,
    (heldout?.family || []).length > 1 ? grid(run, { title: "Held-out success by kind of task", about: "at each evaluation", rows: rate(heldout.family, "successes", "scored"), colour: "good", filter: (value) => `phase:eval task:${quote(`${value}*`)}`, cursor }) : null,
    (facets.tool || []).length ? grid(run, { title: "Success of episodes that called a tool", about: "", rows: rate(facets.tool, "successes", "scored"), colour: "good", filter: (value) => `tool:${quote(value)}`, cursor }) : null,
  ];
}

function grid(run, { title, about, rows, colour, filter, cursor }) {
  if (!rows.length) return null;
  const all = [...new Set(rows.flatMap((row) => row.steps))].sort((a, b) => a - b);
  const cells = bins(all);
  return h("section", { class: `facets is-${colour}` },
    h("h2", {}, title, about ? h("span", { class: "aside quiet" }, about) : null),
    h("div", { class: "facet-rows" }, rows.slice(0, 24).map((row) => facetLine(run, row, cells, filter, cursor))));
}

/** Return spans of steps, few enough to tell apart. */
function bins(steps) {
  const size = Math.ceil(steps.length / MOST_CELLS) || 1;
  const found = [];
  for (let at = 0; at < steps.length; at += size) found.push([steps[at], steps[Math.min(at + size, steps.length) - 1]]);
  return found;
}

function facetLine(run, row, cells, filter, cursor) {
  const totals = cells.map(() => [0, 0]);
  let at = 0;
  row.steps.forEach((step, i) => {
    while (step > cells[at][1]) at += 1;
    totals[at][0] += row.values[i][0];
    totals[at][1] += row.values[i][1] || 0;
  });
  const sum = totals.reduce(([a, b], [x, y]) => [a + x, b + y], [0, 0]);
  const readout = h("span", { class: "n facet-now" }, percent(sum[1] ? sum[0] / sum[1] : null));
  const boxes = totals.map(([part, whole], i) => {
    const box = svg("rect", { x: i, y: 0, width: 0.92, height: 1, class: whole ? "cell" : "cell is-none" });
    if (whole) box.style.setProperty("--level", String(Math.round((part / whole) * 100) / 100));
    return box;
  });
  const strip = svg("svg", { class: "facet-strip", viewBox: `0 0 ${cells.length} 1`, preserveAspectRatio: "none", role: "img", "aria-label": `${row.value}: ${percent(sum[1] ? sum[0] / sum[1] : null)} overall` }, boxes);
  const indexOf = (event) => {
    const box = strip.getBoundingClientRect();
    return Math.max(0, Math.min(cells.length - 1, Math.floor(((event.clientX - box.left) / box.width) * cells.length)));
  };
  strip.addEventListener("pointermove", (event) => {
    const i = indexOf(event);
    const [part, whole] = totals[i];
    fill(readout, whole ? `${percent(part / whole)}` : "–");
    readout.title = whole ? `${count(part)} of ${count(whole)} at step ${cells[i].join("–")}` : "";
    cursor.move(cells[i][0]);
  });
  strip.addEventListener("pointerleave", () => {
    fill(readout, percent(sum[1] ? sum[0] / sum[1] : null));
    cursor.move(null);
  });
  strip.addEventListener("click", (event) => cursor.pick(cells[indexOf(event)][0]));
  return h("div", { class: "facet-row" }, h("a", { href: to.episodes(run, { filter: filter(row.value) }), title: printable(row.value) }, printable(row.value) || "(a number)"), strip, readout);
}
