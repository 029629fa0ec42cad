"""Who sits in which slot of the cache: requests, the sessions that keep a slot between turns, and their tokens.

Plain arrays, one row per slot, so that a step costs a handful of array operations however many sequences run.
It knows no tensors and no model.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agentgrpo.engines.attention import Ints
from agentgrpo.engines.drafts import CONTEXT, MOST, Drafts
from agentgrpo.errors import EngineFailure
from agentgrpo.types import FinishReason, Generation, Policy, Sampling

MIN_SHARED = 16  # a common beginning shorter than this is not worth a copy

Copy = tuple[int, int, int]  # source slot, target slot, length


@dataclass(slots=True, eq=False)
class Request:
    """One generation under way. `on_end` receives a Generation or the exception that ended it."""

    prompt_ids: tuple[int, ...]
    sampling: Sampling
    policy: Policy
    session: str
    on_end: Callable[[Generation | Exception], None]
    slot: int = -1


class Seats:
    """The slots as arrays [S]: what each sequence is, how much of it is cached, how its next token is drawn."""

    def __init__(self, slots: int, context_length: int) -> None:
        self.context_length = context_length
        # Room for a context looked back on before the first token, and for guesses beyond the last.
        self._padded = np.full((slots, CONTEXT + context_length + MOST + 1), -1, dtype=np.int64)
        self.tokens = self._padded[:, CONTEXT:]
        self.logprobs = np.zeros((slots, context_length + MOST + 1))
        self.cached = np.zeros(slots, dtype=np.int64)  # tokens whose keys and values are in the cache
        self.prompt = np.zeros(slots, dtype=np.int64)  # length of the prompt of the request in the slot
        self.opening = np.zeros(slots, dtype=np.int64)  # length of the first prompt of whoever has the slot
        self.sampled = np.zeros(slots, dtype=np.int64)
        self.limit = np.zeros(slots, dtype=np.int64)  # most tokens to sample
        self.temperature = np.zeros(slots, dtype=np.float32)
        self.top_p = np.ones(slots, dtype=np.float32)
        self.top_k = np.zeros(slots, dtype=np.int64)
        self.seed = np.zeros(slots, dtype=np.uint64)
        self.stops = np.full((slots, 1), -1, dtype=np.int64)
        self.spoiled: list[int] = []  # slots whose cache has to be cleared before anyone sits there
        self._left: list[int] = []  # slots whose request or session ended
        self._drafts = Drafts()
        self._requests: list[Request | None] = [None] * slots
        self._running: dict[Policy, Ints] | None = {}  # the slots of requests under way; None: look again
        self._policies: list[Policy | None] = [None] * slots  # under which the cached tokens were computed
        self._sessions: dict[str, int] = {}
        self._owners: list[str] = [""] * slots

    @property
    def is_busy(self) -> bool:
        return bool(self._under_way())

    def requests(self) -> list[Request]:
        """Return the requests under way."""
        return [r for r in self._requests if r is not None]

    def policies(self) -> list[Policy]:
        """Return the policies of the requests under way, the oldest version first."""
        return sorted(self._under_way(), key=str)

    def _under_way(self) -> dict[Policy, Ints]:
        if self._running is None:
            slots = defaultdict(list)
            for slot, request in enumerate(self._requests):
                if request is not None:
                    slots[request.policy].append(slot)
            self._running = {policy: np.array(rows) for policy, rows in slots.items()}
        return self._running

    # -- coming and going --------------------------------------------------------------------------------------------

    def admit(self, queue: Sequence[Request]) -> tuple[list[Request], list[Copy]]:
        """Seat what can be seated; return the requests that wait on, and what to copy for those that begin alike.

        A session's next turn always finds its own slot: a slot is taken from nobody.
        """
        waiting: list[Request] = []
        copies: dict[int, Copy] = {}  # by target
        free = [i for i, r in enumerate(self._requests) if r is None and not self._owners[i]]
        for request in queue:
            own = self._sessions.get(request.session) if request.session else None
            if own is not None and self._requests[own] is None:
                self._seat(request, own)
            elif own is not None or not free:
                waiting.append(request)
            else:
                donor, length, soon = self._donor(request)
                if soon >= length + MIN_SHARED:
                    waiting.append(request)  # a sequence that begins alike is being fed: copy from it then
                    continue
                slot = donor if donor in free else free[0]
                free.remove(slot)
                if slot != donor and length >= MIN_SHARED:
                    source = copies[donor][0] if donor in copies else donor  # all are copied at once: never from a copy
                    copies[slot] = (source, slot, length)
                    self.tokens[slot, :length] = request.prompt_ids[:length]
                elif slot != donor:
                    length = 0
                self.cached[slot], self.opening[slot] = length, len(request.prompt_ids)
                self._policies[slot] = request.policy
                self._seat(request, slot)
        return waiting, list(copies.values())

    def _seat(self, request: Request, slot: int) -> None:
        prompt = np.array(request.prompt_ids, dtype=np.int64)
        known = min(int(self.cached[slot]), len(prompt) - 1) if self._policies[slot] == request.policy else 0
        keep = common_length(self.tokens[slot, :known], prompt[:known])
        sampling = request.sampling
        self.tokens[slot, : len(prompt)] = prompt
        self.cached[slot] = keep
        self.prompt[slot], self.sampled[slot] = len(prompt), 0
        self.limit[slot] = min(sampling.max_tokens, self.context_length - len(prompt))
        self.temperature[slot], self.top_k[slot] = sampling.temperature, sampling.top_k
        self.top_p[slot], self.seed[slot] = sampling.top_p, sampling.seed & (2**64 - 1)
        self._set_stops(slot, sampling.stop_token_ids)
        self._requests[slot], self._policies[slot], request.slot = request, request.policy, slot
        self._running = None
        if request.session:
            self._sessions[request.session], self._owners[slot] = slot, request.session

    def _set_stops(self, slot: int, stops: Sequence[int]) -> None:
        missing = len(stops) - self.stops.shape[1]
        if missing > 0:
            self.stops = np.pad(self.stops, ((0, 0), (0, missing)), constant_values=-1)
        self.stops[slot] = -1
        self.stops[slot, : len(stops)] = stops

    def _donor(self, request: Request) -> tuple[int, int, int]:
        """Return the slot that begins most like a prompt, how much of that is cached, and how much will be soon."""
        rows = [i for i, p in enumerate(self._policies) if p == request.policy]
        if not rows:
            return -1, 0, 0
        prompt = np.array(request.prompt_ids[:-1], dtype=np.int64)
        alike = np.minimum.accumulate(self.tokens[rows, : len(prompt)] == prompt, axis=1).sum(axis=1)
        ready = np.minimum(alike, self.cached[rows])
        is_under_way = np.array([self._requests[i] is not None for i in rows])
        soon = np.where(is_under_way, np.minimum(alike, self.prompt[rows]), 0)
        best = int(ready.argmax())
        return rows[best], int(ready[best]), int(soon.max())

    def leave(self, request: Request) -> None:
        """Free the place of a request that ended; its session keeps the slot. Ended ones are fine."""
        slot, request.slot = request.slot, -1
        if slot >= 0 and self._requests[slot] is request:
            self._requests[slot] = self._running = None
            self._left.append(slot)

    def release(self, session: str) -> None:
        """Free the slot of a session; what is cached there may serve the next that begins alike."""
        slot = self._sessions.pop(session, None)
        if slot is not None:
            self._owners[slot] = ""
            self._left.append(slot)

    def shrink(self) -> Iterator[tuple[int, int]]:
        """Keep of what slots hold that nobody uses any more what they began with: others may begin alike.

        Yields such slots, and how many tokens each keeps.
        """
        for slot in self._left:
            if self._requests[slot] is None and not self._owners[slot]:
                self.cached[slot] = min(self.cached[slot], self.opening[slot])
                yield slot, int(self.cached[slot])
        self._left.clear()

    def discard(self, request: Request) -> None:
        """Free the place and the session of a request, and trust nothing that is cached there."""
        if request.slot >= 0:
            self._policies[request.slot] = None
            self.spoiled.append(request.slot)
        self.leave(request)
        self.release(request.session)

    def forget(self, policy: Policy) -> None:
        """Never again use what was cached under a policy."""
        self._policies = [None if p == policy else p for p in self._policies]

    # -- one pass ----------------------------------------------------------------------------------------------------

    def feed(self, policy: Policy, most: int) -> tuple[Ints, Ints]:
        """Return the slots [N] and positions [N] of the tokens to feed next.

        The last sampled token of every running sequence, with guesses at what follows, and up to `most` tokens of
        prompts; at least one prompt goes on.
        """
        rows = self._under_way()[policy]
        counts = self.prompt[rows] - self.cached[rows]  # of those that run, less than one
        is_running = counts < 1
        fits = np.cumsum(np.where(is_running, 0, counts))
        counts = np.clip(most - (fits - counts), 0, counts)
        counts[is_running] = 1 + self._guess(rows[is_running])
        slots = np.repeat(rows, counts)
        return slots, self.cached[slots] + np.arange(len(slots)) - np.repeat(np.cumsum(counts) - counts, counts)

    def _guess(self, rows: Ints) -> Ints:
        """Write guesses behind the known tokens of running sequences; return how many each has."""
        if not len(rows) or not self._drafts.is_sure:
            return np.zeros(len(rows), dtype=np.int64)
        ahead = np.arange(MOST)
        known = self.prompt[rows] + self.sampled[rows]
        guesses = self._drafts.guess(self._before(rows, known), MOST)
        # The token after the last guess is sampled too: never more than are wanted.
        is_guess = (guesses >= 0) & (ahead < (self.limit - self.sampled)[rows][:, None] - 1)
        self.tokens[rows[:, None], known[:, None] + ahead] = np.where(is_guess, guesses, -1)
        counts: Ints = is_guess.sum(axis=1)
        return counts

    def _before(self, rows: Ints, positions: Ints) -> Ints:
        """Return the CONTEXT tokens [N, CONTEXT] before these positions [N] of these slots [N]."""
        return self._padded[rows[:, None], positions[:, None] + np.arange(CONTEXT)]

    def fed(self, slots: Ints, positions: Ints) -> Ints:
        """Note which prompt tokens are cached now; return the places [R] in the pass after which to sample."""
        is_prompt = positions < self.prompt[slots]
        if is_prompt.any():
            self.cached[slots[is_prompt]] = positions[is_prompt] + 1  # of a slot's, the last one stays
        return np.flatnonzero(positions >= (self.prompt + self.sampled)[slots] - 1)

    def take(
        self, slots: Ints, positions: Ints, tokens: Ints, logprobs: NDArray[np.float64]
    ) -> Iterator[tuple[Request, Generation | Exception]]:
        """Append what was sampled [R] after these places, as far as the guesses before it were right.

        Yields the requests that end with it, already out of their slot.
        """
        count = positions + 2 - self.prompt[slots]  # of what its request has sampled, with this token
        is_end = (tokens[:, None] == self.stops[slots]).any(axis=1) | ~np.isfinite(logprobs)
        is_end |= count >= self.limit[slots]
        kept = self._kept(slots, positions, tokens, is_end)
        slots, positions, tokens, count, is_end = (a[kept] for a in (slots, positions, tokens, count, is_end))
        self.tokens[slots, positions + 1] = tokens
        self.logprobs[slots, count - 1] = logprobs[kept]
        self._drafts.learn(self._before(slots, positions + 1), tokens)
        self.sampled[slots], self.cached[slots] = count, positions + 1  # of a slot's, the last one stays
        for slot in slots[is_end].tolist():
            request = self._requests[slot]
            assert request is not None, "only sequences under way are fed"
            result = self._result(request, slot)
            if isinstance(result, Generation):
                self.leave(request)
            else:
                self.discard(request)
            yield request, result

    def _kept(self, slots: Ints, positions: Ints, tokens: Ints, is_end: NDArray[np.bool_]) -> slice | Ints:
        """Return which sampled tokens count: of each slot's, up to and with the first that no guess foresaw."""
        follows = slots[1:] == slots[:-1]
        if not follows.any():
            return slice(None)
        is_wrong = (tokens[:-1] != self.tokens[slots[1:], positions[1:]]) | is_end[:-1]
        wrong = np.concatenate([[0], np.cumsum(is_wrong & follows)])  # so many before each token
        first = np.flatnonzero(np.concatenate([[True], ~follows]))
        return np.flatnonzero(wrong == np.repeat(wrong[first], np.diff(first, append=len(slots))))

    def _result(self, request: Request, slot: int) -> Generation | Exception:
        start, count = int(self.prompt[slot]), int(self.sampled[slot])
        logprobs = self.logprobs[slot, :count]
        if not np.isfinite(logprobs).all():
            return EngineFailure(f"{request.policy} gave a logprob of {logprobs[-1]}: not finite")
        ids = self.tokens[slot, start : start + count]
        reason: FinishReason = "stop" if ids[-1] in request.sampling.stop_token_ids else "length"
        return Generation(token_ids=tuple(ids.tolist()), logprobs=tuple(logprobs.tolist()), finish_reason=reason)


def common_length(a: Ints, b: Ints) -> int:
    """Return the length of the common beginning of two arrays of one length."""
    differ = np.flatnonzero(a != b)
    return int(differ[0]) if len(differ) else len(a)
