"""The judge: asks for verdicts within a deadline and a budget, keeps what was said, and never guesses.

It knows neither groups' baselines nor what becomes of an episode without a verdict.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol, TypeVar

from agentgrpo.activity import Activity
from agentgrpo.config.judge import JudgeConfig
from agentgrpo.endpoint.client import Endpoint, PromptTooLong
from agentgrpo.errors import EngineFailure, JudgeFailure, UserError
from agentgrpo.judge.prompt import Shown, correction, ranking_prompt, score_prompt, show
from agentgrpo.judge.verdict import Malformed, Verdict, rank_rewards, read_ranking, read_score
from agentgrpo.seeds import derive_seed
from agentgrpo.types import Message, Sampling, Trajectory

T = TypeVar("T")


class Verdicts(Protocol):
    """Where answers are kept, and what was paid for them; `store.verdicts.VerdictStore` on disk."""

    def get(self, key: str) -> str | None:
        """Return what is kept under a key."""

    def put(self, key: str, answer: str) -> None:
        """Keep an answer."""

    def spend(self, *, calls: int = 0, tokens: int = 0) -> None:
        """Count what was paid."""

    def spent(self) -> tuple[int, int]:
        """Return the calls and tokens paid so far."""


class Judge:
    """A chat model that scores or ranks episodes. Use as an async context manager.

    Args:
        config: Which model, its deadline, its budget.
        rubric: What counts, in words.
        endpoint: The model.
        verdicts: What it has said before.
        seed: The run's: the order attempts are shown in follows from it.
        activity: Is told what is waited for, and what goes wrong.
    """

    def __init__(
        self,
        config: JudgeConfig,
        rubric: str,
        endpoint: Endpoint,
        verdicts: Verdicts,
        *,
        seed: int,
        activity: Activity | None = None,
    ) -> None:
        self.config, self.rubric, self.seed = config, rubric, seed
        self.activity = activity or Activity()
        self.counts: Counter[str] = Counter()  # verdicts "asked" for, "kept" from before, "failed"
        self._endpoint, self._verdicts = endpoint, verdicts
        self._slots = asyncio.Semaphore(config.concurrency)
        self._asking: dict[str, asyncio.Lock] = {}
        self._sampling = Sampling(max_tokens=config.answer_tokens, temperature=config.temperature)

    async def __aenter__(self) -> Judge:
        await self._endpoint.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._endpoint.__aexit__(None, None, None)

    async def score(self, trajectory: Trajectory) -> Verdict:
        """Return the verdict on one episode.

        Raises:
            JudgeFailure: there is none.
            UserError: the endpoint refuses the key, the URL or the model.
        """
        return await self._verdict(str(trajectory.key), score_prompt(self.rubric, show(trajectory)), read_score)

    async def rank(self, trajectories: Sequence[Trajectory]) -> list[Verdict]:
        """Return a verdict per episode of a group, ranked against each other; see `verdict.rank_rewards`.

        Attempts are shown in an order that the seed chooses, so that none gains by its place; those that are the same
        to the letter are shown once and share a rank.

        Raises:
            JudgeFailure: there is no ranking, or only one episode to rank.
            UserError: the endpoint refuses the key, the URL or the model.
        """
        if len(trajectories) < 2:
            raise self._failure("alone", "one episode cannot be ranked: the others of its group have no score")
        shown = [show(trajectory) for trajectory in trajectories]
        key = trajectories[0].key
        attempts = sorted({_text(one): one for one in shown}.items())
        random.Random(derive_seed(self.seed, "judge", key.step, key.task_id)).shuffle(attempts)
        places = {text: place for place, (text, _) in enumerate(attempts)}
        of_episode = [places[_text(one)] for one in shown]
        sizes = [of_episode.count(place) for place in range(len(attempts))]
        if len(attempts) == 1:
            return [Verdict(score=0.5, reason="all attempts are the same")] * len(trajectories)
        who, prompt = f"group {key.step}/{key.task_id}", ranking_prompt(self.rubric, [one for _, one in attempts])
        ranking = await self._verdict(who, prompt, lambda text: read_ranking(text, len(attempts)))
        rewards = rank_rewards(ranking.places, sizes)
        return [Verdict(score=rewards[place], reason=ranking.reason) for place in of_episode]

    def metrics(self) -> dict[str, float]:
        """Return what the judge has cost so far, and the verdicts of this process by what came of them."""
        calls, tokens = self._verdicts.spent()
        counts = {f"judge/{kind}": float(self.counts[kind]) for kind in ("asked", "kept", "failed")}
        return {"judge/calls": float(calls), "judge/tokens": float(tokens), **counts}

    async def _verdict(self, who: str, prompt: Sequence[Message], read: Callable[[str], T]) -> T:
        """Return what was said before, else ask; the same question is never asked twice at the same time."""
        key = self._key(prompt)
        lock = self._asking.setdefault(key, asyncio.Lock())
        try:
            async with lock:
                kept = self._kept(key, read)
                if kept is not None:
                    self.counts["kept"] += 1
                    return kept
                async with self._slots:  # the deadline does not run while others are judged
                    with self.activity.waiting(who, "judge"):
                        return await self._within(self._ask(key, prompt, read))
        finally:
            if not lock.locked():
                self._asking.pop(key, None)

    def _kept(self, key: str, read: Callable[[str], T]) -> T | None:
        answer = self._verdicts.get(key)
        try:
            return None if answer is None else read(answer)
        except Malformed:  # redacted, or damaged
            return None

    async def _within(self, asking: Coroutine[Any, Any, T]) -> T:
        try:
            async with asyncio.timeout(self.config.seconds):
                return await asking
        except TimeoutError as error:
            raise self._failure("deadline", f"no verdict within {self.config.seconds:g} s") from error

    async def _ask(self, key: str, prompt: Sequence[Message], read: Callable[[str], T]) -> T:
        messages, problem = list(prompt), ""
        for _ in range(self.config.retries + 1):
            answer = await self._answer(messages)
            try:
                found = read(answer)
            except Malformed as error:
                problem = str(error)
                messages = [*prompt, {"role": "assistant", "content": answer}, correction(problem)]
            else:
                self._verdicts.put(key, answer)
                self.counts["asked"] += 1
                return found
        raise self._failure("malformed", f"{self.config.retries + 1} answers could not be read; the last: {problem}")

    async def _answer(self, messages: Sequence[Message]) -> str:
        self._pay()
        try:
            # A little more than the verdict's own deadline, which says what was too late.
            reply = await self._endpoint.chat(messages, sampling=self._sampling, seconds=self.config.seconds + 1.0)
        except PromptTooLong as error:
            raise self._failure("too_long", str(error)) from error
        except EngineFailure as error:
            raise self._failure("no_answer", str(error)) from error
        read, written = reply.prompt_tokens, reply.completion_tokens
        if self.config.budget_tokens is not None and (read is None or written is None):
            raise UserError(
                f"judge.budget_tokens cannot be held: {self.config.model} does not say how many tokens an answer took. "
                "Set judge.budget_calls in its place"
            )
        self._verdicts.spend(tokens=(read or 0) + (written or 0))
        return reply.message.content

    def _pay(self) -> None:
        """Count a call, unless the budget is used up."""
        (calls, tokens), config = self._verdicts.spent(), self.config
        for name, spent, budget in (
            ("calls", calls, config.budget_calls),
            ("tokens", tokens, config.budget_tokens),
        ):
            if budget is not None and spent >= budget:
                told = f"judge.budget_{name} = {budget} is used up: what is not judged from here on has no score"
                raise self._failure("budget", told)
        self._verdicts.spend(calls=1)

    def _failure(self, kind: str, told: str) -> JudgeFailure:
        self.counts["failed"] += 1
        self.activity.trouble(f"judge_{kind}", f"the judge: {told}")
        return JudgeFailure(kind, told)

    def _key(self, prompt: Sequence[Message]) -> str:
        asked = [self.config.model, self.config.temperature, prompt]
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def _text(shown: Shown) -> str:
    return json.dumps([shown.messages, shown.ended])
