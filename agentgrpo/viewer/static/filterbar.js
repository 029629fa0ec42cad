// The filter bar: reads the same small language as `agentgrpo show --filter`, and says where a mistake is.

import { h, fill, settle } from "./dom.js";
import { printable } from "./format.js";

const TYPING = 40; // ms after a key before the list follows

/** `change(text)` is called with every new text; `details` is what the run can be filtered by. */
export class FilterBar {
  constructor({ text, details, change }) {
    this.change = change;
    this.details = details;
    this.options = [];
    this.chosen = -1;
    this.input = h("input", {
      type: "text", class: "filter-input", value: text, spellcheck: "false", autocomplete: "off", autocapitalize: "off",
      placeholder: "env:shop reward<0.2 stop:max_turns tool:refund \"some words\"",
      "aria-label": "Filter", "aria-describedby": "filter-note", role: "combobox", "aria-expanded": "false", "aria-controls": "filter-options",
    });
    this.note = h("div", { class: "filter-note", id: "filter-note", role: "status", "aria-live": "polite" });
    this.list = h("ul", { class: "suggest", id: "filter-options", role: "listbox", hidden: true });
    this.node = h("div", { class: "filter" }, this.input, this.note, this.list);
    const later = settle(() => this.change(this.input.value), TYPING);
    this.input.addEventListener("input", () => {
      this.suggest();
      later();
    });
    this.input.addEventListener("blur", () => this.hide());
    this.input.addEventListener("keydown", (event) => this.key(event));
  }

  get text() {
    return this.input.value;
  }

  focus() {
    this.input.focus();
    this.input.select();
  }

  set(text) {
    this.input.value = text;
    this.change(text);
  }

  /** Say how many there are. */
  tell(text) {
    this.input.removeAttribute("aria-invalid");
    fill(this.note, text);
  }

  /** Say what is wrong, and show where. */
  refuse(error) {
    if (error.start !== undefined) this.input.setAttribute("aria-invalid", "true"); // else it is not the filter's fault
    const text = this.input.value;
    const place =
      error.start === undefined || error.end <= error.start
        ? null
        : h("code", { class: "filter-where" }, printable(text.slice(Math.max(0, error.start - 24), error.start)), h("mark", {}, printable(text.slice(error.start, error.end))));
    fill(this.note, h("span", { class: "bad" }, place, " ", printable(error.message)));
  }

  word() {
    const end = this.input.selectionStart ?? this.input.value.length;
    const start = this.input.value.slice(0, end).search(/\S*$/);
    return [start, this.input.value.slice(start, end)];
  }

  suggest() {
    const [, typed] = this.word();
    const word = typed.replace(/^[-!]/, "");
    if (!word) return this.hide();
    const [name, part] = word.split(/[:=](.*)/s);
    const values = this.details.words[name.toLowerCase()];
    if (part !== undefined) {
      const wanted = part.split(",").at(-1).toLowerCase();
      const known = (values || []).filter((value) => value.toLowerCase().includes(wanted) && value.toLowerCase() !== wanted);
      this.offer(known.slice(0, 9).map((value) => ({ text: quote(value), about: "" })), part.length - wanted.length + name.length + 1);
    } else {
      const fields = this.details.fields.filter((field) => field.name.startsWith(word.toLowerCase()) && field.name !== word);
      this.offer(fields.slice(0, 9).map((field) => ({ text: opening(field), about: field.about, example: field.example })), 0);
    }
  }

  /** Offer every field: what ArrowDown does in an empty bar. */
  offerAll() {
    this.offer(this.details.fields.map((field) => ({ text: opening(field), about: field.about, example: field.example })), 0);
  }

  offer(options, offset) {
    this.options = options;
    this.offset = offset;
    this.chosen = -1;
    const item = (option, index) =>
      h("li", { role: "option", id: `filter-option-${index}`, on: { pointerdown: (event) => this.take(index, event) } },
        h("code", {}, option.example || option.text), h("span", { class: "quiet" }, option.about));
    fill(this.list, options.map(item));
    this.list.hidden = !options.length || document.activeElement !== this.input;
    this.input.setAttribute("aria-expanded", String(!this.list.hidden));
  }

  hide() {
    this.list.hidden = true;
    this.input.setAttribute("aria-expanded", "false");
  }

  take(index, event) {
    event?.preventDefault();
    const [start, typed] = this.word();
    const sign = typed.match(/^[-!]?/)[0].length;
    const from = start + sign + this.offset;
    const end = start + typed.length;
    const { text } = this.options[index];
    const isWhole = !/[:<>=]$/.test(text);
    const value = this.input.value;
    this.input.value = value.slice(0, from) + text + (isWhole ? " " : "") + value.slice(end).trimStart();
    const at = from + text.length + (isWhole ? 1 : 0);
    this.input.setSelectionRange(at, at);
    this.change(this.input.value);
    this.suggest();
  }

  key(event) {
    const isOpen = !this.list.hidden;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (!isOpen) return void this.offerAll();
      const size = this.options.length;
      this.chosen = (this.chosen + (event.key === "ArrowDown" ? 1 : size) + (this.chosen < 0 && event.key === "ArrowUp" ? 1 : 0)) % size;
      [...this.list.children].forEach((item, i) => item.setAttribute("aria-selected", String(i === this.chosen)));
      this.input.setAttribute("aria-activedescendant", `filter-option-${this.chosen}`);
    } else if (event.key === "Enter" || (event.key === "Tab" && isOpen && this.chosen >= 0)) {
      if (isOpen && this.chosen >= 0) this.take(this.chosen, event);
      else this.input.blur();
    } else if (event.key === "Escape") {
      event.stopPropagation();
      if (isOpen) this.hide();
      else this.input.blur();
    }
  }
}

function opening(field) {
  return field.example.match(/^[a-z]+(<=|>=|[:<>])/)[0];
}

/** Return a text as a value of the filter language, in quotes where it must be. */
export function quote(text) {
  return /^[A-Za-z_/*][\w/.*:@+-]*$/.test(text) && !text.includes("..") && text !== "none" ? text : `"${text.replace(/[\\"]/g, "\\$&")}"`;
}
