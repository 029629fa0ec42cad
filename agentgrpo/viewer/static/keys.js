// The keyboard: what each key does here, and the list of it. Sequences are written with a space: "g s".

import { h, fill } from "./dom.js";

const SEQUENCE = 900; // ms between the keys of a sequence

/** Keys of everywhere and of the screen at hand. A key: { keys, about, act }. */
export class Keyboard {
  constructor() {
    this.everywhere = [];
    this.here = [];
    this.pending = "";
    this.timer = 0;
    this.dialog = h("dialog", { class: "help", "aria-label": "Keys" });
    document.addEventListener("keydown", (event) => this.press(event));
  }

  press(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    const isTyping = event.target.closest?.("input:not([type=checkbox]), textarea, select");
    if (isTyping && event.key !== "Escape") return;
    if (this.dialog.open) {
      if (event.key === "?" || event.key === "Escape") this.dialog.close();
      return;
    }
    const wanted = this.pending ? `${this.pending} ${event.key}` : event.key;
    const found = this.find(wanted) || this.find(event.key);
    clearTimeout(this.timer);
    this.pending = "";
    if (found) {
      const own = { Enter: "a[href], button, summary", " ": "input, button, summary" }[event.key]; // what these keys are for there
      if (own && event.target.closest?.(own)) return;
      event.preventDefault();
      found.act(event);
    } else if (this.all().some((key) => key.keys.some((text) => text.startsWith(`${event.key} `)))) {
      this.pending = event.key;
      this.timer = setTimeout(() => (this.pending = ""), SEQUENCE);
    }
  }

  all() {
    return [...this.here, ...this.everywhere];
  }

  find(text) {
    return this.all().find((key) => key.keys.includes(text));
  }

  /** Show what every key does. */
  help(title) {
    const list = (keys) => keys.map((key) => [h("dt", {}, key.keys.map(cap)), h("dd", {}, key.about)]);
    fill(
      this.dialog,
      h("h2", {}, "Keys"),
      h("div", { class: "help-lists" }, [
        h("section", {}, h("h3", {}, title), h("dl", {}, list(this.here))),
        h("section", {}, h("h3", {}, "Everywhere"), h("dl", {}, list(this.everywhere))),
      ]),
      h("button", { class: "button", autofocus: true, on: { click: () => this.dialog.close() } }, "Close"),
    );
    document.body.append(this.dialog);
    this.dialog.showModal();
  }
}

const NAMES = { ArrowUp: "↑", ArrowDown: "↓", ArrowLeft: "←", ArrowRight: "→", Escape: "Esc", Enter: "↵" };

function cap(text) {
  return h("span", { class: "chord" }, text.split(" ").map((key) => h("kbd", {}, NAMES[key] || key)));
}
