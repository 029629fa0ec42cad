// Episodes side by side, aligned by turn: who does the same as whom, and where they first part.

import { h } from "./dom.js";
import { contentText, duration, num, printable, signed } from "./format.js";
import { callView, errorOf } from "./turns.js";
import { stopClass, verdict } from "./episodes.js";
import { to } from "./router.js";

/** Return a grid with a column for each episode and a row for each turn. `chosen` is the column the keys are at. */
export function columnsView(data, { withRun = false, chosen = 0 } = {}) {
  const { columns, divergence } = data;
  const turns = Math.max(0, ...columns.map((column) => column.turns.length));
  const grid = h("div", { class: "columns", role: "table" });
  grid.style.setProperty("--columns", String(columns.length));
  grid.append(h("div", { class: "columns-row is-head", role: "row" }, h("div", { class: "columns-label" }), columns.map((column, i) => head(column, withRun, i === chosen, i))));
  for (let turn = 0; turn < turns; turn += 1) {
    const isFirst = turn === divergence;
    grid.append(
      h("div", { class: `columns-row${isFirst ? " is-divergence" : ""}`, role: "row", id: `at-${turn}` },
        h("div", { class: "columns-label", role: "rowheader" }, h("span", {}, `Turn ${turn + 1}`), isFirst ? h("span", { class: "flag" }, "first divergence") : null),
        columns.map((column, i) => cell(column, turn, i === chosen, i))));
  }
  grid.append(h("div", { class: "columns-row is-end", role: "row" }, h("div", { class: "columns-label" }, "End"), columns.map((column, i) => end(column, i === chosen, i))));
  return grid;
}

function head({ run, row, terms }, withRun, isChosen, index) {
  const tone = row.filtered || row.advantage === null ? "is-flat" : row.advantage > 0 ? "is-up" : row.advantage < 0 ? "is-down" : "";
  return h("div", { class: `columns-cell columns-head ${tone}${isChosen ? " is-chosen" : ""}`, role: "columnheader", data: { column: index } },
    h("div", { class: "advantage", title: "advantage against the group" }, row.filtered ? "did not train" : row.advantage === null ? (row.phase === "eval" ? "held out" : "no advantage") : signed(row.advantage)),
    h("a", { href: to.episode(run, row.key) }, withRun ? printable(run) : row.attempt ? `sample ${row.sample}.${row.attempt}` : `sample ${row.sample}`),
    h("div", {}, verdict(row.success), " ", h("b", {}, num(row.reward)), " ", h("span", { class: "quiet" }, withRun ? `step ${row.step}, sample ${row.sample}` : row.filtered ? printable(row.filtered) : "")),
    h("div", { class: "quiet small" }, Object.entries(terms).map(([name, value]) => `${printable(name)} ${num(value)}`).join(" · ")));
}

function cell(column, turn, isChosen, index) {
  const data = column.turns[turn];
  const kind = `columns-cell${isChosen ? " is-chosen" : ""}`;
  if (!data) return h("div", { class: `${kind} is-over`, role: "cell", data: { column: index } });
  const branch = Math.min(column.branches[turn], 7);
  return h("div", { class: `${kind} branch-${branch}`, role: "cell", data: { column: index } },
    data.reasoning ? h("div", { class: "cell-text quiet" }, printable(data.reasoning)) : null,
    contentText(data.content).trim() ? h("div", { class: "cell-text" }, contentText(data.content)) : null,
    data.calls.map((call) => {
      const result = data.messages.find((message) => message.tool_call_id === call.id);
      const text = result ? contentText(result.content) : "";
      const error = result?.is_error ? errorOf(text) : null;
      return h("div", { class: "cell-exchange" }, callView(call), result ? h("div", { class: `cell-result${result.is_error ? " bad" : ""}` }, error ? `${error.type} ${error.message}` : text) : null);
    }),
    data.messages.filter((message) => !data.calls.some((call) => call.id === message.tool_call_id)).map((message) => h("div", { class: "cell-result" }, `${printable(message.role)}: ${contentText(message.content)}`)),
    data.changes ? h("div", { class: "cell-changes" }, `${data.changes} ${data.changes === 1 ? "change" : "changes"} of state`) : null);
}

function end({ row }, isChosen, index) {
  return h("div", { class: `columns-cell${isChosen ? " is-chosen" : ""}`, role: "cell", data: { column: index } },
    h("span", { class: stopClass(row.stop) }, row.boundary ? `${row.stop}: ${row.boundary}` : row.stop),
    row.cause ? h("div", { class: "bad small" }, printable(row.cause)) : null,
    h("div", { class: "quiet small" }, `${row.turns} turns · ${row.sampled} tokens · ${duration(row.seconds)}`));
}

/** The keys that move between columns. `at` holds the chosen column. */
export function columnKeys(node, at, size, go) {
  const choose = (index) => {
    at.column = Math.max(0, Math.min(index, size() - 1));
    for (const cell of node.querySelectorAll("[data-column]")) cell.classList.toggle("is-chosen", Number(cell.dataset.column) === at.column);
    node.querySelector(`.columns-head[data-column="${at.column}"]`)?.scrollIntoView({ block: "nearest", inline: "nearest" });
  };
  const scroll = (by) => node.closest(".screen").scrollBy({ top: by });
  return [
    { keys: ["l", "ArrowRight"], about: "next column", act: () => choose(at.column + 1) },
    { keys: ["h", "ArrowLeft"], about: "previous column", act: () => choose(at.column - 1) },
    { keys: ["j", "ArrowDown"], about: "down", act: () => scroll(120) },
    { keys: ["k", "ArrowUp"], about: "up", act: () => scroll(-120) },
    { keys: ["Enter", "o"], about: "open the episode", act: () => go(node.querySelector(`.columns-head[data-column="${at.column}"] a`).getAttribute("href")) },
    { keys: ["x"], about: "to the first divergence", act: () => node.querySelector(".is-divergence")?.scrollIntoView({ block: "center" }) },
  ];
}
