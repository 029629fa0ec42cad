// Timeline: when the episodes of a step ran, and what each waited for: a place, the model, its tools.

import { h, svg, fill } from "./dom.js";
import { get, ofRun } from "./api.js";
import { rounds } from "./charts.js";
import { duration, num, percent, printable } from "./format.js";
import { to } from "./router.js";

const TOP = 18; // the times above the bars
const BAR = 9;
const GAP = 3;
const PARTS = [["queue", "waited for a place"], ["model", "model"], ["tools", "tools"], ["rest", "anything else"]];

export async function openTimeline({ run, query, go, signal, remember }) {
  const phase = query.phase === "eval" ? "eval" : "train";
  const known = async () => (await get(ofRun(run, "steps"), signal))[phase].steps;
  let steps = await known();
  if (!steps.length) return { title: `Timeline · ${run}`, node: h("p", { class: "empty" }, "No episode has finished yet."), up: to.steps(run), refresh: () => go(to.timeline(run, query), { replace: true }) };
  const step = query.step === undefined ? steps.at(-1) : Number(query.step);
  let data = await get(ofRun(run, "timeline", { phase, step }), signal);
  const address = (values) => to.timeline(run, { step, phase: phase === "train" ? null : phase, ...values });
  const move = (by) => go(address({ step: steps[Math.max(0, Math.min(Math.max(0, steps.indexOf(step)) + by, steps.length - 1))] }));
  const readout = h("p", { class: "readout", role: "status" });
  const plot = h("div", { class: "timeline-plot" });
  let chosen = -1;
  const choose = (index) => {
    chosen = Math.max(0, Math.min(index, data.episodes.length - 1));
    [...plot.querySelectorAll(".lane")].forEach((lane, i) => lane.classList.toggle("is-chosen", i === chosen));
    const episode = data.episodes[chosen];
    if (episode) fill(readout, sentence(episode), " ", h("a", { href: to.episode(run, episode.key) }, "open"));
  };
  const draw = (width) => fill(plot, lanes(data, width, { choose, open: (episode) => go(to.episode(run, episode.key)) }));
  const resized = new ResizeObserver(([entry]) => {
    draw(entry.contentRect.width);
    if (chosen >= 0) choose(chosen);
  });
  resized.observe(plot);
  const last = h("span", {});
  const times = h("div", {});
  const tell = () => {
    fill(last, ` of ${steps.at(-1)} · `);
    fill(times, stepTimes(data.run, step));
    if (chosen < 0) fill(readout, totals(data));
  };
  tell();
  const node = h("div", { class: "page" },
    h("div", { class: "heading" },
      h("h1", {}, "Timeline"),
      h("p", { class: "quiet" }, phase === "train" ? `Step ${step}` : `Evaluation at step ${step}`, last,
        h("button", { class: "link", on: { click: () => move(-1) } }, "before"), " · ", h("button", { class: "link", on: { click: () => move(1) } }, "after"), " · ",
        h("a", { href: to.steps(run, { step, phase: phase === "train" ? null : phase }) }, "its groups"))),
    times,
    h("div", { class: "time-legend" }, PARTS.map(([kind, text]) => h("span", { class: `swatch is-${kind}` }, h("i", {}), text))),
    readout, plot,
    data.is_cut ? h("p", { class: "quiet" }, "The first 512 episodes.") : null,
    h("p", { class: "quiet" }, "A turn's two durations are recorded, not its moments: turns are drawn one after the other, and what is left of the episode (rendering, storing, waiting for the event loop) comes last. Waiting inside the engine is part of the model's time."));
  remember(address({}));
  return {
    title: `Timeline · ${run}`, node, up: to.steps(run, { step, phase: phase === "train" ? null : phase }),
    close: () => resized.disconnect(),
    refresh: async () => {
      steps = await known();
      const fresh = await get(ofRun(run, "timeline", { phase, step }), signal);
      const isLonger = fresh.episodes.length !== data.episodes.length;
      data = fresh;
      tell();
      if (isLonger) draw(plot.clientWidth);
      if (isLonger && chosen >= 0) choose(chosen);
    },
    keys: [
      { keys: ["h", "ArrowLeft"], about: "the step before", act: () => move(-1) },
      { keys: ["l", "ArrowRight"], about: "the step after", act: () => move(1) },
      { keys: ["j", "ArrowDown"], about: "next episode", act: () => choose(chosen + 1) },
      { keys: ["k", "ArrowUp"], about: "previous episode", act: () => choose(chosen - 1) },
      { keys: ["Enter", "o"], about: "open the episode", act: () => data.episodes[chosen] && go(to.episode(run, data.episodes[chosen].key)) },
      { keys: ["v"], about: "training or evaluation", act: () => go(to.timeline(run, { phase: phase === "train" ? "eval" : null })) },
    ],
  };
}

function spent(episode) {
  const model = episode.turns.reduce((sum, [seconds]) => sum + seconds, 0);
  const tools = episode.turns.reduce((sum, [, seconds]) => sum + seconds, 0);
  return { model, tools, rest: Math.max(0, episode.seconds - model - tools) };
}

function sentence(episode) {
  const { model, tools, rest } = spent(episode);
  return `${printable(episode.task)}, sample ${episode.sample}: waited ${duration(episode.start)} for a place, then ran ${duration(episode.seconds)}: model ${duration(model)}, tools ${duration(tools)}, else ${duration(rest)}.`;
}

function totals({ episodes }) {
  const all = episodes.reduce((sum, episode) => {
    const { model, tools, rest } = spent(episode);
    return { queue: sum.queue + episode.start, model: sum.model + model, tools: sum.tools + tools, rest: sum.rest + rest, whole: sum.whole + episode.seconds };
  }, { queue: 0, model: 0, tools: 0, rest: 0, whole: 0 });
  const mean = (value) => duration(value / (episodes.length || 1));
  return `${episodes.length} episodes, ${mean(all.whole)} each: model ${percent(all.model / all.whole)}, tools ${percent(all.tools / all.whole)}, anything else ${percent(all.rest / all.whole)}; on average ${mean(all.queue)} until they had a place.`;
}

function lanes(data, width, { choose, open }) {
  const end = Math.max(0.001, ...data.episodes.map((episode) => episode.start + episode.seconds));
  const room = Math.max(200, width);
  const x = (seconds) => (seconds / end) * (room - 8);
  const height = TOP + data.episodes.length * (BAR + GAP);
  const ticks = rounds(0, end, room > 600 ? 8 : 4).filter((tick) => tick <= end);
  return svg("svg", { width: room, height, viewBox: `0 0 ${room} ${height}`, class: "timeline", role: "img", "aria-label": totals(data) },
    ticks.map((tick) => [svg("line", { x1: x(tick), x2: x(tick), y1: TOP - 4, y2: height, class: "rule" }), svg("text", { x: x(tick) + (tick ? 0 : 1), y: TOP - 7, class: "tick", "text-anchor": tick ? "middle" : "start" }, `${num(tick, tick < 10 ? 1 : 0)} s`)]),
    data.episodes.map((episode, i) => lane(episode, i, x, { choose, open })));
}

function lane(episode, index, x, { choose, open }) {
  const y = TOP + index * (BAR + GAP);
  const box = (kind, from, seconds) => svg("rect", { x: x(from), y, width: Math.max(0, x(seconds) - 0.4), height: BAR, class: `is-${kind}` });
  const parts = [box("queue", 0, episode.start)];
  let at = episode.start;
  for (const [model, tools] of episode.turns) {
    parts.push(box("model", at, model), box("tools", at + model, tools));
    at += model + tools;
  }
  parts.push(box("rest", at, Math.max(0, episode.start + episode.seconds - at)));
  return svg("g", { class: "lane", on: { pointerenter: () => choose(index), click: () => open(episode) } }, svg("rect", { x: 0, y: y - 1, width: "100%", height: BAR + 2, class: "lane-back" }), parts);
}

/** Where the time of a whole step went: rolling out, learning, and between steps. */
function stepTimes({ steps, series }, step) {
  const at = steps.indexOf(step);
  const of = (name) => series[name]?.[at] ?? null;
  const known = [["rollout", of("time/rollout")], ["learning", of("time/learn")]].filter(([, value]) => value !== null);
  const elapsed = [of("time/elapsed"), at > 0 ? series["time/elapsed"]?.[at - 1] : null];
  if (!known.length) return null;
  const whole = elapsed[0] !== null && elapsed[1] !== null && elapsed[1] !== undefined ? elapsed[0] - elapsed[1] : null;
  const sum = known.reduce((total, [, value]) => total + value, 0);
  if (whole !== null && whole - sum > 0.01) known.push(["evaluating, publishing, saving", whole - sum]);
  const all = known.reduce((total, [, value]) => total + value, 0);
  return h("div", { class: "step-times" }, known.map(([name, value], i) => {
    const part = h("div", { class: `step-time is-${["model", "tools", "rest"][i]}`, title: `${name} ${duration(value)}` }, `${duration(value)} ${name}`);
    part.style.setProperty("flex-grow", String(Math.max(0.001, value / all)));
    return part;
  }));
}
