// What an episode's page shows below the bar; the same module draws exported pages, which have no server behind them.

import { h, fill } from "./dom.js";
import { duration, num, percent, printable, signed, when } from "./format.js";
import { promptView, changeView, turnView } from "./turns.js";
import { colourings, TokenView } from "./tokens.js";
import { unpack } from "./tokendata.js";

// Why an episode did not train, by the name of the filter; another name is shown as it is.
const WHY = new Map([
  ["non_finite_reward", "its reward is no number"],
  ["too_few_survivors", "too few episodes of its group were scored"],
  ["zero_variance", "all rewards of its group are equal"],
  ["nothing_sampled", "the model sampled no token"],
  ["truncated", "a limit cut it off"],
]);

/**
 * `state`: { view, colour, path, turn }, which `save` writes down. `load` returns the bytes of the tokens.
 * `links` makes addresses of other episodes, `fork` begins a fork; both null where there is no server.
 */
export class EpisodeBody {
  constructor({ data, state, save = () => {}, fork = null, load, links = null }) {
    Object.assign(this, { data, state, save, fork, load, links });
    this.main = h("div", { class: "episode-main" });
    this.tabs = h("div", { class: "tabs", role: "tablist", "aria-label": "View" });
    this.node = h("div", { class: "episode" }, this.head(), h("aside", { class: "episode-side" }, this.side()), h("div", { class: "episode-body" }, this.tabs, this.main));
    this.tokens = null;
    this.draw();
  }

  ready() {
    if (this.state.turn && this.state.view === "text") this.main.querySelector(`#turn-${this.state.turn}`)?.scrollIntoView({ block: "start" });
  }

  head() {
    const { row } = this.data;
    const where = this.links ? h("a", { href: this.links.step(row) }, row.phase === "train" ? `step ${row.step}` : `${row.phase} at step ${row.step}`) : `${row.phase} step ${row.step}`;
    const task = this.links ? h("a", { href: this.links.task(row), title: "all episodes of this task (a)" }, printable(row.task)) : printable(row.task);
    return h("div", { class: "heading episode-head" },
      h("h1", {}, task),
      h("p", { class: "quiet" }, where, ` · sample ${row.sample}${row.attempt ? `, attempt ${row.attempt}` : ""} · #${row.id}`),
      this.forkTabs());
  }

  /** Forks as tabs beside what they were forked from. */
  forkTabs() {
    const { forked, parent, row } = this.data;
    if (!forked.length && !parent) return null;
    const tab = (other, label, isHere) => this.links && !isHere ? h("a", { class: "tab", href: this.links.episode(other.key) }, label) : h("span", { class: "tab", "aria-current": "true" }, label);
    const label = (fork) => `fork at turn ${(fork.parent_turns ?? 0) + 1}: ${fork.success === null ? "–" : fork.success ? "✓" : "✗"} ${num(fork.reward)}`;
    return h("nav", { class: "tabs fork-tabs", "aria-label": "Forks" },
      parent ? tab(parent, "the original") : null,
      tab(row, parent ? label(row) : "this episode", true),
      forked.map((fork) => tab(fork, label(fork))));
  }

  side() {
    const { data } = this;
    const { row } = data;
    const verdict = row.success === null ? ["not scored", "quiet"] : row.success ? ["Success", "good"] : ["No success", "bad"];
    return [
      h("div", { class: "verdict" }, h("b", { class: verdict[1] }, verdict[0]), h("span", { class: "reward" }, num(row.reward))),
      this.terms(), this.failure(), this.advantage(), this.mates(), this.missing(),
      facts([
        ["ended", row.boundary ? `${row.stop}: ${row.boundary}` : row.stop],
        ["turns", String(row.turns)],
        ["calls", row.errors ? [`${row.calls}, `, h("span", { class: "bad" }, `${row.errors} failed`)] : `${row.calls}, none failed`],
        ["tokens", data.is_text ? "text only" : `${row.sampled} sampled of ${row.tokens}`],
        row.forks ? ["prompts rendered anew", String(row.forks)] : null,
        ["policy", `${printable(row.policy)}-v${row.version}`],
        ["environment", printable(row.env)],
        ["seed", String(data.seed)],
        ["began", when(row.started)],
        ["took", duration(row.seconds)],
        this.timing(),
      ]),
      Object.keys(data.info).length ? h("details", {}, h("summary", {}, "more that was recorded"), h("pre", {}, printable(JSON.stringify(data.info, null, 2)))) : null,
      data.tools.length ? h("details", {}, h("summary", {}, `${data.tools.length} ${data.tools.length === 1 ? "tool" : "tools"} offered`), data.tools.map(toolLine)) : null,
    ];
  }

  terms() {
    const terms = Object.entries(this.data.terms);
    if (!terms.length) return null;
    const most = Math.max(1, ...terms.map(([, value]) => Math.abs(value)));
    return h("table", { class: "terms" }, h("tbody", {}, terms.map(([name, value]) => {
      const bar = h("span", { class: value < 0 ? "bar-fill is-bad" : "bar-fill" });
      bar.style.setProperty("width", `${(Math.abs(value) / most) * 100}%`);
      return h("tr", {}, h("th", { scope: "row" }, printable(name)), h("td", { class: "term-bar" }, bar), h("td", { class: "n" }, num(value)));
    })));
  }

  failure() {
    const { cause, boundary } = this.data.row;
    return cause ? h("p", { class: "failure" }, h("b", {}, `broke at the ${boundary}: `), printable(cause)) : null;
  }

  advantage() {
    const { advantage, filtered } = this.data.row;
    if (filtered) return h("p", { class: "warn" }, "Did not train: ", WHY.has(filtered) ? `${WHY.get(filtered)} (${filtered})` : printable(filtered));
    if (advantage === null) return null;
    return h("p", {}, h("span", { class: "quiet" }, "advantage "), h("b", { class: advantage > 0 ? "up" : advantage < 0 ? "down" : "" }, signed(advantage, 3)));
  }

  mates() {
    const { group, row } = this.data;
    if (group.length < 2) return null;
    const rewards = group.map((mate) => mate.reward).filter((reward) => reward !== null);
    const mean = rewards.reduce((sum, reward) => sum + reward, 0) / (rewards.length || 1);
    const one = (mate) => {
      const kind = mate.reward === null ? "none" : mate.success ? "good" : mate.reward > 0 ? "part" : "bad";
      const props = { class: `mate is-${kind}`, title: `sample ${mate.sample}: reward ${num(mate.reward)}, advantage ${signed(mate.advantage)}`, "aria-current": mate.id === row.id ? "true" : null };
      return this.links ? h("a", { ...props, href: this.links.episode(mate.key) }, num(mate.reward)) : h("span", props, num(mate.reward));
    };
    return h("div", { class: "mates" }, h("div", { class: "label" }, this.links ? h("a", { href: this.links.group(row.key) }, "its group") : "its group", ` · mean ${num(mean)}`), h("div", { class: "mate-list" }, group.map(one)));
  }

  missing() {
    const { missing, compared } = this.data;
    if (!missing.length) return null;
    return h("div", { class: "missing" }, h("div", { class: "label" }, `What ${compared === 1 ? "the successful episode" : `all ${compared} successful episodes`} of this task changed and this one did not`), h("ul", {}, missing.map(changeView)));
  }

  timing() {
    const sum = (name) => this.data.turns.reduce((total, turn) => total + (turn[name] || 0), 0);
    const { seconds } = this.data.row;
    if (!seconds) return null;
    return ["of that", `model ${percent(sum("generate") / seconds)}, environment ${percent(sum("env") / seconds)}`];
  }

  draw() {
    const { state, data } = this;
    const tab = (view, label) => h("button", { class: "tab", role: "tab", "aria-selected": String(state.view === view), on: { click: () => this.show(view) } }, label);
    fill(this.tabs, tab("text", "Conversation"), data.is_text ? null : tab("tokens", "Tokens"), state.view === "tokens" ? this.colourBar() : null);
    if (state.view === "tokens" && !data.is_text) this.drawTokens();
    else {
      const forkable = this.fork && data.turns.length ? this.fork : null;
      fill(this.main, promptView(data), data.turns.map((_, i) => turnView(data, i, { fork: forkable, current: i === state.turn })));
    }
  }

  show(view) {
    this.state.view = view;
    this.save();
    this.draw();
  }

  toggle() {
    if (!this.data.is_text) this.show(this.state.view === "text" ? "tokens" : "text");
  }

  async drawTokens() {
    if (!this.tokens) {
      fill(this.main, h("p", { class: "quiet" }, "Fetching the tokens…"));
      try {
        this.tokens = unpack(await this.load());
      } catch (error) {
        if (error.name !== "AbortError") fill(this.main, h("p", { class: "bad" }, printable(error.message)));
        return;
      }
    }
    const known = colourings(this.tokens);
    if (known.find(([name]) => name === this.state.colour)?.[2] !== null) this.state.colour = "mask";
    fill(this.tabs, [...this.tabs.children].slice(0, 2), this.colourBar());
    const size = this.tokens.head.rows.length;
    this.state.path = Math.min(this.state.path, Math.max(0, size - 1));
    this.view = new TokenView(this.tokens, { index: this.state.path, colour: this.state.colour });
    const rows = size < 2 ? null : h("div", { class: "tabs path-tabs", role: "tablist", "aria-label": "Training rows" }, Array.from({ length: size }, (_, i) =>
      h("button", { class: "tab", role: "tab", "aria-selected": String(i === this.state.path), on: { click: () => this.toPath(i) } }, `row ${i + 1}`)));
    fill(this.main, rows, this.view.node);
  }

  colourBar() {
    if (!this.tokens) return null;
    const button = ([name, title, why]) => h("button", { class: "seg", "aria-pressed": String(this.state.colour === name), disabled: why !== null, title: why || `colour by ${title} (m)`, on: { click: () => this.recolour(name) } }, title);
    return h("div", { class: "segments", role: "group", "aria-label": "Colour tokens by" }, colourings(this.tokens).map(button));
  }

  recolour(name) {
    this.state.colour = name;
    this.save();
    this.view?.recolour(name);
    this.tabs.querySelector(".segments")?.replaceWith(this.colourBar());
  }

  nextColour() {
    if (!this.tokens || this.state.view !== "tokens") return;
    const known = colourings(this.tokens).filter(([, , why]) => why === null).map(([name]) => name);
    this.recolour(known[(known.indexOf(this.state.colour) + 1) % known.length]);
  }

  toPath(index) {
    this.state.path = index;
    this.save();
    this.drawTokens();
  }

  nextPath(by) {
    const size = this.tokens?.head.rows.length || 0;
    if (this.state.view === "tokens" && size > 1) this.toPath((this.state.path + by + size) % size);
  }

  step(by) {
    if (this.state.view === "tokens") this.view?.step(by);
  }

  move(by) {
    this.toTurn(Math.max(0, Math.min(this.state.turn + by, this.data.turns.length - 1)));
  }

  toTurn(turn) {
    this.state.turn = turn;
    this.save();
    if (this.state.view !== "text") return;
    for (const node of this.main.querySelectorAll(".turn")) node.classList.toggle("is-current", Number(node.dataset.turn) === turn);
    this.main.querySelector(`#turn-${turn}`)?.scrollIntoView({ block: "nearest" });
  }

  nextError() {
    const { turns } = this.data;
    const failed = turns.map((turn, i) => (turn.messages.some((message) => message.is_error) ? i : -1)).filter((i) => i >= 0);
    if (failed.length) this.toTurn(failed.find((i) => i > this.state.turn) ?? failed[0]);
  }
}

function facts(rows) {
  return h("dl", { class: "facts" }, rows.filter(Boolean).map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}

function toolLine(tool) {
  const known = tool.function || tool;
  const names = Object.keys(known.parameters?.properties || {});
  return h("p", { class: "tool-line" }, h("b", {}, printable(known.name)), `(${names.map(printable).join(", ")}) `, h("span", { class: "quiet" }, printable(known.description || "")));
}
