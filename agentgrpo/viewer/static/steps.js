// Steps: every curve over train steps, what the failures were, and the groups of one step; what changed there is in shift.js.

import { cut, h, fill } from "./dom.js";
import { get, ofRun } from "./api.js";
import { Chart, Cursor, pairs } from "./charts.js";
import { facetGrids } from "./facets.js";
import { count, duration, num, percent, printable, signed } from "./format.js";
import { to } from "./router.js";
import { shiftPanel, spans } from "./shift.js";

const WIDTHS = [1, 3, 5, 10, 20]; // steps on either side of the one that is picked

// Small charts: metric, title, how it is written.
const SMALL = [
  ["sum:sampled_tokens", "Length, sampled tokens"],
  ["sum:turns", "Turns"],
  ["metric:train/kl", "KL, learner to engine"],
  ["metric:train/entropy", "Entropy, nats per token"],
  ["metric:train/staleness", "Staleness, updates"],
  ["sum:tool_error_rate", "Tool calls that failed", percent],
  ["metric:train/zero_variance_groups", "Groups without variance", percent],
  ["metric:train/truncated", "Cut off by a limit", percent],
  ["metric:train/grad_norm", "Gradient norm"],
  ["metric:train/clip_fraction", "Clipped tokens", percent],
  ["metric:train/effective_sample_size", "Effective sample size", percent],
  ["metric:time/rollout", "Rollout, seconds", duration],
];

export async function openSteps({ run, query, go, signal, remember }) {
  let data = await get(ofRun(run, "steps"), signal);
  const state = { step: query.step ? Number(query.step) : null, phase: query.phase === "eval" ? "eval" : "train", width: Number(query.width) || 5 };
  const cursor = new Cursor((step) => pick(step));
  const panel = h("section", { class: "shift" });
  const groups = h("section", { class: "groups" });
  let charts = [];
  let chosen = 0;
  let shown = [];

  const pick = (step, { phase = state.phase } = {}) => {
    if (step === null || step === undefined) return;
    Object.assign(state, { step, phase });
    remember(to.steps(run, { step, phase: phase === "train" ? null : phase, width: state.width === 5 ? null : state.width }));
    cursor.choose(step);
    return Promise.all([showShift(), showGroups()]);
  };
  const showShift = async () => {
    if (state.step === null || state.phase === "eval") return fill(panel);
    const [before, after] = spans(data.train.steps, state.step, state.width);
    if (!before) return fill(panel, h("h2", {}, `Step ${state.step}`), h("p", { class: "quiet" }, "There are no steps before it to compare with."));
    const found = await get(ofRun(run, "shift", { phase: state.phase, before: before.join(".."), after: after.join("..") }), signal);
    if (after[0] !== spans(data.train.steps, state.step, state.width)[1]?.[0]) return; // another step was picked meanwhile
    fill(panel, shiftPanel(run, found, { narrower: () => widen(-1), wider: () => widen(1) }));
  };
  const showGroups = async () => {
    if (state.step === null) return fill(groups);
    const { phase, step } = state;
    const found = await get(ofRun(run, "groups", { phase, step }), signal);
    if (phase !== state.phase || step !== state.step) return; // another one was picked meanwhile
    shown = found.groups;
    chosen = 0;
    fill(groups, groupList(run, found, data, (phase) => pick(state.step, { phase })));
    markGroup();
  };
  const markGroup = () => [...groups.querySelectorAll(".group-line")].forEach((row, i) => row.classList.toggle("is-chosen", i === chosen));
  const chooseGroup = (by) => {
    chosen = Math.max(0, Math.min(chosen + by, shown.length - 1));
    markGroup();
    groups.querySelectorAll(".group-line")[chosen]?.scrollIntoView({ block: "nearest" });
  };
  const move = (by) => {
    const steps = data[state.phase].steps;
    if (!steps.length) return;
    const at = steps.findIndex((step) => step >= (state.step ?? Infinity));
    pick(steps[Math.max(0, Math.min((at < 0 ? steps.length : at) + by, steps.length - 1))]);
  };
  let drop = null;
  const toDrop = async () => {
    if (!drop) return;
    await pick(drop.step, { phase: "train" });
    panel.scrollIntoView({ block: "nearest" });
  };

  const large = new Chart({ title: "Success", series: successSeries(data), cursor, height: 230, format: percent, top: 1, domain: domain(data) });
  const reward = new Chart({ title: "Reward", series: [{ name: "train", colour: 2, points: pairs(data.train.steps, data.train.reward) }], cursor, height: 120, domain: domain(data) });
  const small = SMALL.map(([source, title, format]) => [source, new Chart({ title, series: seriesOf(data, source), cursor, height: 96, format: format || num, domain: domain(data) })]);
  charts = [large, reward, ...small.map(([, chart]) => chart)];
  const grids = h("div", {});
  const head = h("p", { class: "quiet" });
  const empty = h("p", { class: "empty" }, "No episode has finished yet. This page follows the run: it fills by itself.");
  const hint = h("p", { class: "hint" });
  const tell = () => {
    fill(head, headline(data));
    empty.hidden = data.train.steps.length > 0 || data.eval.steps.length > 0;
    drop = biggestDrop(data.train);
    hint.hidden = !drop;
    if (drop) fill(hint, h("button", { class: "link", on: { click: toDrop } }, `Success fell most at step ${drop.step}`), ` from ${percent(drop.before)} to ${percent(drop.after)}. `, h("span", { class: "key-hint" }, h("kbd", {}, "b"), " goes there."));
    for (const [, chart] of small) chart.node.hidden = !chart.series[0].points.length;
    fill(grids, facetGrids(run, data.facets, cursor));
  };
  tell();

  const node = h("div", { class: "page steps" },
    h("div", { class: "heading" }, h("h1", {}, "Steps"), head),
    empty, hint,
    h("div", { class: "chart-large" }, large.node), reward.node,
    panel, groups,
    h("div", { class: "chart-grid" }, small.map(([, chart]) => chart.node)),
    grids);

  return {
    title: `Steps · ${run}`, node, up: to.runs(),
    ready: () => state.step !== null && pick(state.step),
    close: () => charts.forEach((chart) => chart.close()),
    refresh: async () => {
      data = await get(ofRun(run, "steps"), signal);
      for (const chart of charts) chart.domain = domain(data);
      large.update(successSeries(data));
      reward.update([{ name: "train", colour: 2, points: pairs(data.train.steps, data.train.reward) }]);
      for (const [source, chart] of small) chart.update(seriesOf(data, source));
      tell();
    },
    keys: [
      { keys: ["h", "ArrowLeft"], about: "the step before", act: () => move(-1) },
      { keys: ["l", "ArrowRight"], about: "the step after", act: () => move(1) },
      { keys: ["j", "ArrowDown"], about: "next group of the step", act: () => chooseGroup(1) },
      { keys: ["k", "ArrowUp"], about: "previous group", act: () => chooseGroup(-1) },
      { keys: ["Enter", "o"], about: "open the group", act: () => shown[chosen] && go(to.group(run, shown[chosen].episodes[0].key)) },
      { keys: ["b"], about: "the step at which success fell most", act: toDrop },
      { keys: ["+"], about: "compare wider spans of steps", act: () => widen(1) },
      { keys: ["-"], about: "compare narrower spans", act: () => widen(-1) },
      { keys: ["v"], about: "training or held-out groups of the step", act: () => pick(state.step, { phase: state.phase === "train" ? "eval" : "train" }) },
      { keys: ["f"], about: "episodes of the step", act: () => state.step !== null && go(to.episodes(run, { filter: `step:${state.step} phase:${state.phase}` })) },
    ],
  };

  function widen(by) {
    const at = WIDTHS.findIndex((width) => width >= state.width);
    state.width = WIDTHS[Math.max(0, Math.min(at + by, WIDTHS.length - 1))];
    return pick(state.step);
  }
}

function headline(data) {
  const looks = data.eval;
  const known = pairs(looks.steps, looks.success);
  const episodes = data.train.episodes.reduce((sum, n) => sum + n, 0) + looks.episodes.reduce((sum, n) => sum + n, 0);
  const heldout = known.length > 1 ? `Held-out success ${percent(known[0][1])} to ${percent(known.at(-1)[1])}, ` : known.length ? `Held-out success ${percent(known[0][1])}, ` : "";
  return `${heldout}${count(data.train.steps.at(-1) ?? 0)} train steps, ${count(episodes)} episodes. Pick a step to see its groups and what changed there.`;
}

function domain(data) {
  const steps = [...data.train.steps, ...data.eval.steps, ...data.metrics.steps];
  return steps.length ? [Math.min(...[steps[0], data.eval.steps[0] ?? Infinity]), steps.reduce((most, step) => Math.max(most, step), 0)] : null;
}

function successSeries(data) {
  return [
    { name: "train", colour: 1, points: pairs(data.train.steps, data.train.success) },
    { name: "held out", colour: 3, points: pairs(data.eval.steps, data.eval.success), dots: true },
  ].filter((line) => line.points.length);
}

function seriesOf(data, source) {
  const [kind, name] = [source.slice(0, source.indexOf(":")), source.slice(source.indexOf(":") + 1)];
  const points = kind === "sum" ? pairs(data.train.steps, data.train[name]) : pairs(data.metrics.steps, data.metrics.series[name] || []);
  return [{ name: "", colour: 5, points }];
}

/** Return where the mean success of five steps fell most below that of the five before; null when it never fell much. */
export function biggestDrop({ steps, success }) {
  const width = 5;
  const mean = (values) => {
    const known = values.filter((value) => value !== null);
    return known.length ? known.reduce((sum, value) => sum + value, 0) / known.length : null;
  };
  let best = null;
  for (let i = 1; i < steps.length; i += 1) {
    const before = mean(success.slice(Math.max(0, i - width), i));
    const after = mean(success.slice(i, i + width));
    if (before === null || after === null || success[i] === null) continue;
    // Of the steps around a fall, the one where it happened: its own value is low already.
    const fall = before - after + (before - success[i]) * 0.5;
    if (!best || fall > best.fall) best = { step: steps[i], before, after, fall };
  }
  return best && best.before - best.after > 0.08 ? best : null;
}

function groupList(run, found, data, change) {
  const { phase, step, groups } = found;
  const other = phase === "train" ? "eval" : "train";
  const there = data[other].steps.includes(step);
  return [
    h("h2", {}, phase === "train" ? `Groups of step ${step}` : `Held-out tasks at step ${step}`,
      h("span", { class: "aside" },
        h("a", { href: to.episodes(run, { filter: `step:${step} phase:${phase}` }) }, "episodes"), " · ",
        h("a", { href: to.timeline(run, { step, phase: phase === "train" ? null : phase }) }, "timeline"),
        there ? [" · ", h("button", { class: "link", on: { click: () => change(other) } }, other === "eval" ? "held-out tasks" : "training groups")] : null)),
    groups.length ? h("div", { class: "group-lines" }, groups.map((group) => groupLine(run, group, phase))) : h("p", { class: "quiet" }, there ? "None of this kind; the others are one click away." : "No episode of this step is stored."),
    found.is_cut ? h("p", { class: "quiet" }, "Only the first 5 000 episodes are shown.") : null,
  ];
}

function groupLine(run, group, phase) {
  const isFlat = phase === "train" && group.spread === 0 && group.episodes.length > 1;
  return h("a", { class: `group-line${isFlat ? " is-flat" : ""}`, href: to.group(run, group.episodes[0].key) },
    cut(printable(group.task), "cut group-task"),
    h("span", { class: "chips" }, group.episodes.map(chip)),
    h("span", { class: "n" }, num(group.reward)),
    h("span", { class: "quiet n" }, isFlat ? "no variance" : phase === "train" ? `± ${num((group.spread ?? 0) / 2)}` : ""));
}

/** Return a small square for an episode: its outcome as colour, its reward in words. */
export function chip(episode) {
  const kind = episode.reward === null ? "none" : episode.success ? "good" : episode.reward > 0 ? "part" : "bad";
  return h("span", { class: `chip is-${kind}`, title: `sample ${episode.sample}: reward ${num(episode.reward)}, advantage ${signed(episode.advantage)}, ${episode.stop}` });
}
