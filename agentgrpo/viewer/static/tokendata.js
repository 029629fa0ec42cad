// The tokens of an episode out of the bytes they come in: ids, what they say, and what is known of each. No elements.

const ROLES = /^\s*(system|developer|user|assistant|tool)\b/;

/** Return { head, ids, logprobs, learner, entropy } of a packed answer. Arrays that were not recorded are null. */
export function unpack(buffer) {
  const size = new DataView(buffer).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, size)));
  const found = { head, ids: null, logprobs: null, learner: null, entropy: null };
  let at = 4 + size;
  for (const [name, kind, length] of head.arrays) {
    found[name] = kind === "u4" ? new Uint32Array(buffer, at, length) : new Float32Array(buffer, at, length);
    at += length * 4;
  }
  return found;
}

/** Return the bytes of base64 text, for pages that hold their data themselves. */
export function fromBase64(text) {
  return Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;
}

/**
 * Return the tokens of one training row in columns of equal length: what each says, its role, whether it is trained.
 * `spans`: { start, end, turn, sampled, trained } of the row's tokens.
 */
export function rowOf(data, index) {
  const { head, ids } = data;
  const row = head.rows[index] || { spans: head.spans.map((_, i) => i), trained: [] };
  const starts = offsets(head.spans);
  const trained = new Set(row.trained);
  const size = row.spans.reduce((sum, span) => sum + head.spans[span][1], 0);
  const found = { size, ids: new Uint32Array(size), known: new Int32Array(size).fill(-1), text: new Array(size), control: new Uint8Array(size), fake: new Uint8Array(size), role: new Array(size), spans: [] };
  let at = 0;
  for (const number of row.spans) {
    const [, length, sampled, turn] = head.spans[number];
    const [first, firstSampled] = starts[number];
    found.ids.set(ids.subarray(first, first + length), at);
    if (sampled) for (let i = 0; i < length; i += 1) found.known[at + i] = firstSampled + i;
    found.spans.push({ start: at, end: at + length, turn, sampled: Boolean(sampled), trained: trained.has(number) });
    at += length;
  }
  spell(found, head);
  cast(found);
  expose(found, head.names);
  return found;
}

/** Return where each span begins among all ids and among the sampled ones. */
function offsets(spans) {
  let all = 0;
  let sampled = 0;
  return spans.map(([, length, isSampled]) => {
    const here = [all, sampled];
    all += length;
    if (isSampled) sampled += length;
    return here;
  });
}

/** Say what every token says. The bytes of a character that is spread over tokens are shown with the last of them. */
function spell(row, head) {
  const cache = new Map();
  let decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  let isOpen = false; // in the middle of a character
  for (let i = 0; i < row.size; i += 1) {
    const id = row.ids[i];
    let piece = cache.get(id);
    if (piece === undefined) {
      const text = head.pieces[id];
      piece = text === undefined ? null : { control: head.control[id], isPlain: /^[\x00-\x7f]*$/.test(text), text, bytes: Uint8Array.from(text, (c) => c.charCodeAt(0)) };
      cache.set(id, piece);
    }
    if (isOpen && (!piece || piece.isPlain || piece.control !== undefined)) {
      row.text[i - 1] += decoder.decode(); // it was never finished
      decoder = new TextDecoder("utf-8", { ignoreBOM: true });
      isOpen = false;
    }
    if (!piece) row.text[i] = `${id} `;
    else if (piece.control !== undefined) {
      row.text[i] = piece.control;
      row.control[i] = 1;
    } else if (piece.isPlain) row.text[i] = piece.text;
    else {
      row.text[i] = decoder.decode(piece.bytes, { stream: true });
      isOpen = /[\x80-\xff]$/.test(piece.text) && !endsWhole(piece.bytes);
    }
  }
  if (isOpen) row.text[row.size - 1] += decoder.decode();
}

function endsWhole(bytes) {
  for (let back = 1; back <= Math.min(4, bytes.length); back += 1) {
    const byte = bytes[bytes.length - back];
    if (byte < 0x80) return true;
    if (byte >= 0xc0) return back >= (byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : 2);
  }
  return false;
}

/** Say whose words each token is part of: the model's where it was sampled, else as the template's headers say. */
function cast(row) {
  let role = "system";
  let inner = null; // within <tool_response>
  for (const span of row.spans) {
    for (let i = span.start; i < span.end; i += 1) {
      if (span.sampled) {
        row.role[i] = "assistant";
        continue;
      }
      if (row.control[i]) {
        const named = ROLES.exec(row.text.slice(i + 1, i + 4).join(""));
        if (named) [role, inner] = [named[1], null];
        if (/^<tool_response>$/.test(row.text[i])) inner = "tool";
        row.role[i] = inner || role;
        if (/^<\/tool_response>$/.test(row.text[i])) inner = null;
      } else row.role[i] = inner || role;
    }
  }
}

/** Mark text that reads like a control token but is none. */
function expose(row, names) {
  const wanted = names.filter((name) => name.length > 2 && /[^\s\w]/.test(name)).map((name) => name.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  if (!wanted.length) return;
  const ends = new Uint32Array(row.size);
  const parts = new Array(row.size);
  let length = 0;
  for (let i = 0; i < row.size; i += 1) {
    parts[i] = row.control[i] ? "\u0000" : row.text[i];
    length += parts[i].length;
    ends[i] = length;
  }
  const pattern = new RegExp(wanted.join("|"), "g");
  let at = 0;
  for (const match of parts.join("").matchAll(pattern)) {
    while (ends[at] <= match.index) at += 1;
    for (let i = at; i < row.size && (i === 0 ? 0 : ends[i - 1]) < match.index + match[0].length; i += 1) row.fake[i] = 1;
  }
}
