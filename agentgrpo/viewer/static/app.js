// The shell: which screen an address shows, the bar above it, the theme, the keys, and word of what has changed.

import { h, fill, settle } from "./dom.js";
import { get, heard, ofRun, Refusal } from "./api.js";
import { printable } from "./format.js";
import { Keyboard } from "./keys.js";
import { parse, to } from "./router.js";
import { openRuns } from "./runs.js";
import { openSteps } from "./steps.js";
import { openEpisodes } from "./episodes.js";
import { openGroup } from "./group.js";
import { openEpisode } from "./episode.js";
import { openCompare } from "./compare.js";
import { openTimeline } from "./timeline.js";

const OPENERS = {
  runs: openRuns,
  steps: openSteps,
  episodes: openEpisodes,
  group: openGroup,
  episode: openEpisode,
  compare: openCompare,
  timeline: openTimeline,
};
const TABS = [["steps", "Steps", "s"], ["episodes", "Episodes", "e"], ["timeline", "Timeline", "t"]];
const SILENT = "The server does not answer: is `agentgrpo view` still running? What you see is what was known last; the page goes on by itself once it is back.";
const ASK_AGAIN = 3000; // ms, while it does not answer
const THEMES = ["auto", "light", "dark"];

const keyboard = new Keyboard();
const bar = h("header", { class: "bar" });
const main = h("main", { class: "screen", id: "screen" });
const alive = h("span", { class: "live", title: "not following a run" });
const brand = h("a", { href: to.runs(), class: "brand", "aria-label": "All runs" }, h("img", { src: "/static/mark.svg", alt: "", width: 20, height: 20 }), h("span", {}, "agentgrpo"));
const notice = h("p", { class: "notice", role: "status", hidden: true });
let here = null; // the screen at hand
let number = 0; // of the rendering under way: an older one is dropped
let abort = new AbortController();
let stream = null;
let asking = 0; // the timer that asks whether the server is back; 0: it answers

/** Go to an address of this page. */
export function go(address, { replace = false } = {}) {
  if (replace) history.replaceState(null, "", address);
  else history.pushState(null, "", address);
  return render();
}

async function render() {
  const mine = (number += 1);
  const place = parse(location);
  abort.abort();
  abort = new AbortController();
  document.body.dataset.screen = place.screen;
  drawBar(place);
  if (!asking) say("");
  main.classList.add("is-loading");
  try {
    const make = OPENERS[place.screen] || lost;
    const made = await make({ ...place, go, signal: abort.signal, remember, fail: (error) => mine === number && fail(error, place) });
    if (mine !== number) return made.close?.();
    here?.close?.();
    here = made;
    fill(main, made.node);
    document.title = `${printable(made.title)} · agentgrpo`;
    keyboard.here = made.keys || [];
    made.ready?.();
  } catch (error) {
    if (mine !== number || error.name === "AbortError") return;
    fail(error, place);
  } finally {
    if (mine === number) main.classList.remove("is-loading");
  }
  follow(place.run);
}

/** Let the address say what is shown, without showing anything anew. */
function remember(address) {
  history.replaceState(null, "", address);
  drawBar(parse(location));
}

/** Say what went wrong in the place of a screen. */
function fail(error, place) {
  here?.close?.();
  here = null;
  keyboard.here = [];
  document.title = "That did not work · agentgrpo";
  fill(main, problem(error, [0, 404].includes(error.status) ? null : place.run));
}

async function lost() {
  return { title: "Nothing here", node: problem(new Error(`There is no screen at ${location.pathname}.`)) };
}

function problem(error, run) {
  const text = printable(error.message);
  const ways = [run && h("a", { href: to.episodes(run) }, "Episodes of this run"), h("a", { href: to.runs() }, "All runs")].filter(Boolean);
  return h("div", { class: "empty", role: "alert" }, h("h1", {}, "That did not work"), h("p", {}, text.slice(0, 1).toUpperCase(), text.slice(1)), h("p", {}, ways.flatMap((way, i) => (i ? [" · ", way] : [way]))));
}

/** Say something above the screen; "" takes it away. */
function say(text) {
  notice.hidden = !text;
  fill(notice, text);
}

/** Tell whether the server answers; while it does not, ask until it does. */
function hear(isThere) {
  if (isThere === !asking) return;
  clearInterval(asking);
  asking = isThere ? 0 : setInterval(() => get("/api/runs").catch(() => {}), ASK_AGAIN);
  say(isThere ? "" : SILENT);
  if (isThere && !here) render();
}

function drawBar({ screen, run, query }) {
  const tab = ([name, label]) => h("a", { href: to[name](run), "aria-current": screen === name ? "page" : null, class: "tab" }, label);
  const name = run && h("a", { href: to.steps(run), class: "crumb", title: run }, printable(run));
  const other = run || query.a;
  fill(
    bar,
    brand,
    name,
    h("nav", { "aria-label": "Screens" }, run && TABS.map(tab), h("a", { href: to.compare(other ? { a: other } : {}), class: "tab", "aria-current": screen === "compare" ? "page" : null }, "Compare")),
    h("div", { class: "bar-end" }, alive,
      h("button", { class: "icon", title: "Theme (d)", "aria-label": "Change the theme", on: { click: nextTheme } }, "◐"),
      h("button", { class: "icon", title: "Keys (?)", "aria-label": "Show the keys", on: { click: help } }, "?")),
  );
}

function help() {
  const names = { runs: "Runs", steps: "Steps", episodes: "Episodes", group: "Group", episode: "Episode", compare: "Compare", timeline: "Timeline" };
  keyboard.help(names[parse(location).screen] || "Here");
}

/** Follow a run: its screen is told when something has changed. */
function follow(run) {
  if (stream && stream.run === run) return;
  stream?.source.close();
  stream = null;
  alive.className = "live";
  alive.title = "not following a run";
  if (!run) return;
  const source = new EventSource(ofRun(run, "live"));
  stream = { run, source, first: true };
  const mine = stream;
  const changed = settle(() => {
    if (stream === mine) here?.refresh?.();
  }, 120);
  source.addEventListener("open", () => {
    alive.className = "live is-on";
    alive.title = "following the run: changes show within a second";
    heard(true);
  });
  source.addEventListener("error", () => {
    if (source.readyState === EventSource.CLOSED) return; // it was refused: there is no such run
    heard(false);
    alive.className = "live is-off";
    alive.title = "the server does not answer; trying again";
  });
  source.addEventListener("message", () => {
    if (!mine.first) {
      alive.classList.remove("beat");
      requestAnimationFrame(() => alive.classList.add("beat"));
      changed();
    }
    mine.first = false;
  });
}

function theme() {
  return localStorage.getItem("agentgrpo-theme") || "auto";
}

function setTheme(name) {
  localStorage.setItem("agentgrpo-theme", name);
  if (name === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
}

function nextTheme() {
  const isDark = document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  setTheme(isDark ? "light" : "dark");
}

function ofThisRun(screen) {
  const { run } = parse(location);
  if (run) go(to[screen](run));
}

keyboard.everywhere = [
  { keys: ["?"], about: "this list", act: help },
  { keys: ["g r"], about: "all runs", act: () => go(to.runs()) },
  ...TABS.map(([name, label, key]) => ({ keys: [`g ${key}`], about: `${label.toLowerCase()} of this run`, act: () => ofThisRun(name) })),
  { keys: ["g c"], about: "compare", act: () => go(to.compare(parse(location).run ? { a: parse(location).run } : {})) },
  { keys: ["u"], about: "up: what this is part of", act: () => here?.up && go(here.up) },
  { keys: ["Escape"], about: "back", act: () => history.back() },
  { keys: ["d"], about: "dark or light", act: nextTheme },
];

document.addEventListener("click", (event) => {
  const link = event.target.closest?.("a[href]");
  const isPlain = event.button === 0 && !event.ctrlKey && !event.metaKey && !event.shiftKey && !event.altKey;
  if (!link || !isPlain || link.target || link.origin !== location.origin || link.hasAttribute("download")) return;
  event.preventDefault();
  go(link.getAttribute("href"));
});
addEventListener("popstate", () => render());
addEventListener("server", (event) => hear(event.detail));
addEventListener("unhandledrejection", (event) => {
  const { reason } = event;
  if (reason?.name !== "AbortError" && !(reason instanceof Refusal)) return;
  event.preventDefault();
  if (reason.status) say(printable(reason.message)); // else the answer was for a screen that was left, or there was none
});

if (THEMES.includes(theme())) setTheme(theme());
document.body.append(h("a", { href: "#screen", class: "skip" }, "Skip to the screen"), bar, notice, main);
render();
