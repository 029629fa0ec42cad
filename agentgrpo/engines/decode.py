"""Continuous batching over a slot cache: sequences join and leave at any token.

Synchronous and single-threaded; `embedded.py` gives it a thread. It knows tokens, slots and policies, no text.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from agentgrpo import causal_lm
from agentgrpo.engines import LOGPROB_STEP
from agentgrpo.engines.sampling import process_logits, sample, uniforms
from agentgrpo.engines.slots import SharedPrefix, SlotCache, SlotView
from agentgrpo.engines.versions import PolicyVersions
from agentgrpo.errors import EngineFailure
from agentgrpo.types import FinishReason, Generation, Policy, Sampling

_MIN_PREFIX = 16  # a shared prefix shorter than this is not worth a copy
_PREFIXES_PER_POLICY = 4
_WIDTH = 16  # the keys read are padded to a multiple of this


@dataclass(slots=True, eq=False)
class Request:
    """One generation under way. `on_end` receives a Generation or the exception that ended it."""

    prompt_ids: tuple[int, ...]
    sampling: Sampling
    policy: Policy
    session: str
    on_end: Callable[[Generation | Exception], None]
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    slot: int = -1


@dataclass(slots=True)
class Slot:
    """A row of the cache: whose it is and the tokens whose keys and values it holds."""

    session: str = ""
    policy: Policy | None = None
    token_ids: list[int] = field(default_factory=list)
    request: Request | None = None
    last_used: int = 0


def common_length(a: Iterable[int], b: Iterable[int]) -> int:
    """Return the length of the common prefix of two token sequences."""
    n = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            return n
        n += 1
    return n


class DecodeLoop:
    """Requests in, generations out, one `step` at a time."""

    def __init__(
        self, model: PreTrainedModel, *, max_sequences: int, context_length: int, prefill_tokens: int = 8192
    ) -> None:
        self.versions = PolicyVersions(model)
        self.context_length = context_length
        self._cache = SlotCache(model, slots=max_sequences, max_columns=context_length)
        self._device = model.device
        self._prefill_tokens = prefill_tokens
        self._slots = [Slot() for _ in range(max_sequences)]
        self._sessions: dict[str, int] = {}
        self._queue: deque[Request] = deque()
        self._active: list[Request] = []
        self._prefixes: dict[Policy, list[SharedPrefix]] = {}
        self._clock = 0

    @property
    def has_work(self) -> bool:
        return bool(self._queue or self._active)

    def add(self, request: Request) -> None:
        """Queue a request; one that can never run ends at once with EngineFailure."""
        if request.policy not in self.versions:
            request.on_end(EngineFailure(f"{request.policy} is not published"))
        elif not 0 < len(request.prompt_ids) < self.context_length:
            got = f"a prompt of {len(request.prompt_ids)} tokens"
            request.on_end(EngineFailure(f"{got} does not fit a context of {self.context_length}"))
        else:
            self._queue.append(request)

    def cancel(self, request: Request) -> None:
        """Stop a request; what was sampled so far is dropped. Ended ones are fine."""
        if request in self._queue:
            self._queue.remove(request)
        elif request in self._active:
            self._leave(request)

    def release(self, session: str) -> None:
        """Free the slot of a session."""
        index = self._sessions.pop(session, None)
        if index is not None:
            self._slots[index] = Slot(request=self._slots[index].request)

    def retire(self, policy: Policy) -> None:
        """Forget a policy and what was cached under it; what it still generates ends with EngineFailure."""
        orphans = [r for r in (*self._queue, *self._active) if r.policy == policy]
        self._fail(orphans, EngineFailure(f"{policy} was retired while it was generating"))
        self.versions.drop(policy)
        self._prefixes.pop(policy, None)

    def fail_all(self, error: Exception) -> None:
        """End everything under way with this error."""
        self._fail([*self._queue, *self._active], error)

    def _fail(self, requests: list[Request], error: Exception) -> None:
        for request in requests:
            self.cancel(request)
            self.release(request.session)  # after a broken pass nobody knows what its slot holds
            request.on_end(error)

    def step(self) -> None:
        """Admit and prefill what waits and fits, then sample one token for every running sequence."""
        self._clock += 1
        running = list(self._active)
        admitted = self._admit()
        self._active += admitted  # from now on, whatever breaks finds them
        for policy in dict.fromkeys(r.policy for r in admitted):
            with self.versions.use(policy) as model:
                self._prefill(model, [r for r in admitted if r.policy == policy])
        for policy in dict.fromkeys(r.policy for r in running):
            with self.versions.use(policy) as model:
                self._decode(model, [r for r in running if r.policy == policy])

    # -- slots -----------------------------------------------------------------------------------------------------

    def _admit(self) -> list[Request]:
        admitted: list[Request] = []
        while self._queue:
            index = self._slot_for(self._queue[0])
            if index is None:
                break
            request = self._queue.popleft()
            slot = self._slots[index]
            if slot.policy != request.policy:
                slot.token_ids = []
            keep = min(common_length(slot.token_ids, request.prompt_ids), len(request.prompt_ids) - 1)
            slot.session, slot.policy, slot.request, slot.last_used = (
                request.session,
                request.policy,
                request,
                self._clock,
            )
            slot.token_ids = slot.token_ids[:keep]
            request.slot = index
            if request.session:
                self._sessions[request.session] = index
            admitted.append(request)
        return admitted

    def _slot_for(self, request: Request) -> int | None:
        """Return the session's own slot, else a free one, else the idle one used longest ago, else None."""
        own = self._sessions.get(request.session) if request.session else None
        if own is not None:
            return own if self._slots[own].request is None else None
        idle = [i for i, slot in enumerate(self._slots) if slot.request is None]
        free = [i for i in idle if not self._slots[i].session]
        if free:
            return free[0]
        if not idle or self._active:
            return None  # a running episode keeps its cache: wait, unless nothing would ever free a slot
        oldest = min(idle, key=lambda i: self._slots[i].last_used)
        self.release(self._slots[oldest].session)
        return oldest

    def _leave(self, request: Request) -> None:
        slot = self._slots[request.slot]
        # The last token sampled was never fed back, so its keys are not in the cache.
        slot.token_ids = [*request.prompt_ids, *request.token_ids][
            : len(request.prompt_ids) + len(request.token_ids) - 1
        ]
        slot.request, slot.last_used = None, self._clock
        if self._sessions.get(request.session) != request.slot:
            self._slots[request.slot] = Slot()
        if request in self._active:
            self._active.remove(request)
        request.slot = -1

    # -- forward passes ----------------------------------------------------------------------------------------------

    def _prefill(self, model: PreTrainedModel, requests: list[Request]) -> None:
        self._share_prefix(model, [r for r in requests if not self._slots[r.slot].token_ids])
        todo = sorted(requests, key=lambda r: len(r.prompt_ids) - len(self._slots[r.slot].token_ids))
        while todo:
            longest, count = 0, 0
            for request in todo:
                longest = max(longest, len(request.prompt_ids) - len(self._slots[request.slot].token_ids))
                if count and longest * (count + 1) > self._prefill_tokens:
                    break
                count += 1
            batch, todo = todo[:count], todo[count:]
            starts = [len(self._slots[r.slot].token_ids) for r in batch]
            rows = [r.prompt_ids[start:] for r, start in zip(batch, starts, strict=True)]
            hidden = self._forward(model, [r.slot for r in batch], rows, starts)
            last = torch.tensor([len(row) - 1 for row in rows], device=self._device)
            self._sample(model, hidden[torch.arange(len(batch), device=self._device), last], batch)

    def _share_prefix(self, model: PreTrainedModel, fresh: list[Request]) -> None:
        """Fill fresh slots from the longest prefix known; compute one that several of them begin with."""
        if not fresh:
            return
        known = self._prefixes.setdefault(fresh[0].policy, [])
        first = fresh[0].prompt_ids
        common = min((common_length(first, r.prompt_ids) for r in fresh[1:]), default=0)
        common = min(common, *(len(r.prompt_ids) - 1 for r in fresh))
        best = max((common_length(p.token_ids, first[:common]) for p in known), default=0)
        if common >= best + _MIN_PREFIX:
            self._forward(model, [fresh[0].slot], [first[:common]], [0])
            known.append(self._cache.read_prefix(fresh[0].slot, first[:common]))
            del known[:-_PREFIXES_PER_POLICY]
        for request in fresh:
            self._copy_prefix(request, known)

    def _copy_prefix(self, request: Request, known: list[SharedPrefix]) -> None:
        limit = request.prompt_ids[:-1]
        lengths = [common_length(p.token_ids, limit) for p in known]
        if lengths and max(lengths) >= _MIN_PREFIX:
            best = int(np.argmax(lengths))
            slots = torch.tensor([request.slot], device=self._device)
            self._cache.reserve(lengths[best])
            self._cache.write_prefix(slots, known[best], lengths[best])
            self._slots[request.slot].token_ids = list(limit[: lengths[best]])

    def _decode(self, model: PreTrainedModel, requests: list[Request]) -> None:
        rows = {r.slot: r for r in requests}
        leading = range(max(rows) + 1)
        # Idle rows among busy ones are computed and ignored: cheaper than gathering the keys of the busy ones.
        slots = list(leading) if 2 * len(rows) >= len(leading) else sorted(rows)
        tokens: list[tuple[int, ...]] = [(rows[s].token_ids[-1],) if s in rows else (0,) for s in slots]
        starts = [self._fed_length(s, rows) for s in slots]
        hidden = self._forward(model, slots, tokens, starts)
        batch = [(i, rows[s]) for i, s in enumerate(slots) if s in rows]
        picked = hidden[:, 0]
        if len(batch) < len(slots):
            picked = picked[torch.tensor([i for i, _ in batch], device=self._device)]
        self._sample(model, picked, [r for _, r in batch])

    def _fed_length(self, slot: int, rows: dict[int, Request]) -> int:
        request = rows.get(slot) or self._slots[slot].request
        if request is None or request.slot < 0:
            return len(self._slots[slot].token_ids)
        return len(request.prompt_ids) + max(len(request.token_ids) - 1, 0)

    def _forward(
        self, model: PreTrainedModel, slots: list[int], rows: list[tuple[int, ...]], starts: list[int]
    ) -> Tensor:
        """Feed rows [R, T] (right-padded) at their start positions; return hidden states [R, T, D]."""
        length = max(map(len, rows))
        tokens = torch.tensor([[*row, *([0] * (length - len(row)))] for row in rows], device=self._device)
        positions = torch.tensor(starts, device=self._device)[:, None] + torch.arange(length, device=self._device)
        width = -(-(max(starts) + length) // _WIDTH) * _WIDTH
        self._cache.reserve(width)
        columns = torch.arange(width, device=self._device)
        mask = columns[None, None, None] <= positions[:, None, :, None]
        view = SlotView(self._cache, torch.tensor(slots, device=self._device), positions, width)
        return causal_lm.hidden_states(
            model, tokens, attention_mask=mask, position_ids=positions, past_key_values=view, use_cache=True
        )

    # -- sampling ----------------------------------------------------------------------------------------------------

    def _sample(self, model: PreTrainedModel, hidden: Tensor, requests: list[Request]) -> None:
        settings = [r.sampling for r in requests]
        temperature = torch.tensor([s.temperature for s in settings], device=self._device)
        top_k = torch.tensor([s.top_k for s in settings], device=self._device)
        top_p = torch.tensor([s.top_p for s in settings], device=self._device)
        logprobs = process_logits(causal_lm.logits(model, hidden), temperature, top_k, top_p)
        seeds = np.array([s.seed & (2**64 - 1) for s in settings], dtype=np.uint64)
        counters = np.array([len(r.token_ids) for r in requests], dtype=np.uint64)
        draws = torch.from_numpy(uniforms(seeds, counters))
        draws = draws.to(self._device, torch.float32 if self._device.type == "mps" else torch.float64)
        tokens, chosen = sample(logprobs, draws, temperature <= 0)
        rounded = (chosen.cpu().double() / LOGPROB_STEP).round() * LOGPROB_STEP
        for request, token, logprob in zip(requests, tokens.tolist(), rounded.tolist(), strict=True):
            request.token_ids.append(token)
            request.logprobs.append(logprob)
            self._end_if_done(request)

    def _end_if_done(self, request: Request) -> None:
        length = len(request.prompt_ids) + len(request.token_ids)
        reason: FinishReason | None = None
        if request.token_ids[-1] in request.sampling.stop_token_ids:
            reason = "stop"
        elif len(request.token_ids) >= request.sampling.max_tokens or length >= self.context_length:
            reason = "length"
        if reason is None and np.isfinite(request.logprobs[-1]):
            return
        self._leave(request)
        if reason is None or not np.isfinite(request.logprobs[-1]):
            request.on_end(EngineFailure(f"{request.policy} gave a logprob of {request.logprobs[-1]}: not finite"))
        else:
            request.on_end(
                Generation(token_ids=tuple(request.token_ids), logprobs=tuple(request.logprobs), finish_reason=reason)
            )
