"""A decode loop to try, and what it did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from agentgrpo import causal_lm
from agentgrpo.engines.decode import DecodeLoop
from agentgrpo.engines.requests import Request
from agentgrpo.types import Generation, Policy, Sampling

VOCABULARY = 500
BASE = Policy(version=0)


@dataclass
class Bench:
    """A decode loop, what ended, and how many tokens each forward pass was fed (padding left out)."""

    loop: DecodeLoop
    ended: dict[int, Generation | Exception] = field(default_factory=dict)
    fed: list[int] = field(default_factory=list)
    requested: int = 0

    def request(
        self, prompt: Sequence[int], sampling: Sampling, policy: Policy = BASE, session: str = ""
    ) -> tuple[int, Request]:
        number = self.requested
        self.requested += 1

        def on_end(result: Generation | Exception) -> None:
            assert request not in self.loop._seats.requests()
            self.ended[number] = result

        request = Request(prompt_ids=tuple(prompt), sampling=sampling, policy=policy, session=session, on_end=on_end)
        self.loop.add(request)
        return number, request

    def run(self) -> None:
        for _ in range(20_000):
            if not self.loop.has_work:
                return
            self.loop.step()
        raise AssertionError("the loop never finished")

    def generate_beside(self, prompt: Sequence[int], sampling: Sampling, session: str) -> Generation:
        """Generate while others wait for what will not come."""
        number, _ = self.request(prompt, sampling, session=session)
        while number not in self.ended and self.loop.has_work:
            self.loop.step()
        result = self.ended[number]
        assert isinstance(result, Generation), result
        return result

    def generate(
        self, prompt: Sequence[int], sampling: Sampling, policy: Policy = BASE, session: str = ""
    ) -> Generation:
        number, _ = self.request(prompt, sampling, policy, session)
        self.run()
        result = self.ended[number]
        assert isinstance(result, Generation), result
        return result


def bench(model: PreTrainedModel, *, slots: int = 8, context: int = 256, prefill: int = 8192) -> Bench:
    """Return a decode loop of this model that counts what it feeds."""
    shared = causal_lm.share_weights(model)
    made = Bench(DecodeLoop(shared, max_sequences=slots, context_length=context, prefill_tokens=prefill))
    made.loop.versions.add(BASE, None)
    one_pass = made.loop._pass

    def counting(*args: Any) -> None:
        before = made.loop.fed_tokens
        one_pass(*args)
        made.fed.append(made.loop.fed_tokens - before)

    made.loop._pass = counting  # type: ignore[method-assign,assignment]
    return made


def prompt_of(seed: int, length: int) -> list[int]:
    """Return so many random tokens."""
    return [int(i) for i in np.random.default_rng(seed).integers(0, VOCABULARY, length)]
