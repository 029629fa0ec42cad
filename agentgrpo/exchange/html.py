"""Episodes as one HTML file: it needs no script, no network and no server, and reads well on paper too.

Everything a model, a tool or an environment wrote is text here and nothing else: it is escaped, and the page's policy
forbids scripts, frames, forms and any request.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from typing import Any, Protocol

from agentgrpo.exchange.plain import plain, plain_text
from agentgrpo.store.reader import StoredEpisode
from agentgrpo.types import Json, JsonObject, Message, Trajectory, Turn
from agentgrpo.types import Sequence as Row

_PROBABILITIES = (0.9, 0.5, 0.2, 0.05, 0.0)  # at least
_ADVANTAGES = (0.5, 0.05, -0.05, -0.499, -math.inf)


class Words(Protocol):
    """What token ids say."""

    @property
    def control(self) -> frozenset[int]:
        """The ids no text can produce."""
        ...

    def pieces(self, token_ids: Sequence[int]) -> Iterator[tuple[int, str]]:
        """Yield (index of its first token, text) of every run of tokens that is whole characters."""
        ...


def page(title: str, episodes: Iterator[StoredEpisode], words: Words, *, total: int) -> Iterator[str]:
    """Yield the page of some episodes, piece by piece."""
    style = resources.files("agentgrpo").joinpath("assets/episode.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    yield '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield '<meta name="color-scheme" content="light dark"><meta name="referrer" content="no-referrer">'
    yield f"<title>{_text(title)}</title><style>{style}</style></head><body><main><h1>{_text(title)}</h1>"
    yield f'<p class="quiet">{total} episode{"" if total == 1 else "s"}, exported by agentgrpo.</p>'
    yield _legend()
    for number, stored in enumerate(episodes):
        yield from _episode(stored, words, is_open=total == 1 or number == 0)
    yield "</main></body></html>\n"


def _legend() -> str:
    radios = "".join(
        f'<label><input type="radio" name="colour" id="by-{name}"{" checked" if name == "mask" else ""}> {name}</label>'
        for name in ("mask", "logprob", "advantage")
    )
    bands = ("p &ge; 0.9", "&ge; 0.5", "&ge; 0.2", "&ge; 0.05", "&lt; 0.05")
    swatches = "".join(f'<span class="t s p{i}">{band}</span> ' for i, band in enumerate(bands))
    steps = ("A &ge; 0.5", "&gt; 0", "about 0", "&lt; 0", "&le; -0.5")
    advantages = "".join(f'<span class="a{i}"><span class="t s">{step}</span></span> ' for i, step in enumerate(steps))
    return (
        f'<fieldset class="legend"><legend>tokens coloured by</legend>{radios}'
        f'<p class="key mask"><span class="t s">sampled by the model, trained</span> <span class="t">context</span></p>'
        f'<p class="key logprob">{swatches}</p><p class="key advantage">{advantages}</p></fieldset>'
    )


def _episode(stored: StoredEpisode, words: Words, *, is_open: bool) -> Iterator[str]:
    trajectory, row = stored.trajectory, stored.row
    verdict = {True: ("good", "success"), False: ("bad", "no success"), None: ("quiet", "not scored")}[row.success]
    yield f'<details class="episode"{" open" if is_open else ""}><summary><span class="name">{_text(str(row.key))}</span> '
    yield f'<span class="{verdict[0]}">{verdict[1]}</span> <span>reward {_number(row.reward)}</span> '
    yield f'<span class="quiet">{row.stop_reason}</span></summary>'
    yield f"<dl>{''.join(f'<dt>{name}</dt><dd>{value}</dd>' for name, value in _facts(stored))}</dl>"
    for message in trajectory.prompt:
        yield _message(message)
    known: dict[str, Json] = {}
    for index, turn in enumerate(trajectory.turns):
        yield from _turn(index, turn, trajectory, known)
    if trajectory.failure:
        yield f'<p class="bad">broke at the {trajectory.failure.boundary}: {_text(trajectory.failure.cause)}</p>'
    yield from _tokens(stored, words)
    yield "</details>\n"


def _facts(stored: StoredEpisode) -> Iterator[tuple[str, str]]:
    trajectory, row = stored.trajectory, stored.row
    terms = ", ".join(f"{_text(name)} {value:g}" for name, value in trajectory.reward_terms.items())
    yield "reward terms", terms or '<span class="quiet">none</span>'
    if row.advantage is not None:
        yield "advantage", f"{row.advantage:+.3f}"
    if row.filter_reason:
        yield "did not train", _text(row.filter_reason)
    if trajectory.parent:
        yield "fork", f"of episode {trajectory.parent.episode}, after {trajectory.parent.turns} turns"
    size = f"{row.turns} turns, {row.tool_calls} calls, {row.tool_errors} failed"
    size += "" if trajectory.is_text else f", {row.sampled_tokens:,} tokens sampled of {row.tokens:,}"
    yield "size", f"{size}, {row.seconds:.1f} s" + (f", {row.forks} forks" if row.forks else "")
    started = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(max(0.0, row.started_at)))
    yield "origin", _text(f"{trajectory.env_id}, {trajectory.policy}, seed {trajectory.seed}, {started} UTC")


def _turn(index: int, turn: Turn, trajectory: Trajectory, known: dict[str, Json]) -> Iterator[str]:
    sampled = sum(len(span.token_ids) for span in trajectory.spans if span.sampled and span.turn == index)
    parts = [] if trajectory.is_text else [f"{sampled} tokens"]
    parts += [f"model {turn.generate_seconds:.2f} s", f"env {turn.env_seconds:.2f} s"]
    parts += [f"reward {_number(turn.reward)}"] if turn.reward else []
    parts += [f"ended by {turn.finish_reason}"] if turn.finish_reason != "stop" else []
    yield f'<section class="turn"><h2>turn {index + 1} <span class="quiet">{" &middot; ".join(parts)}</span></h2>'
    if turn.action.get("reasoning"):
        yield f'<pre class="thinks">{_text(turn.action["reasoning"])}</pre>'
    if turn.action.get("content"):
        yield f"<pre>{_text(turn.action['content'])}</pre>"
    pending = list(turn.messages)
    for call in turn.action["tool_calls"]:
        result = next((m for m in pending if m.get("tool_call_id") == call["id"]), None)
        pending = [m for m in pending if m is not result]
        answer = '<p class="quiet">no result</p>' if result is None else _answer(result)
        yield f'<div class="pair"><div>{_call(call)}</div><div>{answer}</div></div>'
    for message in pending:
        yield _message(message)
    changes = [line for operation in turn.state_diff or () if (line := _change(operation, known))]
    if changes:
        yield f'<ul class="state">{"".join(changes)}</ul>'
    yield "</section>"


def _message(message: Message) -> str:
    role = _text(str(message.get("role", "?")))
    return f'<div class="message"><span class="role">{role}</span><pre>{_text(_said(message.get("content")))}</pre></div>'


def _answer(message: Message) -> str:
    style = ' class="bad"' if message.get("is_error") else ""
    return f"<pre{style}>{_text(_said(message.get('content')))}</pre>"


def _call(call: Mapping[str, Any]) -> str:
    name = f"<b>{_text(str(call.get('name') or '?'))}</b>"
    if "error" in call:
        return f'<pre class="warn">{name} {_text(str(call["raw"]))}</pre>'
    arguments = call.get("arguments")
    listed = arguments.items() if isinstance(arguments, dict) else ()
    told = "\n".join(f"  {_text(str(key))} = {_text(_said(value))}" for key, value in listed)
    return f'<pre class="call">{name}{chr(10) if told else ""}{told}</pre>'


def _change(operation: JsonObject, known: dict[str, Json]) -> str:
    """Return a line for a JSON Patch operation; a `test` says what was there before the next one."""
    kind, path, value = str(operation.get("op")), str(operation.get("path", "")), operation.get("value")
    if kind == "test":
        known[path] = value
        return ""
    old = f'<del>{_text(_said(known[path]))}</del> &rarr; ' if path in known else ""
    known.pop(path, None)
    if kind in ("add", "replace"):
        known[path] = value
        return f"<li><b>{_text(path)}</b> {old}<ins>{_text(_said(value))}</ins></li>"
    told = "removed" if kind == "remove" else f"{kind} {operation.get('from', '')}"
    return f"<li><b>{_text(path)}</b> {old}{_text(told)}</li>"


def _tokens(stored: StoredEpisode, words: Words) -> Iterator[str]:
    rows = stored.trajectory.sequences()
    if not rows:
        why = "a chat endpoint played it, or it was written elsewhere" if stored.trajectory.is_text else "none was sampled"
        yield f'<p class="quiet">No tokens: {why}.</p>'
        return
    advantage = stored.row.advantage
    band = "" if advantage is None else f" a{_band(_ADVANTAGES, advantage)}"
    yield f'<details class="tokens{band}"><summary>Tokens as trained</summary>'
    for number, row in enumerate(rows):
        told = f"{len(row.token_ids):,} tokens, {sum(row.loss_mask):,} sampled and trained here"
        yield f'<p class="quiet">row {number + 1} of {len(rows)}: {told}</p><div class="row">'
        yield from _row(row, words)
        yield "</div>"
    yield "</details>"


def _row(row: Row, words: Words) -> Iterator[str]:
    pieces = list(words.pieces(row.token_ids))
    ends = [index for index, _ in pieces[1:]] + [len(row.token_ids)]
    for (index, piece), end in zip(pieces, ends, strict=True):
        ids = " ".join(map(str, row.token_ids[index:end]))
        style, hint = "t", f"id {ids}"
        if row.loss_mask[index]:
            logprob = row.rollout_logprobs[index]
            style += f" s p{_band(_PROBABILITIES, math.exp(min(0.0, logprob)) if math.isfinite(logprob) else 0.0)}"
            hint += f", turn {row.turns[index] + 1}, logprob {logprob:.4f}"
        style += " c" if row.token_ids[index] in words.control else ""
        text = _text(piece).replace("\t", "&#8677;").replace("\n", "&#9166;\n")
        yield f'<span class="{style}" title="{hint}">{text}</span>'


def _band(bands: Sequence[float], value: float) -> int:
    return next((i for i, least in enumerate(bands) if value >= least), len(bands) - 1)


def _said(content: Any) -> str:
    return content if isinstance(content, str) else json.dumps(plain(content), ensure_ascii=False)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _text(text: str) -> str:
    """Return text for HTML: escaped, control and direction-changing characters spelled out."""
    visible = "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in plain_text(text))
    return html.escape(visible)
