// Addresses of screens, both ways. They name runs and episodes by what they are, so that links stay true.

const SCREENS = ["steps", "episodes", "timeline", "group", "episode"];

/** The addresses of the screens. */
export const to = {
  runs: (query) => search("/", query),
  steps: (run, query) => search(place(run, "steps"), query),
  episodes: (run, query) => search(place(run, "episodes"), query),
  timeline: (run, query) => search(place(run, "timeline"), query),
  group: (run, key, query) => search(place(run, "group"), { key: keyParts(key).slice(0, 3).join("/"), ...query }),
  episode: (run, key, query) => search(place(run, "episode"), { key, ...query }),
  compare: (query) => search("/compare", query),
};

function place(run, screen) {
  return `/r/${encodeURIComponent(run)}/${screen}`;
}

function search(path, query = {}) {
  const known = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const text = known.map(([name, value]) => `${name}=${readable(String(value))}`).join("&");
  return text ? `${path}?${text}` : path;
}

/** Encode a value, but not what an address may hold as it is. */
function readable(text) {
  return encodeURIComponent(text.toWellFormed()).replace(/%(2F|3A|2C|40)/g, decodeURIComponent).replaceAll("%20", "+");
}

/** Return the parts of an episode's key: phase, step, task (which may hold slashes), sample. */
export function keyParts(key) {
  const [phase, step, ...rest] = key.split("/");
  const sample = rest.length > 1 ? rest.pop() : "0";
  return [phase, step, rest.join("/"), sample];
}

/** Return the screen an address is of, with the run it names and what else it says. */
export function parse(location) {
  const query = Object.fromEntries(new URLSearchParams(location.search));
  const parts = location.pathname.split("/").filter(Boolean);
  if (parts.length === 0) return { screen: "runs", query };
  if (parts.length === 1 && parts[0] === "compare") return { screen: "compare", query };
  const screen = parts[2] || "steps";
  if (parts[0] !== "r" || !parts[1] || parts.length > 3 || !SCREENS.includes(screen)) return { screen: "lost", query };
  return { screen, run: decode(parts[1]), query };
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}
