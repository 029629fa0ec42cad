"""Continuous batching over a slot cache: sequences join and leave at any token.

Synchronous and single-threaded; `embedded.py` gives it a thread. It knows tokens, slots and policies, no text.
What is fed in one pass is decided here, what a pass computes in `passes.py`; neither changes what a request gets.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from agentgrpo import causal_lm
from agentgrpo.engines import LOGPROB_STEP, passes
from agentgrpo.engines.attention import Feed, Ints
from agentgrpo.engines.requests import Request, Seats
from agentgrpo.engines.sampling import probabilities, sample, uniforms
from agentgrpo.engines.slots import SlotCache
from agentgrpo.engines.versions import PolicyVersions
from agentgrpo.errors import EngineFailure
from agentgrpo.types import Policy


class DecodeLoop:
    """Requests in, generations out, one `step` at a time."""

    def __init__(
        self, model: PreTrainedModel, *, max_sequences: int, context_length: int, prefill_tokens: int = 1024
    ) -> None:
        passes.use_slots(model)
        self.versions = PolicyVersions(model)
        self.context_length = context_length
        self.cache = SlotCache(model, slots=max_sequences, max_length=context_length)
        self.fed_tokens = 0
        self._device = model.device
        self._vocabulary = int(model.config.vocab_size)
        self._prefill_tokens = prefill_tokens
        self._seats = Seats(max_sequences, context_length)
        self._queue: list[Request] = []
        self._is_full = False  # every slot belongs to an idle session: only a release or a cancel helps

    @property
    def has_work(self) -> bool:
        return self._seats.is_busy or bool(self._queue and not self._is_full)

    def add(self, request: Request) -> None:
        """Queue a request; one that can never run ends at once with EngineFailure."""
        if request.policy not in self.versions:
            request.on_end(EngineFailure(f"{request.policy} is not published"))
        elif not 0 < len(request.prompt_ids) < self.context_length:
            got = f"a prompt of {len(request.prompt_ids)} tokens"
            request.on_end(EngineFailure(f"{got} does not fit a context of {self.context_length}"))
        elif max(request.prompt_ids) >= self._vocabulary:
            got = f"token {max(request.prompt_ids)}"
            request.on_end(
                EngineFailure(f"{got} is none of this model's {self._vocabulary}: is its tokenizer another's?")
            )
        else:
            self._queue.append(request)
            self._is_full = False

    def cancel(self, request: Request) -> None:
        """Stop a request; what was sampled so far is dropped. Ended ones are fine."""
        if request in self._queue:
            self._queue.remove(request)
        else:
            self._seats.leave(request)

    def release(self, session: str) -> None:
        """Free the slot of a session."""
        self._seats.release(session)
        self._is_full = False

    def retire(self, policy: Policy) -> None:
        """Forget a policy and what was cached under it; what it still generates ends with EngineFailure."""
        orphans = [r for r in (*self._queue, *self._seats.requests()) if r.policy == policy]
        self._fail(orphans, EngineFailure(f"{policy} was retired while it was generating"))
        self.versions.drop(policy)
        self._seats.forget(policy)

    def fail_all(self, error: Exception) -> None:
        """End everything under way with this error."""
        self._fail([*self._queue, *self._seats.requests()], error)

    def _fail(self, requests: Iterable[Request], error: Exception) -> None:
        for request in requests:
            if request in self._queue:
                self._queue.remove(request)
            self._seats.discard(request)  # after a broken pass nobody knows what its slot holds
            request.on_end(error)
        self._is_full = False

    def step(self) -> None:
        """Seat what waits and fits; per policy one pass that feeds prompts and samples for every running sequence."""
        for slot in self._seats.spoiled:
            self.cache.clear(slot)
        self._seats.spoiled.clear()
        for slot, length in self._seats.shrink():
            self.cache.trim(slot, length)
        queue = self._queue
        self._queue, copies = self._seats.admit(queue)
        if copies:
            self.cache.copy(copies)
        for request in queue:
            if request.slot >= 0:
                self.cache.trim(request.slot, int(self._seats.cached[request.slot]))
        self._is_full = not self._seats.is_busy
        for policy in self._seats.policies():
            with self.versions.use(policy) as model:
                self._pass(model, policy)

    def _pass(self, model: PreTrainedModel, policy: Policy) -> None:
        slots, positions = self._seats.feed(policy, self._prefill_tokens)
        tokens = self._seats.tokens[slots, positions]
        hidden = passes.run_pass(model, tokens, Feed(self.cache, slots, positions))
        self.fed_tokens += len(tokens)
        ready = self._seats.fed(slots, positions)
        if len(ready):
            self._sample(model, hidden, ready, slots[ready], positions[ready])

    def _sample(self, model: PreTrainedModel, hidden: Tensor, places: Ints, slots: Ints, positions: Ints) -> None:
        """Sample what follows these positions of the sequences in `slots`, from the hidden states at `places`."""
        if len(places) < len(hidden):  # not a token each, and no padding
            padded = np.concatenate([places, np.zeros(-len(places) % passes.ROWS, dtype=np.int64)])
            hidden = hidden[torch.from_numpy(padded).to(self._device)]
        logits = causal_lm.logits(model, hidden)[: len(places)]
        seats = self._seats
        temperature = torch.from_numpy(seats.temperature[slots]).to(self._device)
        cuts = [torch.from_numpy(a[slots]).to(self._device) for a in (seats.top_k, seats.top_p)]
        number = positions + 1 - seats.prompt[slots]  # of the token, among those sampled
        draws = torch.from_numpy(uniforms(seats.seed[slots], number.astype(np.uint64)))
        wide = torch.float32 if self._device.type == "mps" else torch.float64
        chosen, logprobs = sample(
            probabilities(logits, temperature, *cuts), draws.to(self._device, wide), temperature <= 0
        )
        rounded = (logprobs.cpu().double() / LOGPROB_STEP).round() * LOGPROB_STEP
        for request, result in seats.take(slots, positions, chosen.cpu().numpy(), rounded.numpy()):
            request.on_end(result)
