// Asks the server. What it refuses becomes an error that says what was got and expected.

export class Refusal extends Error {
  constructor(data, status) {
    super(data.error || `the server answered ${status}`);
    this.start = data.start;
    this.end = data.end;
    this.status = status;
  }
}

/** Return an address with its query; values that are null, undefined or "" are left out. */
export function address(path, query = {}) {
  const search = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    for (const item of Array.isArray(value) ? value : [value]) {
      if (item !== null && item !== undefined && item !== "") search.append(name, item);
    }
  }
  const text = search.toString();
  return text ? `${path}?${text}` : path;
}

/** Return the address of a run's data. */
export function ofRun(run, what, query) {
  return address(`/api/runs/${encodeURIComponent(run)}${what ? `/${what}` : ""}`, query);
}

/** Return the JSON of an address. */
export async function get(url, signal) {
  return unwrap(await reach(url, { signal }));
}

/** Return the bytes of an address. */
export async function bytes(url, signal) {
  const response = await reach(url, { signal });
  if (!response.ok) await unwrap(response);
  return response.arrayBuffer();
}

/** Send what changes something; only this page was given the token. */
export async function post(url, body) {
  const token = document.querySelector("meta[name=agentgrpo-token]").content;
  const headers = { "Content-Type": "application/json", "X-Agentgrpo-Token": token };
  return unwrap(await reach(url, { method: "POST", headers, body: JSON.stringify(body) }));
}

/** Let the page know whether the server answers: an event of the window, "server", whose detail is true or false. */
export function heard(isThere) {
  dispatchEvent(new CustomEvent("server", { detail: isThere }));
}

async function reach(url, options) {
  try {
    const response = await fetch(url, options);
    heard(true);
    return response;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    heard(false);
    throw new Refusal({ error: "No answer: is `agentgrpo view` still running?" }, 0);
  }
}

async function unwrap(response) {
  if (response.ok) return response.json(); // its error, if the screen is left meanwhile, is the caller's to see
  throw new Refusal(await response.json().catch(() => ({})), response.status);
}
