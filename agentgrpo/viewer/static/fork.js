// Asks for a fork: new episodes that share what an episode did up to a turn, and go on from there.

import { h, fill } from "./dom.js";
import { get, post } from "./api.js";
import { printable } from "./format.js";

const LOOK = 400; // ms between questions whether it is done

/** Show the dialog. `turn` is the first turn to play anew, from 0 on; `done` is called when the new episodes are stored. */
export function forkDialog({ run, episode, turn, done }) {
  const first = h("input", { type: "number", min: "1", max: String(episode.turns.length + 1), value: String(turn + 1) });
  const size = h("input", { type: "number", min: "1", max: "64", value: "1" });
  const policy = h("input", { type: "text", placeholder: "the run's best checkpoint", spellcheck: "false" });
  const action = h("textarea", { rows: "3", spellcheck: "false", placeholder: '{"content": "", "tool_calls": [{"name": "find_order", "arguments": {"order": "1017"}}]}' });
  const note = h("p", { class: "quiet", role: "status" });
  const start = h("button", { class: "button is-main", type: "submit" }, "Fork");
  const form = h("form", { class: "fork-form" },
    h("h2", {}, "Fork this episode"),
    h("p", { class: "quiet" }, "New episodes begin in the state this one was in before that turn. They are stored beside it and never trained."),
    h("label", {}, h("span", {}, "from turn"), first),
    h("label", {}, h("span", {}, "new episodes"), size),
    h("label", {}, h("span", {}, "who plays"), policy),
    h("label", { class: "tall" }, h("span", {}, "first do this"), action),
    note,
    h("div", { class: "buttons" }, h("button", { class: "button", type: "button", on: { click: () => dialog.close() } }, "Close"), start));
  const dialog = h("dialog", { class: "fork", "aria-label": "Fork this episode" }, form);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    start.disabled = true;
    fill(note, "Begun. This takes as long as playing the episodes.");
    try {
      const body = { turn: Number(first.value), count: Number(size.value) };
      if (policy.value.trim()) body.policy = policy.value.trim();
      if (action.value.trim()) body.action = action.value.trim();
      const address = `/api/episodes/${encodeURIComponent(episode.row.id)}/fork?run=${encodeURIComponent(run)}`;
      await finished((await post(address, body)).job);
      await done();
      dialog.close();
    } catch (error) {
      fill(note, h("span", { class: "bad" }, printable(error.message)));
    } finally {
      start.disabled = false;
    }
  });
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  first.focus();
}

async function finished(number) {
  for (;;) {
    const job = await get(`/api/jobs/${number}`);
    if (job.state === "done") return;
    if (job.state === "failed") throw new Error(job.message);
    await new Promise((resume) => setTimeout(resume, LOOK));
  }
}
