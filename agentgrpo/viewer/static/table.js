// A list of any length of which only the rows in sight exist. Rows are chosen with the keyboard or a click.

import { h } from "./dom.js";

const SPARE = 12; // rows drawn beyond either edge

/** `draw(row)` returns the element of a row; `open(row)` is what Enter and a click do; `more()` is called near the end. */
export class Rows {
  constructor({ label, rowHeight, draw, open, more = () => {} }) {
    Object.assign(this, { rowHeight, draw, open, more });
    this.rows = [];
    this.drawn = new Map();
    this.chosen = 0;
    this.body = h("div", { class: "rows-body" });
    this.node = h("div", { class: "rows", role: "listbox", "aria-label": label, tabindex: "0" }, this.body);
    this.node.addEventListener("scroll", () => this.show(), { passive: true });
    this.body.addEventListener("click", (event) => this.click(event));
    this.resized = new ResizeObserver(() => this.show());
    this.resized.observe(this.node);
  }

  close() {
    this.resized.disconnect();
  }

  /** Show other rows. `keep`: stay where the list is. */
  set(rows, { keep = false } = {}) {
    this.rows = rows;
    if (!keep) {
      this.chosen = 0;
      if (this.drawn.size) this.node.scrollTop = 0; // asking lays the page out: not before there is anything
    }
    this.chosen = Math.max(0, Math.min(this.chosen, rows.length - 1));
    this.clear();
    this.show();
  }

  /** Add rows at the end. */
  append(rows) {
    this.rows.push(...rows);
    this.show();
  }

  clear() {
    for (const node of this.drawn.values()) node.remove();
    this.drawn.clear();
  }

  show() {
    const { rowHeight, rows, drawn, node } = this;
    this.body.style.setProperty("height", `${rows.length * rowHeight}px`);
    if (!rows.length) return this.clear();
    const first = Math.max(0, Math.floor(node.scrollTop / rowHeight) - SPARE);
    const last = Math.min(rows.length, Math.ceil((node.scrollTop + node.clientHeight) / rowHeight) + SPARE);
    for (const [index, element] of drawn) {
      if (index < first || index >= last) {
        element.remove();
        drawn.delete(index);
      }
    }
    for (let index = first; index < last; index += 1) if (!drawn.has(index)) this.place(index);
    if (last > rows.length - 2 * SPARE) this.more();
  }

  place(index) {
    const element = this.draw(this.rows[index], index);
    element.classList.add("row");
    element.setAttribute("role", "option");
    element.setAttribute("aria-selected", index === this.chosen);
    element.id = `row-${index}`;
    element.dataset.index = index;
    element.style.setProperty("transform", `translateY(${index * this.rowHeight}px)`);
    this.drawn.set(index, element);
    this.body.append(element);
  }

  click(event) {
    const element = event.target.closest(".row");
    if (!element || event.target.closest("a, button, input, label")) return;
    this.choose(Number(element.dataset.index));
    if (!window.getSelection()?.toString()) this.open(this.rows[this.chosen], event);
  }

  choose(index) {
    if (!this.rows.length) return;
    const wanted = Math.max(0, Math.min(index, this.rows.length - 1));
    this.drawn.get(this.chosen)?.setAttribute("aria-selected", "false");
    this.chosen = wanted;
    const top = wanted * this.rowHeight;
    const { node } = this;
    if (top < node.scrollTop) node.scrollTop = top;
    else if (top + this.rowHeight > node.scrollTop + node.clientHeight) node.scrollTop = top + this.rowHeight - node.clientHeight;
    this.show();
    this.drawn.get(wanted)?.setAttribute("aria-selected", "true");
    node.setAttribute("aria-activedescendant", `row-${wanted}`);
  }

  /** The keys that move through the list. */
  keys(what) {
    const page = () => Math.max(1, Math.floor(this.node.clientHeight / this.rowHeight) - 1);
    const move = (by) => this.choose(this.chosen + by());
    return [
      { keys: ["j", "ArrowDown"], about: `next ${what}`, act: () => move(() => 1) },
      { keys: ["k", "ArrowUp"], about: `previous ${what}`, act: () => move(() => -1) },
      { keys: ["PageDown"], about: "a page down", act: () => move(page) },
      { keys: ["PageUp"], about: "a page up", act: () => move(() => -page()) },
      { keys: ["Home", "0"], about: "first", act: () => this.choose(0) },
      { keys: ["End", "$"], about: "last that is loaded", act: () => this.choose(this.rows.length - 1) },
      { keys: ["Enter", "o"], about: `open the ${what}`, act: (event) => this.rows[this.chosen] && this.open(this.rows[this.chosen], event) },
    ];
  }
}
