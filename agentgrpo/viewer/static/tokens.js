// The token view: every token as the learner consumed it, coloured by what is known of it.

import { h, fill } from "./dom.js";
import { count, num, printable, signed } from "./format.js";
import { rowOf } from "./tokendata.js";

const BLOCK = 500; // tokens in an element that the browser may leave undrawn while it is out of sight
const AT_ONCE = 4000; // tokens made before the first look; the others follow at once
const SLICE = 8000;

// Lower bounds of the bands of a value, and what the legend calls them.
const BANDS = {
  logprob: [[0.9, "p ≥ 0.9"], [0.5, "≥ 0.5"], [0.2, "≥ 0.2"], [0.05, "≥ 0.05"], [-Infinity, "< 0.05"]],
  advantage: [[0.5, "A ≥ 0.5"], [0.05, "> 0"], [-0.05, "about 0"], [-0.499, "< 0"], [-Infinity, "≤ −0.5"]],
  ratio: [[1.2, "ratio ≥ 1.2"], [1.02, "> 1"], [0.98, "about 1"], [0.8, "< 1"], [-Infinity, "< 0.8"]],
  entropy: [[2, "≥ 2 nats"], [1, "≥ 1"], [0.5, "≥ 0.5"], [0.1, "≥ 0.1"], [-Infinity, "< 0.1"]],
};
const ROLE_ORDER = ["system", "developer", "user", "assistant", "tool"];

/** The colourings: name, title, why it is not known of these tokens (null: it is). */
export function colourings(data) {
  const has = (values) => values?.some((value) => !Number.isNaN(value));
  return [
    ["mask", "loss mask", null],
    ["role", "role", null],
    ["logprob", "probability", has(data.logprobs) ? null : "the engine's logprobs were not recorded"],
    ["advantage", "advantage", data.head.advantage === null ? "the episode has no advantage: it was not trained on" : null],
    ["ratio", "ratio", has(data.learner) ? null : "the learner's logprobs were not recorded"],
    ["entropy", "entropy", has(data.entropy) ? null : "the learner's entropy was not recorded"],
  ];
}

/** Shows one training row of an episode. */
export class TokenView {
  constructor(data, { index = 0, colour = "mask" } = {}) {
    this.data = data;
    this.colour = colour;
    this.legend = h("div", { class: "token-legend" });
    this.body = h("div", { class: "tokens", data: { colour } });
    this.tip = h("div", { class: "token-tip", role: "status", hidden: true });
    this.node = h("div", { class: "token-view" }, this.legend, this.body, this.tip);
    this.body.addEventListener("pointermove", (event) => this.hover(event.target));
    this.body.addEventListener("pointerleave", () => this.leave());
    this.at = -1;
    this.show(index);
  }

  show(index) {
    this.row = rowOf(this.data, index);
    this.elements = new Array(this.row.size);
    this.at = -1;
    this.drawing = (this.drawing || 0) + 1;
    this.classes = this.classer();
    fill(this.body);
    this.done = this.draw(this.drawing);
    this.drawLegend();
  }

  /** Make the elements, those in sight first. */
  async draw(mine) {
    let made = 0;
    let limit = AT_ONCE;
    for (const span of this.row.spans) {
      const holder = h("div", { class: "token-text" });
      this.body.append(h("div", { class: `token-span${span.sampled ? " is-sampled" : ""}` }, this.label(span), holder));
      for (let start = span.start; start < span.end; start += BLOCK) {
        const end = Math.min(start + BLOCK, span.end);
        holder.append(this.block(start, end, span));
        made += end - start;
        if (made < limit) continue;
        limit = made + SLICE;
        await new Promise((resume) => setTimeout(resume));
        if (mine !== this.drawing) return;
      }
    }
  }

  label(span) {
    const isTrained = this.data.head.untrained === null;
    const who = span.sampled ? (span.trained ? (isTrained ? "sampled, trained" : "sampled") : isTrained ? "sampled, trained in an earlier row" : "sampled in an earlier row") : "context";
    return h("div", { class: "token-label" }, h("span", {}, `turn ${span.turn + 1}`), h("span", {}, who), h("span", {}, count(span.end - span.start)));
  }

  block(start, end, span) {
    const block = document.createElement("span");
    block.className = end - start >= BLOCK ? "block is-full" : "block";
    for (let i = start; i < end; i += 1) {
      const element = document.createElement("i");
      element.className = this.kind(i, span);
      const text = this.row.text[i];
      element.textContent = text === "" ? "·" : shown(text, this.row.control[i]);
      element.token = i;
      this.elements[i] = element;
      block.append(element);
    }
    return block;
  }

  kind(i, span) {
    const { control, fake, text } = this.row;
    const shape = `${control[i] ? " k" : ""}${fake[i] ? " fake" : ""}${text[i] === "" ? " part" : ""}`;
    return this.classes(i, span) + shape;
  }

  recolour(colour) {
    this.colour = colour;
    this.body.dataset.colour = colour;
    this.classes = this.classer();
    for (const span of this.row.spans) for (let i = span.start; i < span.end; i += 1) if (this.elements[i]) this.elements[i].className = this.kind(i, span);
    this.drawLegend();
  }

  classer() {
    const { row, colour } = this;
    if (colour === "role") return (i) => `role-${row.role[i]}`;
    if (colour === "mask") return (i, span) => (span.trained ? "on" : "off");
    const band = bander(colour);
    return (i, span) => {
      if (!span.trained) return "off";
      const value = this.value(colour, i);
      return value === null ? "on unknown" : `on b${band(value)}`;
    };
  }

  /** Return what is known of a token, null where it is not. */
  value(name, i) {
    const at = this.row.known[i];
    if (at < 0) return null;
    const { logprobs, learner, entropy, head } = this.data;
    const of = (values) => (values && !Number.isNaN(values[at]) ? values[at] : null);
    if (name === "advantage") return head.advantage;
    if (name === "entropy") return of(entropy);
    if (name === "learner") return of(learner);
    const rollout = of(logprobs);
    if (rollout === null) return null;
    if (name === "logprob") return Math.exp(Math.min(0, rollout));
    if (name === "rollout") return rollout;
    const later = of(learner);
    return later === null ? null : Math.exp(later - rollout);
  }

  drawLegend() {
    const { colour, row, data } = this;
    const swatch = (kind, text) => h("span", { class: "swatch" }, h("i", { class: kind }), text);
    const isTrained = row.spans.some((span) => span.trained);
    const items = [];
    if (colour === "role") items.push(...ROLE_ORDER.filter((role) => row.role.includes(role)).map((role) => swatch(`role-${role}`, role)));
    else if (colour === "mask") items.push(swatch("on", data.head.untrained === null ? "sampled by the model, trained" : "sampled by the model"));
    else items.push(...BANDS[colour].map(([, text], i) => swatch(`on b${i}`, text)));
    if (colour !== "role") items.push(swatch("off", "context, not trained"));
    items.push(swatch("k off", "control token"));
    const fakes = row.fake.reduce((sum, value) => sum + value, 0);
    fill(this.legend, items.map((item) => item),
      fakes ? h("button", { class: "link flag", title: "text that reads like a control token but is none", on: { click: () => this.toFake() } }, `${count(fakes)} tokens look like control tokens and are not`) : null,
      data.head.has_tokenizer ? null : h("span", { class: "warn" }, "The model's tokenizer is not at hand: ids are shown."),
      isTrained ? null : h("span", { class: "quiet" }, "Nothing in this row is trained."),
      data.head.untrained === null ? null : h("span", { class: "warn" }, `None of these tokens trained (${printable(data.head.untrained)}).`));
    this.legend.dataset.colour = colour;
  }

  toFake() {
    const i = this.row.fake.indexOf(1);
    this.elements[i]?.scrollIntoView({ block: "center" });
    this.point(i);
  }

  hover(target) {
    if (target.token === undefined) return;
    if (target.token !== this.at) this.point(target.token);
  }

  leave() {
    this.tip.hidden = true;
    this.elements[this.at]?.classList.remove("here");
    this.at = -1;
  }

  /** Move to the next token (or the one before) that was sampled, or to any. */
  step(by) {
    const { row } = this;
    let i = this.at < 0 ? row.spans.find((span) => span.trained)?.start ?? 0 : this.at + by;
    i = Math.max(0, Math.min(i, row.size - 1));
    if (!this.elements[i]) return;
    this.elements[i].scrollIntoView({ block: "nearest" });
    this.point(i);
  }

  point(i) {
    this.elements[this.at]?.classList.remove("here");
    this.at = i;
    const element = this.elements[i];
    if (!element) return;
    element.classList.add("here");
    const { row } = this;
    const span = row.spans.find(({ start, end }) => i >= start && i < end);
    const line = (name, text) => text && [h("dt", {}, name), h("dd", {}, text)];
    const known = (name, format) => {
      const value = this.value(name, i);
      return value === null ? null : format(value);
    };
    fill(this.tip, h("dl", {},
      line("id", String(row.ids[i])),
      line("text", JSON.stringify(row.text[i]).replace(/[\u007f-\uffff]/g, (c) => (printable(c) === c ? c : printable(c)))),
      line("is", [row.control[i] ? "control token" : row.fake[i] ? "text that looks like control" : "text", `, ${row.role[i]}`, !span.sampled ? ", context" : this.data.head.untrained !== null ? ", sampled" : span.trained ? ", trained" : ", trained elsewhere"].join("")),
      line("turn", String(span.turn + 1)),
      line("logprob", known("rollout", (value) => `${num(value, 4)} (p ${num(Math.exp(value), 3)})`)),
      line("learner", known("learner", (value) => num(value, 4))),
      line("ratio", known("ratio", (value) => num(value, 4))),
      line("advantage", known("advantage", (value) => signed(value, 3))),
      line("entropy", known("entropy", (value) => `${num(value, 3)} nats`))));
    this.tip.hidden = false;
    placeTip(this.tip, element);
  }
}

function bander(colour) {
  const bounds = BANDS[colour].map(([least]) => least);
  return (value) => bounds.findIndex((least) => value >= least);
}

function shown(text, isControl) {
  const safe = printable(text).replaceAll("\t", "⇥");
  return isControl ? safe : safe.replace(/\r?\n/g, "⏎\n");
}

function placeTip(tip, element) {
  const box = element.getClientRects()[0] || element.getBoundingClientRect();
  const { width, height } = tip.getBoundingClientRect();
  const left = Math.max(8, Math.min(box.left, innerWidth - width - 8));
  const below = box.bottom + 8 + height < innerHeight;
  tip.style.setProperty("left", `${left}px`);
  tip.style.setProperty("top", `${below ? box.bottom + 8 : Math.max(8, box.top - height - 8)}px`);
}
