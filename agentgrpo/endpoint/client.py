"""The client of an OpenAI-compatible endpoint: deadlines, retries of what is safe to repeat, so many requests at once.

It knows nothing of episodes or environments. The key comes from an environment variable and goes into one header: not
into messages, records or errors.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import os
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from urllib.parse import urlsplit

import aiohttp
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_attempt,
    stop_before_delay,
    wait_random_exponential,
)

from agentgrpo.endpoint.wire import NoReply, Reply, read_reply
from agentgrpo.errors import ConfigError, EngineFailure, UserError
from agentgrpo.tooling import describe, one_line
from agentgrpo.types import Json, JsonObject, Message, Sampling

CONNECT_SECONDS = 10.0
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds, at most, before a request is repeated
MOST_BYTES = 8 << 20  # of one answer
_REFUSED = {301, 302, 303, 307, 308, 401, 403, 404, 405}  # asking again, or anything else, changes nothing
_LATER = {408, 409, 425, 429}
_FULL = ("context_length_exceeded", "maximum context length", "context length", "too many tokens", "prompt is too long")
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")  # what the name of one looks like
_jitter = wait_random_exponential(multiplier=FIRST_PAUSE, max=LONGEST_PAUSE)  # full jitter


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingNames:
    """What a person set to reach an endpoint, for messages."""

    url: str = "--endpoint"
    model: str = "--model"
    key: str = "--api-key-env"


class PromptTooLong(EngineFailure):
    """The conversation does not fit into the model's context any more."""


class _Later(Exception):
    """The same request may succeed; `seconds` is when the server said to ask again."""

    def __init__(self, kind: str, told: str, seconds: float = 0.0) -> None:
        super().__init__(told)
        self.kind, self.seconds = kind, seconds


class Endpoint:
    """A chat model behind a URL. Use as an async context manager.

    Args:
        url: Where `/chat/completions` is found, such as "https://host/v1".
        model: The name the endpoint knows the model by.
        api_key_env: The environment variable that holds the key; None: the endpoint asks for none.
        concurrency: Requests at once.
        retries: How often one request is repeated, at most.
        attempt_seconds: How long one attempt may take.
        names: What the settings above are called where a person made them.

    Raises:
        ConfigError: the URL is none, or the variable is not set.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        api_key_env: str | None = None,
        concurrency: int = 8,
        retries: int = 5,
        attempt_seconds: float = 120.0,
        names: SettingNames = SettingNames(),
    ) -> None:
        self.url, self.model, self.names = _completions(url, names), model, names
        self.retries, self.attempt_seconds, self.concurrency = retries, attempt_seconds, concurrency
        self.repeated: Counter[str] = Counter()  # requests that had to be repeated, by what had gone wrong
        self._key = _key(api_key_env, names)
        self._slots = asyncio.Semaphore(concurrency)
        self._limit = "max_tokens"  # what the endpoint calls the token limit
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Endpoint:
        self._session = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            # No total: aiohttp's own swallows a cancellation that comes in the same turn of the event loop (it
            # uncancels twice).
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
            connector=aiohttp.TCPConnector(limit=self.concurrency),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def chat(
        self,
        messages: Sequence[Message],
        tools: Sequence[JsonObject] = (),
        *,
        sampling: Sampling,
        seconds: float = 300.0,
        call_prefix: str = "call",
    ) -> Reply:
        """Return the model's next message.

        Args:
            messages: The conversation, as `wire` makes it.
            tools: JSON schemas of the tools, as environments give them.
            sampling: Its seed is not sent: few endpoints take one.
            seconds: Deadline of the whole, pauses and repetitions included.
            call_prefix: What the ids of calls without one start with.

        Raises:
            PromptTooLong: the conversation does not fit.
            EngineFailure: there was no answer in time, or none that can be read.
            UserError: the endpoint refuses this key, URL or model: no request will do better.
        """
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(_Later),
            stop=stop_after_attempt(self.retries + 1) | stop_before_delay(seconds),
            wait=_pause,
            before_sleep=self._count,
            reraise=True,
        )
        attempts = 0
        try:
            async with asyncio.timeout(seconds):
                async for attempt in retrying:
                    with attempt:
                        attempts += 1
                        return await self._ask(messages, tools, sampling, call_prefix)
        except TimeoutError as error:
            raise EngineFailure(f"{self.model} gave no answer within {seconds:g} s, asked {attempts} times") from error
        except _Later as error:
            wanted = f", and wants {error.seconds:g} s before the next" if error.seconds else ""
            raise EngineFailure(f"{self.model}: {error}; asked {attempts} times{wanted}") from error
        raise EngineFailure(f"{self.model} was not asked")

    def _count(self, state: RetryCallState) -> None:
        self.repeated[_reason(state).kind] += 1

    async def _ask(
        self, messages: Sequence[Message], tools: Sequence[JsonObject], sampling: Sampling, call_prefix: str
    ) -> Reply:
        body: JsonObject = {"model": self.model, "messages": list(messages), "temperature": sampling.temperature}
        body |= {"tools": list(tools)} if tools else {}
        body |= {"top_p": sampling.top_p} if sampling.top_p < 1 else {}
        body |= {"top_k": sampling.top_k} if sampling.top_k else {}
        answer = await self._post(body | {self._limit: sampling.max_tokens})
        try:
            return read_reply(answer, call_prefix)
        except NoReply as error:
            raise _Later("no answer in it", f"{error}, got {self._quote(json.dumps(answer))}") from error

    async def _post(self, body: JsonObject) -> Json:
        if self._session is None:
            raise EngineFailure("use the endpoint as an async context manager: async with endpoint: ...")
        try:
            async with (
                self._slots,
                asyncio.timeout(self.attempt_seconds),
                self._session.post(self.url, json=body, allow_redirects=False) as response,
            ):
                status, headers, data = response.status, response.headers, await _read(response)
        except TimeoutError as error:
            raise _Later("no answer", f"no answer within {self.attempt_seconds:g} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise _Later("connection", self._hide(describe(error))) from error
        if status != 200:
            raise self._refusal(status, headers, data.decode("utf-8", "replace"), body)
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as error:
            raise _Later("broken JSON", f"an answer that is not JSON ({describe(error)})") from error

    def _refusal(self, status: int, headers: Mapping[str, str], text: str, body: JsonObject) -> Exception:
        """Return the error that a status other than 200 stands for."""
        told = f"{self.model}: the endpoint answered {status}: {self._quote(text)}"
        if status in _REFUSED or "insufficient_quota" in text:
            names = self.names
            return UserError(f"{told}. Check {names.url} ({self.url}), {names.model} and {names.key}")
        if status in _LATER or status >= 500:
            return _Later(f"status {status}", f"status {status}: {self._quote(text)}", _retry_after(headers))
        if any(words in text.lower() for words in _FULL):
            return PromptTooLong(told)
        if status == 400 and "max_completion_tokens" in text and "max_tokens" in body:
            self._limit = "max_completion_tokens"  # OpenAI's newer models know the limit by this name only
            return _Later("max_tokens", "max_tokens is called max_completion_tokens here")
        return EngineFailure(told)

    def _quote(self, text: str) -> str:
        return one_line(self._hide(text), 300)

    def _hide(self, text: str) -> str:
        """Take the key out of a text: some servers repeat it in their errors."""
        return text.replace(self._key, "***") if self._key else text


async def _read(response: aiohttp.ClientResponse) -> bytes:
    data = bytearray()
    async for chunk in response.content.iter_chunked(1 << 16):
        data += chunk
        if len(data) > MOST_BYTES:
            raise EngineFailure(f"the endpoint's answer is larger than {MOST_BYTES >> 20} MB")
    return bytes(data)


def _pause(state: RetryCallState) -> float:
    return max(_reason(state).seconds, float(_jitter(state)))


def _reason(state: RetryCallState) -> _Later:
    error = state.outcome.exception() if state.outcome is not None else None
    assert isinstance(error, _Later)
    return error


def _retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds a server wants to be left alone: a number, or a date."""
    value = headers.get("Retry-After", "").strip()
    if value.replace(".", "", 1).isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError, IndexError):
        return 0.0


def _completions(url: str, names: SettingNames) -> str:
    parts = urlsplit(url.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"{names.url} {url!r} is no URL: expected one such as http://localhost:8000/v1")
    if parts.username or parts.password or parts.query:
        raise ConfigError(f"{names.url} holds a user, a password or a query: name the key's variable with {names.key}")
    path = parts.path.rstrip("/") or "/v1"
    return parts._replace(path=path if path.endswith("/chat/completions") else f"{path}/chat/completions").geturl()


def _key(variable: str | None, names: SettingNames) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key and not _VARIABLE.fullmatch(variable):  # likely the key itself: it is not repeated
        raise ConfigError(f"{names.key} takes the name of an environment variable that is set, such as BIG_ONE_KEY")
    if not key:
        raise ConfigError(f"{names.key} {variable}: the environment variable is not set; export {variable}=...")
    return key
