// Group: the episodes of one task from the same start state, column beside column.

import { h, fill } from "./dom.js";
import { get, ofRun } from "./api.js";
import { num, printable } from "./format.js";
import { columnKeys, columnsView } from "./columns.js";
import { keyParts, to } from "./router.js";
import { promptView } from "./turns.js";

export async function openGroup({ run, query, go, signal }) {
  const [phase, step, task] = keyParts(`${query.key}/0`);
  const ask = async () => get(ofRun(run, "group", { episode: await firstOf() }), signal);
  const firstOf = async () => {
    const filter = `step:${step} phase:${phase} task:"${task.replace(/[\\"]/g, "\\$&")}"`;
    const page = await get(ofRun(run, "episodes", { filter, limit: 1, way: "up" }), signal);
    if (!page.rows.length) throw new Error(`There is no group ${query.key} in this run.`);
    return page.rows[0].id;
  };
  let data = await ask();
  const at = { column: 0 };
  const node = h("div", { class: "page is-wide" });
  const draw = () => fill(node, groupHeading(run, data, { phase, step, task }), columnsView(data, { chosen: at.column }));
  draw();
  const siblings = async (by) => {
    const found = await get(ofRun(run, "groups", { phase, step }), signal);
    const index = found.groups.findIndex((group) => group.task === task);
    const next = found.groups[index + by];
    if (next) go(to.group(run, next.episodes[0].key));
  };
  return {
    title: `Group ${task} · step ${step}`, node, up: to.steps(run, { step, phase: phase === "train" ? null : phase }),
    refresh: async () => {
      data = await ask();
      draw();
    },
    keys: [
      ...columnKeys(node, at, () => data.columns.length, go),
      { keys: ["n", "]"], about: "next group of the step", act: () => siblings(1) },
      { keys: ["p", "["], about: "previous group of the step", act: () => siblings(-1) },
    ],
  };
}

function groupHeading(run, data, { phase, step, task }) {
  const rewards = data.columns.map((column) => column.row.reward).filter((reward) => reward !== null);
  const mean = rewards.length ? rewards.reduce((sum, reward) => sum + reward, 0) / rewards.length : null;
  const isFlat = rewards.length > 1 && Math.min(...rewards) === Math.max(...rewards);
  const facts = [`${data.columns.length} episodes`, `mean reward ${num(mean)}`];
  return [
    h("div", { class: `heading${isFlat ? " is-flat" : ""}` },
      h("h1", {}, printable(task)),
      h("p", { class: "quiet" },
        h("a", { href: to.steps(run, { step, phase: phase === "train" ? null : phase }) }, phase === "train" ? `step ${step}` : `${phase} at step ${step}`), ` · ${facts.join(" · ")}`,
        isFlat && phase === "train" ? h("span", { class: "warn" }, " · all rewards are equal: the group has no variance and teaches nothing") : null,
        data.divergence === null ? " · all did the same" : ` · they part at turn ${data.divergence + 1}`,
        data.is_cut ? ` · the first ${data.columns.length} of ${data.size}` : "")),
    h("details", { class: "task-prompt" }, h("summary", {}, "What they were asked"), promptView(data)),
  ];
}
