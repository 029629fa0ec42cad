// Small charts over train steps, drawn as SVG. All charts of a screen share one cursor.

import { h, svg, fill } from "./dom.js";
import { num } from "./format.js";

const PAD = { left: 48, right: 12, top: 8, bottom: 20 };

/** The step under the pointer and the one that is picked, shared by the charts of a screen. */
export class Cursor {
  constructor(pick) {
    this.over = null;
    this.picked = null;
    this.pick = pick;
    this.charts = new Set();
  }

  move(step) {
    if (step === this.over) return;
    this.over = step;
    for (const chart of this.charts) chart.mark();
  }

  choose(step) {
    this.picked = step;
    for (const chart of this.charts) chart.mark();
  }
}

/** Return a smoothed copy of points: centred means over a twelfth of the run. */
export function smooth(points) {
  const reach = Math.min(12, Math.floor(points.length / 24));
  if (!reach) return points;
  return points.map(([x], i) => {
    const part = points.slice(Math.max(0, i - reach), i + reach + 1);
    return [x, part.reduce((sum, [, y]) => sum + y, 0) / part.length];
  });
}

/** Return [step, value] pairs of two columns, without what is unknown. */
export function pairs(steps, values) {
  return steps.map((step, i) => [step, values[i]]).filter(([, value]) => value !== null && value !== undefined);
}

/**
 * A chart with a title, its values at the cursor, and lines.
 * `series`: { name, colour (1..6), points, dots (bool), plain (no smoothing) }; `format` writes a value.
 */
export class Chart {
  constructor({ title, series, cursor, height = 120, format = num, zero = true, top = null, domain = null, note = null }) {
    Object.assign(this, { title, series, cursor, height, format, zero, top, domain, note });
    this.legend = h("div", { class: "chart-legend" });
    this.plot = svg("svg", { class: "chart-plot", role: "img", "aria-label": title, height });
    this.node = h("figure", { class: "chart" }, h("figcaption", {}, h("b", {}, title), this.legend), this.plot);
    this.width = 0;
    this.resized = new ResizeObserver(([entry]) => this.draw(Math.round(entry.contentRect.width)));
    this.resized.observe(this.node);
    if (cursor) {
      cursor.charts.add(this);
      this.plot.addEventListener("pointermove", (event) => cursor.move(this.stepAt(event)));
      this.plot.addEventListener("pointerleave", () => cursor.move(null));
      this.plot.addEventListener("click", (event) => cursor.pick(this.stepAt(event)));
    }
  }

  update(series) {
    this.series = series;
    this.draw(this.width);
  }

  close() {
    this.resized.disconnect();
    this.cursor?.charts.delete(this);
  }

  bounds() {
    const points = this.series.flatMap((line) => line.points);
    const xs = this.domain || span(points.map(([x]) => x));
    let [low, high] = span(points.map(([, y]) => y));
    if (this.zero) low = Math.min(0, low);
    if (this.top !== null) high = Math.max(this.top, high);
    if (high === low) high = low + (Math.abs(low) || 1) * 0.1;
    const ticks = rounds(low, high, this.height > 150 ? 4 : 2);
    return { x: xs[0] === xs[1] ? [xs[0] - 1, xs[1] + 1] : xs, y: [Math.min(low, ticks[0]), Math.max(high, ticks.at(-1))], ticks };
  }

  draw(width) {
    if (!width) return;
    this.width = width;
    const { x, y, ticks } = this.bounds();
    this.x = (step) => PAD.left + ((step - x[0]) / (x[1] - x[0])) * (width - PAD.left - PAD.right);
    this.y = (value) => PAD.top + (1 - (value - y[0]) / (y[1] - y[0])) * (this.height - PAD.top - PAD.bottom);
    this.plot.setAttribute("viewBox", `0 0 ${width} ${this.height}`);
    const steps = rounds(x[0], x[1], width > 500 ? 6 : 3).filter((step) => step >= x[0] && step <= x[1] && Number.isInteger(step));
    this.cross = svg("g", { class: "chart-cross" });
    fill(
      this.plot,
      ticks.map((tick) => this.rule(tick, width)),
      steps.map((step) => svg("text", { x: this.x(step), y: this.height - 4, class: "tick", "text-anchor": "middle" }, String(step))),
      this.series.map((line) => this.line(line)),
      this.cross,
    );
    this.mark();
  }

  rule(tick, width) {
    const y = this.y(tick);
    return svg(
      "g",
      {},
      svg("line", { x1: PAD.left, x2: width - PAD.right, y1: y, y2: y, class: "rule" }),
      svg("text", { x: PAD.left - 6, y: y + 4, class: "tick", "text-anchor": "end" }, this.format(tick)),
    );
  }

  line({ points, colour, dots, plain }) {
    const place = ([step, value]) => `${this.x(step).toFixed(1)},${this.y(value).toFixed(1)}`;
    if (dots) {
      const marks = points.map(([step, value]) => svg("circle", { cx: this.x(step), cy: this.y(value), r: 3.5, class: `dot c${colour}` }));
      return svg("g", {}, svg("polyline", { points: points.map(place).join(" "), class: `line faint c${colour}` }), marks);
    }
    const soft = plain ? points : smooth(points);
    const raw = soft === points ? null : svg("polyline", { points: points.map(place).join(" "), class: `line raw c${colour}` });
    return svg("g", {}, raw, svg("polyline", { points: soft.map(place).join(" "), class: `line c${colour}` }));
  }

  stepAt(event) {
    const box = this.plot.getBoundingClientRect();
    const x = event.clientX - box.left;
    const steps = this.series.flatMap((line) => line.points.map(([step]) => step));
    return steps.reduce((best, step) => (Math.abs(this.x(step) - x) < Math.abs(this.x(best) - x) ? step : best), steps[0] ?? null);
  }

  /** Draw the cursor, and write the values there. */
  mark() {
    if (!this.cross) return;
    const { over = null, picked = null } = this.cursor || {};
    const bar = (step, kind) => {
      if (step === null || step === undefined || this.domain?.[0] > step) return null;
      return svg("line", { x1: this.x(step), x2: this.x(step), y1: PAD.top, y2: this.height - PAD.bottom, class: kind });
    };
    fill(this.cross, bar(picked, "picked"), bar(over, "over"));
    const step = over ?? picked;
    fill(this.legend, this.series.map((line) => legendItem(line, step, this.format)), this.note && step === null && h("span", { class: "quiet" }, this.note));
  }
}

function legendItem({ name, colour, points, dots }, step, format) {
  if (!points.length) return null;
  let found = points.at(-1);
  if (step !== null) {
    found = points.findLast(([x]) => x <= step);
    if (!dots && found && found[0] !== step) found = undefined;
  }
  return h("span", { class: `legend c${colour}` }, name && h("span", {}, name), h("b", {}, found ? format(found[1]) : "–"));
}

function span(values) {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return low === Infinity ? [0, 1] : [low, high];
}

/** Return round numbers that cover a span. */
export function rounds(low, high, wanted) {
  const size = (high - low) / wanted || 1;
  const power = 10 ** Math.floor(Math.log10(size));
  const unit = [1, 2, 2.5, 5, 10].map((times) => times * power).find((step) => step >= size * 0.999);
  const ticks = [];
  for (let k = Math.ceil(low / unit - 1e-9); k * unit <= high + unit * 1e-9; k += 1) ticks.push(Number((k * unit).toPrecision(12)));
  return ticks.length ? ticks : [low];
}

/** Return a curve without words. `series`: { colour, points, dots }. */
export function spark(series, width = 160, height = 32, top = 1) {
  const all = series.flatMap((line) => line.points);
  if (!all.length) return h("span", { class: "quiet spark-none" }, "no steps yet");
  const [x0, x1] = span(all.map(([x]) => x));
  const [low, high] = span(all.map(([, y]) => y));
  const floor = Math.min(0, low);
  const x = (step) => 3 + ((step - x0) / (x1 - x0 || 1)) * (width - 6);
  const y = (value) => 3 + (1 - (value - floor) / (Math.max(top, high) - floor || 1)) * (height - 6);
  const place = ([step, value]) => `${x(step).toFixed(1)},${y(value).toFixed(1)}`;
  return svg(
    "svg",
    { viewBox: `0 0 ${width} ${height}`, width, height, class: "spark", "aria-hidden": "true" },
    svg("line", { x1: 0, x2: width, y1: y(floor), y2: y(floor), class: "rule" }),
    series.map(({ points, colour, dots }) =>
      dots
        ? points.map((point) => svg("circle", { cx: x(point[0]), cy: y(point[1]), r: 2, class: `dot c${colour}` }))
        : svg("polyline", { points: smooth(points).map(place).join(" "), class: `line c${colour}` }),
    ),
  );
}
