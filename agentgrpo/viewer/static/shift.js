// What changed at a step: a table of tools, kinds of task and endings, and a sentence on where to look first.

import { h } from "./dom.js";
import { count, percent, printable, signed } from "./format.js";
import { quote } from "./filterbar.js";
import { to } from "./router.js";

const THAT = { tool: "call", family: "are tasks", stop: "ended", env: "run in" };
const FELL = -0.05; // difference of success from which on a cause is looked for

/** Return the steps to compare: up to `width` before a step, and up to `width` from it on. */
export function spans(steps, step, width) {
  const at = steps.findIndex((known) => known >= step);
  const cut = at < 0 ? steps.length : at;
  const before = steps.slice(Math.max(0, cut - width), cut);
  const after = steps.slice(cut, cut + width);
  if (!before.length || !after.length) return [null, null];
  return [[before[0], before.at(-1)], [after[0], after.at(-1)]];
}

/** Return the table. `narrower` and `wider` compare spans of other lengths. */
export function shiftPanel(run, found, { narrower, wider }) {
  const { before, after, shifts } = found;
  const difference = before.success !== null && after.success !== null ? after.success - before.success : null;
  const word = difference === null ? "" : ` (${signed(difference * 100, 0)} points)`;
  return [
    h("h2", {}, `What changed at step ${after.steps[0]}`,
      h("span", { class: "aside" },
        h("button", { class: "link", title: "compare narrower spans of steps (-)", on: { click: narrower } }, "narrower"), " · ",
        h("button", { class: "link", title: "compare wider spans of steps (+)", on: { click: wider } }, "wider"))),
    h("p", {}, "Success ", h("b", {}, percent(before.success)), ` in ${named(before)}, `, h("b", {}, percent(after.success)), ` in ${named(after)}`, h("span", { class: Math.abs(difference) < 0.005 ? "quiet" : difference < 0 ? "bad" : "good" }, word), "."),
    difference !== null && difference < FELL ? advice(run, found) : null,
    shifts.length
      ? h("table", { class: "grid shifts" },
          h("thead", {}, h("tr", {}, ["in episodes that", "how many", "success", "calls failed", "calls changed the state"].map((name, i) => h("th", { class: i ? "n" : null }, name)))),
          h("tbody", {}, shifts.map((shift) => shiftLine(run, shift, found))))
      : h("p", { class: "quiet" }, "No tool, kind of task, environment or ending stands out."),
  ];
}

function named({ steps: [first, last] }) {
  return first === last ? `step ${first}` : `steps ${first}–${last}`;
}

/** Return a sentence on where to look first: at the tool whose own calls differ, if there is one. */
function advice(run, found) {
  const [first] = found.shifts;
  if (!first) return null;
  const link = h("a", { href: to.episodes(run, { filter: filterOf(first, found, found.after) }) }, printable(first.value) || "a number");
  return h("p", { class: "advice" }, "Look first at ", first.facet === "stop" ? "episodes that ended " : null, link, ": ", whyFirst(first, found));
}

function whyFirst({ facet, before, after, reason }, found) {
  const change = (of, one, two) => [of, " ", h("b", {}, percent(one)), " of the time before, ", h("b", { class: "bad" }, percent(two)), " now"];
  if (reason === "errors") return [change("its calls failed", before.errors, after.errors), "."];
  if (reason === "effect") return [change("its calls changed the state", before.changed, after.changed), !after.errors && after.changed < before.changed ? ", and none of them failed: it answers, but does less." : "."];
  if (facet === "stop") return [percent(before.episodes / found.before.episodes), " of all before, ", h("b", {}, percent(after.episodes / found.after.episodes)), " now."];
  const known = found.shifts.some((shift) => shift.reason) ? "" : " No tool's own calls differ, so look at what was asked and what was answered.";
  return [change("success", before.success, after.success), ".", known];
}

/** Return the filter that finds the episodes of a line in one of its two spans. */
function filterOf({ facet, value }, found, span) {
  const part = facet === "stop" ? stopFilter(value) : facet === "family" ? `task:${quote(`${value}*`)}` : `${facet}:${quote(value)}`;
  return `step:${span.steps.join("..")} phase:${found.phase} ${part}`;
}

function shiftLine(run, shift, found) {
  const { facet, value, before, after } = shift;
  const arrow = (one, two, format, isBad) => [h("span", { class: "quiet" }, format(one), " → "), h("b", { class: one === null || two === null ? null : isBad(two - one) }, format(two))];
  const link = (span, text) => {
    const filter = filterOf(shift, found, span);
    return h("a", { href: to.episodes(run, { filter }), title: filter }, text);
  };
  const isTool = facet === "tool";
  const down = (d) => (d < -0.05 ? "bad" : d > 0.05 ? "good" : null);
  return h("tr", { class: shift.reason ? "is-direct" : null },
    h("th", { scope: "row" }, h("span", { class: "quiet" }, THAT[facet], " "), link(found.after, printable(value) || "(a number)")),
    h("td", { class: "n", data: { name: "how many" } }, link(found.before, count(before.episodes)), h("span", { class: "quiet" }, " → "), link(found.after, h("b", {}, count(after.episodes)))),
    h("td", { class: "n", data: { name: "success" } }, arrow(before.success, after.success, percent, down)),
    h("td", { class: "n", data: { name: "calls failed" } }, arrow(before.errors, after.errors, percent, (d) => down(-d))),
    h("td", { class: "n", data: { name: "changed state" }, title: isTool && before.turns + after.turns ? `of ${before.turns} and ${after.turns} turns that called nothing else and did not fail` : null },
      isTool && before.changed !== null && after.changed !== null ? arrow(before.changed, after.changed, percent, (d) => (Math.abs(d) > 0.1 ? "bad" : null)) : h("span", { class: "quiet" }, "–")));
}

/** Return the filter for an ending as the sums name it: `failed:tool` is an ending and a boundary. */
export function stopFilter(value) {
  const [stop, boundary] = value.split(":");
  return boundary ? `stop:${stop} boundary:${boundary}` : `stop:${stop}`;
}
