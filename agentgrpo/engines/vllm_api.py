"""What one vLLM server is asked over HTTP and what it answers, in the shapes of vLLM 0.32; nothing of when to ask.

Tokens in, tokens and logprobs out (`POST /inference/v1/generate`), adapters by name and path.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp

from agentgrpo.engines import round_logprob
from agentgrpo.errors import EngineFailure
from agentgrpo.seeds import derive_seed
from agentgrpo.types import Json, JsonObject, Sampling

GENERATE = "/inference/v1/generate"
LOAD, UNLOAD, MODELS = "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/v1/models"
METRICS, PREEMPTIONS = "/metrics", "vllm:num_preemptions_total"
STREAM_INTERVAL = 16  # tokens per event: often enough to see progress, seldom enough to cost little
_NO_LOGPROB = -9999.0  # what vLLM says where there is none
_PASSING = {408, 425, 429}  # and all of 500 to 599: the same question may be answered another time


class Trouble(Exception):
    """A server could not answer this time; the same question may be answered later, or elsewhere."""


class Unreachable(Trouble):
    """Nobody listens there, or the connection broke."""


class Late(Trouble):
    """No answer within its deadline."""


class LostAdapter(Trouble):
    """The server does not know an adapter it was given: it has restarted."""


class BadAnswer(Trouble):
    """What came cannot be right; nothing of this answer is used."""


@dataclass(frozen=True, slots=True)
class Card:
    """What a server says of itself."""

    model: str  # the name it serves its base model under
    context_length: int
    adapters: frozenset[str]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some more sampled tokens; `finish_reason` with the last."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: str | None


class VllmApi:
    """The questions to one server. Every one but a stream ends within its deadline."""

    def __init__(self, url: str, http: aiohttp.ClientSession, *, seconds: float, load_seconds: float) -> None:
        self._url, self._http, self._seconds, self._load_seconds = url.rstrip("/"), http, seconds, load_seconds

    async def card(self) -> Card:
        """Ask what it serves."""
        answer = _json(await self._ask("GET", MODELS, None, self._seconds))
        try:
            cards = answer["data"]
            base = next(card for card in cards if card["parent"] is None)
            adapters = frozenset(card["id"] for card in cards if card["parent"] is not None)
            return Card(model=base["id"], context_length=int(base["max_model_len"]), adapters=adapters)
        except (KeyError, TypeError, ValueError, StopIteration) as error:
            raise BadAnswer(f"{MODELS} gave no list of models as vLLM does: {str(answer)[:200]}") from error

    async def load(self, name: str, path: str) -> None:
        """Load an adapter from a folder it can read."""
        await self._ask("POST", LOAD, {"lora_name": name, "lora_path": path}, self._load_seconds)

    async def unload(self, name: str) -> None:
        """Forget an adapter."""
        await self._ask("POST", UNLOAD, {"lora_name": name}, self._seconds)

    async def preemptions(self) -> int:
        """Ask how often its cache was too small and a sequence had to be computed again, since it started."""
        lines = (await self._ask("GET", METRICS, None, self._seconds)).splitlines()
        try:
            return int(sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(PREEMPTIONS)))
        except (IndexError, ValueError) as error:
            raise BadAnswer(f"{METRICS} gave no number for {PREEMPTIONS}") from error

    async def score(self, model: str, token_ids: Sequence[int]) -> list[float]:
        """Return the logprob of each of `token_ids[1:]` given those before, at temperature 1.

        A question per token, all at once: with `prompt_logprobs` one would do, but vLLM 0.32's CPU build dies of it
        while others generate with an adapter (its LoRA indices of a batch know one row per request).
        """
        ends = range(1, len(token_ids))
        return list(await asyncio.gather(*(self._score(model, token_ids[:end], token_ids[end]) for end in ends)))

    async def _score(self, model: str, prefix: Sequence[int], token: int) -> float:
        # Of the two asked for, this and any other, the answer leaves out what does not fit beside what was sampled.
        wanted = [token, 0 if token else 1]
        params = {"max_tokens": 1, "logprob_token_ids": wanted, "logprobs": 2, "detokenize": False, "ignore_eos": True}
        answer = await self._generate(model, prefix, params)
        try:
            told = answer["choices"][0]["logprobs"]["content"][0]
            return next(float(one["logprob"]) for one in (told, *told["top_logprobs"]) if one["token_id"] == token)
        except (KeyError, IndexError, TypeError, ValueError, StopIteration) as error:
            raise BadAnswer("it gave no logprob of a token that was asked for") from error

    async def first_choice(self, model: str, token_ids: Sequence[int]) -> float:
        """Generate one token where there is no choice (top_k = 1); return its logprob under what was sampled from."""
        params = {"max_tokens": 1, "temperature": 1.0, "top_k": 1, "logprobs": 0, "detokenize": False}
        answer = await self._generate(model, token_ids, params | {"ignore_eos": True})
        try:
            return _chunk(answer["choices"][0]).logprobs[0]
        except (KeyError, IndexError, TypeError) as error:
            raise BadAnswer("it generated nothing") from error

    async def _generate(self, model: str, token_ids: Sequence[int], params: JsonObject) -> Json:
        body = {"model": model, "token_ids": list(token_ids), "sampling_params": params, "stream": False}
        return _json(await self._ask("POST", GENERATE, body, self._load_seconds))

    @asynccontextmanager
    async def stream(
        self, model: str, prompt_ids: Sequence[int], sampling: Sampling, session: str
    ) -> AsyncIterator[TokenStream]:
        """Begin a generation; leaving the context before its end makes the server abort it."""
        body = {
            "model": model,
            "token_ids": list(prompt_ids),
            "sampling_params": _params(sampling),
            "stream": True,
        }
        # vLLM keeps a session on one of its replicas; a session's own name may be no header.
        self._check_open()
        headers = {"X-Session-ID": f"{derive_seed(session):x}"} if session else None
        try:
            async with self._http.post(self._url + GENERATE, json=body, headers=headers) as response:
                await _check(response)
                yield TokenStream(response)
        except (aiohttp.ClientError, ConnectionError) as error:
            raise _unreachable(error) from error

    def _check_open(self) -> None:
        if self._http.closed:
            raise Unreachable("the engine's connections are closed")

    async def _ask(self, method: str, path: str, body: JsonObject | None, seconds: float) -> str:
        self._check_open()
        try:
            async with asyncio.timeout(seconds), self._http.request(method, self._url + path, json=body) as response:
                await _check(response)
                return await response.text(errors="replace")
        except TimeoutError as error:
            raise Late(f"no answer to {path} within {seconds:g} s") from error
        except (aiohttp.ClientError, ConnectionError) as error:
            raise _unreachable(error) from error


class TokenStream:
    """The events of one generation as they come, whole and in order."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._content, self._rest = response.content, b""

    async def next(self) -> Chunk | None:
        """Return the next chunk, None after the last. A call that was cancelled loses nothing."""
        while True:
            event, end, rest = self._rest.partition(b"\n\n")
            if end:
                self._rest = rest
                return _event(event)
            try:
                data = await self._content.readany()
            except (aiohttp.ClientError, ConnectionError) as error:
                raise _unreachable(error) from error
            if not data:
                raise Unreachable("its answer broke off")
            self._rest += data


def _params(sampling: Sampling) -> JsonObject:
    return {
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "seed": sampling.seed,
        "stop_token_ids": list(sampling.stop_token_ids),
        "ignore_eos": True,  # only the stop tokens asked for stop
        "logprobs": 0,  # of the sampled token alone
        "detokenize": False,
        "stream_interval": STREAM_INTERVAL,
    }


def _event(event: bytes) -> Chunk | None:
    data = event.removeprefix(b"data: ")
    if data == b"[DONE]":
        return None
    told = _json(data)
    if "error" in told:
        raise Trouble(f"it gave up: {_message(told)}")
    try:
        return _chunk(told["choices"][0])
    except (KeyError, IndexError, TypeError) as error:
        raise BadAnswer(f"an event without tokens: {data[:200]!r}") from error


def _chunk(choice: JsonObject) -> Chunk:
    ids = tuple(choice["token_ids"] or ())
    told = ((choice["logprobs"] or {}).get("content") or []) if choice["logprobs"] is not None else []
    if tuple(one["token_id"] for one in told) != ids:
        raise BadAnswer(f"it gave {len(ids)} tokens and the logprobs of {len(told)} others")
    logprobs = [float(one["logprob"]) for one in told]
    if any(not math.isfinite(logprob) or logprob == _NO_LOGPROB for logprob in logprobs):
        raise BadAnswer("it gave a logprob that is no number: the model's numbers overflow, or its adapter is broken")
    return Chunk(ids, tuple(map(round_logprob, logprobs)), choice.get("finish_reason"))


async def _check(response: aiohttp.ClientResponse) -> None:
    """Raise what an answer other than 200 means."""
    status = response.status
    if status == 200:
        return
    text = await response.text(errors="replace")
    said = f"it answered {status}: {_message_of(text)}"
    if status >= 500 or status in _PASSING:
        raise Trouble(said)
    if status == 404 and response.url.path == GENERATE and "NotFoundError" in text:
        raise LostAdapter(said)
    if status == 401:
        said += "; set engine.servers.api_key_env to the environment variable that holds its key"
    if status == 403 or (status == 404 and "adapter" not in text.lower()):
        said += "; start it with `agentgrpo engine serve`, which sets the flags that are needed"
    raise EngineFailure(said)


def _message_of(text: str) -> str:
    try:
        return _message(json.loads(text))
    except (ValueError, KeyError, TypeError):
        return text[:200]


def _message(told: Json) -> str:
    error = told["error"]
    return str(error.get("message", error) if isinstance(error, dict) else error)[:300]


def _json(text: str | bytes) -> Json:
    try:
        told = json.loads(text)
    except ValueError as error:
        raise BadAnswer(f"half a JSON, or none: {text[-100:]!r}") from error
    if not isinstance(told, dict):
        raise BadAnswer(f"no JSON object: {text[:100]!r}")
    return told


def _unreachable(error: Exception) -> Unreachable:
    return Unreachable(f"the connection failed: {str(error) or type(error).__name__}")
