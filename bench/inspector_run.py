"""Runs as large as asked for, for the benchmark of the inspector: text of the repository, cut into episodes.

Ids are those of a BPE fitted to that text; logprobs are drawn: nothing here was sampled by a model.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from agentgrpo.store import EpisodeStore, RunDirectory, TrainingRow, finish_record, start_record
from agentgrpo.store.run import Metrics
from agentgrpo.store.schema import connect_readonly
from agentgrpo.types import EpisodeKey, Policy, Span, StopReason, Trajectory, Turn

ROOT = Path(__file__).parents[1]
UNIT = 2.0**-16
VOCABULARY = 8000
GROUP = 8
STEP = 512  # episodes
BATCH, WRITES = 64, 5
TEMPLATES = 256  # episodes of which all others are copies under other keys and rewards
CONTROL = ("<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>")
TOOLS = ("find_customer", "find_order", "list_orders", "get_order", "cancel_order", "refund_order", "set_address")
STOPS = (StopReason.ANSWERED,) * 9 + (StopReason.MAX_TURNS,)


def text_of_the_repository() -> str:
    """Return the prose and the code there is here: text as models read it."""
    paths = sorted(
        [*ROOT.glob("docs/**/*.md"), *ROOT.glob("agentgrpo/[a-z]*.py"), *ROOT.glob("agentgrpo/learner/*.py")]
    )
    return "\n".join(path.read_text(encoding="utf-8") for path in paths)


def fitted(text: str) -> Tokenizer:
    """Return a byte-level BPE fitted to a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(text.splitlines(keepends=True), trainer)
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in CONTROL])
    return tokenizer


@dataclass(slots=True)
class Author:
    """Makes episodes of any length."""

    tokenizer: Tokenizer
    ids: list[int]
    rng: random.Random = field(default_factory=lambda: random.Random(0))

    @classmethod
    def of_the_repository(cls) -> Author:
        """Return one that has read what there is here."""
        text = text_of_the_repository()
        tokenizer = fitted(text)
        return cls(tokenizer, tokenizer.encode(text, add_special_tokens=False).ids)

    def episode(self, key: EpisodeKey, tokens: int, turns: int) -> Trajectory:
        """Return an episode of so many tokens: of every turn 60 % were heard, 40 % sampled."""
        spans: list[Span] = []
        made: list[Turn] = []
        for turn in range(turns):
            size = tokens // turns if turn + 1 < turns else tokens - tokens // turns * (turns - 1)
            heard, sampled = self._words(size - size * 2 // 5), self._words(size * 2 // 5)
            for ids, is_sampled in ((heard, False), (sampled, True)):
                spans.append(self._span(ids, is_sampled, turn, len(spans) - 1))
            made.append(self._turn(turn, self._text(sampled), self._text(heard)))
        return Trajectory(
            key=key,
            env_id="agentgrpo/Shop-v0",
            seed=key.sample,
            policy=Policy(version=max(0, key.step - 1)),
            prompt=({"role": "system", "content": "You run a shop."}, {"role": "user", "content": "Refund the towel."}),
            tools=tuple({"type": "function", "function": {"name": name, "parameters": {}}} for name in TOOLS),
            spans=tuple(spans),
            turns=tuple(made),
            stop_reason=self.rng.choice(STOPS),
            reward=1.0,
            reward_terms={"outcome": 1.0, "side_effects": 0.0},
            started_at=1.79e9 + 9.0 * key.step,
            seconds=self.rng.uniform(1, 4),
        )

    def _words(self, size: int) -> list[int]:
        start = self.rng.randrange(max(1, len(self.ids) - size))
        return (self.ids[start : start + size] * 2)[:size] if size <= len(self.ids) else (self.ids * 9)[:size]

    def _text(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids))

    def _span(self, ids: list[int], is_sampled: bool, turn: int, parent: int) -> Span:
        values = tuple(self._logprob() for _ in ids) if is_sampled else None
        return Span(
            parent=parent,
            token_ids=tuple(ids),
            sampled=is_sampled,
            logprobs=values,
            policy_version=3 if is_sampled else None,
            turn=turn,
        )

    def _logprob(self) -> float:
        """Return a logprob as sampled text has them: most are near 0."""
        rate = 1.5 if self.rng.random() < 0.3 else 40.0
        return -round(self.rng.expovariate(rate) / UNIT) * UNIT

    def entropy(self) -> float:
        """Return an entropy, in nats, as sampled text has them: most tokens leave little choice."""
        return self.rng.expovariate(1.5 if self.rng.random() < 0.3 else 40.0)

    def _turn(self, number: int, said: str, heard: str) -> Turn:
        name, call = self.rng.choice(TOOLS), f"call_{number}_0"
        arguments = {"order": str(self.rng.randrange(1000, 9999))}
        is_error = self.rng.random() < 0.05
        diff: tuple[Any, ...] = ({"op": "replace", "path": f"/orders/{arguments['order']}/status", "value": "sent"},)
        return Turn(
            action={"content": said, "tool_calls": [{"id": call, "name": name, "arguments": arguments}]},
            messages=({"role": "tool", "tool_call_id": call, "name": name, "content": heard, "is_error": is_error},),
            reward=0.0,
            state_hash=f"{self.rng.getrandbits(64):016x}",
            state_diff=diff if number % 3 == 0 else (),
            generate_seconds=self.rng.random(),
            env_seconds=self.rng.random() / 100,
        )


def keys(count: int, first: int = 0) -> Iterator[EpisodeKey]:
    """Yield the keys of so many episodes, group by group, step by step."""
    for number in range(first, first + count):
        task = number // GROUP
        family = ("cancel", "refund", "send", "status")[task % 4]
        yield EpisodeKey(
            phase="train", step=1 + number // STEP, task_id=f"{family}_item-{task % 5000:04d}", sample=number % GROUP
        )


def large_run(folder: Path, author: Author, count: int, long: dict[str, int]) -> RunDirectory:
    """Make a run of `count` small episodes, then of long ones.

    Args:
        folder: Where the run's folder is made.
        author: Who writes.
        count: How many small episodes (some 120 tokens each).
        long: The tokens of each long episode, by the name of its task; each is a group of `GROUP`.
    """
    run = RunDirectory.create(folder, f"shop-{count}")
    model = folder / ".model"
    model.mkdir(parents=True, exist_ok=True)
    author.tokenizer.save(str(model / "tokenizer.json"))
    config = {"name": run.name, "seed": 0}
    start_record(run, config=config, env=(), env_id="agentgrpo/Shop-v0", tasks={}, model_path=model, sampling={})
    first = next(keys(1))
    made = [author.episode(first, author.rng.randrange(80, 160), author.rng.randrange(2, 6)) for _ in range(TEMPLATES)]
    with EpisodeStore(run.episodes) as store, Metrics(run.metrics) as metrics:
        batch: list[Any] = []
        for number, key in enumerate(keys(count)):
            batch += _stored(author, made[number % TEMPLATES], key)
            if len(batch) >= 2 * STEP or number == count - 1:
                store.add_sync(batch[::2])
                store.add_sync(batch[1::2])
                batch = []
            if number % STEP == 0:
                metrics.write(key.step, {"train/kl": author.rng.random() / 100, "train/entropy": author.rng.random()})
        last = 2 + count // STEP
        for task, tokens in long.items():
            group = [
                author.episode(EpisodeKey(phase="train", step=last, task_id=task, sample=i), tokens, 12)
                for i in range(GROUP)
            ]
            pairs = [_stored(author, episode, episode.key, with_logprobs=True) for episode in group]
            store.add_sync([episode for episode, _ in pairs])
            store.add_sync([row for _, row in pairs])
    finish_record(run, status="finished")
    return run


def _stored(author: Author, template: Trajectory, key: EpisodeKey, *, with_logprobs: bool = False) -> tuple[Any, Any]:
    rng = author.rng
    reward = float(rng.random() < 0.6) - 0.5 * (rng.random() < 0.05)
    logprobs = [value for span in template.spans for value in span.logprobs or ()] if with_logprobs else None
    episode = replace(template, key=key, reward=reward, stop_reason=rng.choice(STOPS), policy=Policy(version=key.step))
    return episode, TrainingRow(key=key, advantage=rng.gauss(0, 1), logprobs=logprobs)


def _trained(author: Author, episode: Trajectory) -> TrainingRow:
    """Return what the learner knows of an episode's tokens."""
    # As in a run of the demo: one of 25 is a multiple of 2**-16 off the engine's.
    logprobs = [value + author.rng.gauss(0, 3.7e-6) for span in episode.spans for value in span.logprobs or ()]
    entropies = [author.entropy() for _ in logprobs]
    return TrainingRow(key=episode.key, advantage=0.5, logprobs=logprobs, entropies=entropies)


@dataclass(frozen=True, slots=True, kw_only=True)
class WritingCost:
    """What it takes to write 1k-token episodes: CPU ms of each, and bytes per token."""

    ms: float  # the least of several runs: what other work on a shared machine adds is not the store's
    tokens: float  # ids, the engine's logprobs, entropies
    learner: float  # the learner's logprobs, beside them
    file: float  # the whole file


def writing_cost(folder: Path, author: Author, count: int) -> WritingCost:
    """Return what it takes to write 1k-token episodes of which every one was trained on."""
    episodes = [author.episode(key, 1000, 8) for key in keys(count)]
    runs = [RunDirectory.create(folder, f"writing-{number}") for number in range(WRITES)]
    spent = min(_write(run, episodes) for run in runs)
    with EpisodeStore(runs[0].episodes) as store:
        store.add_sync([_trained(author, episode) for episode in episodes])
    tokens = sum(episode.token_count for episode in episodes)
    return WritingCost(
        ms=spent,
        tokens=_bytes_of(runs[0], "token_ids", "logprobs", "entropies") / tokens,
        learner=_bytes_of(runs[0], "learner_logprobs") / tokens,
        file=runs[0].episodes.stat().st_size / tokens,
    )


def _write(run: RunDirectory, episodes: list[Trajectory]) -> float:
    with EpisodeStore(run.episodes) as store:
        store.add_sync(episodes[:GROUP])
        clock = time.process_time()
        for at in range(GROUP, len(episodes), BATCH):
            store.add_sync(episodes[at : at + BATCH])
        return 1000 * (time.process_time() - clock) / (len(episodes) - GROUP)


def _bytes_of(run: RunDirectory, *columns: str) -> int:
    with closing(connect_readonly(run.episodes)) as connection:
        sql = f"SELECT sum({' + '.join(f'length({column})' for column in columns)}) FROM payloads"
        return int(connection.execute(sql).fetchone()[0])


def describe(run: RunDirectory) -> str:
    """Return the size of a run's file."""
    return f"{run.episodes.stat().st_size / 1e6:,.0f} MB: {json.dumps(run.name)}"
