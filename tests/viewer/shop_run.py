"""A believable run of the shop, without a model: its oracle plays, better from step to step, in the real environment.

Tokens are those of a small BPE fitted to the episodes; logprobs and curves of the learner are made up. It loads no
torch. `python -m tests.viewer.shop_run FOLDER` makes the run in which a tool breaks at step 40.
"""

from __future__ import annotations

import json
import math
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from agentgrpo.envs.shop.env import Shop
from agentgrpo.store import EpisodeStore, RunDirectory, TrainingRow, finish_record, start_record, write_text
from agentgrpo.store.run import Metrics
from agentgrpo.tooling import tool
from agentgrpo.types import EpisodeKey, JsonObject, Message, Phase, Policy, Span, StopReason, Trajectory, Turn

UNIT = 2.0**-16
CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>", "<tool_response>")
TEMPLATES = ("status_item", "cancel_item", "send_item", "refund_item", "cancel_or_refund_item", "send_new_item")
TOOLS = ("find_customer", "find_order", "get_order", "cancel_order", "refund_order", "set_address", "add_address")
BEGAN = 1_790_000_000.0


class BreakingShop(Shop):
    """A shop whose refunds can be made to do nothing, without a word about it."""

    is_broken = False

    @tool
    def refund_order(self, order: str, amount: int, reason: str) -> JsonObject:
        """Refund an order that has arrived. Reasons: damaged, late, wrong, missing, unwanted."""
        if self.is_broken:
            return {"order": order, "refunded": amount}
        return super().refund_order(order, amount, reason)


def tokenizer_of(texts: Iterable[str], size: int = 1200) -> Tokenizer:
    """Return a byte-level BPE fitted to texts, with a chat template's control tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in CONTROL])
    return tokenizer


class Tokens:
    """Writes the conversation of an episode as spans."""

    def __init__(self, tokenizer: Tokenizer, rng: random.Random) -> None:
        self.tokenizer, self.rng = tokenizer, rng

    def spans(self, prompt: Sequence[Message], turns: Sequence[Turn], version: int) -> tuple[Span, ...]:
        """Return a chain of spans: what was heard, what was sampled, turn by turn."""
        found: list[Span] = []
        heard = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in prompt)
        for number, turn in enumerate(turns):
            self._add(found, f"{heard}<|im_start|>assistant\n", number, None)
            calls = [json.dumps({"name": c.get("name"), "arguments": c.get("arguments")}) for c in _calls(turn)]
            said = str(turn.action["content"]) + "".join(f"<tool_call>\n{call}\n</tool_call>" for call in calls)
            self._add(found, f"{said}<|im_end|>", number, version)
            replies = "".join(f"<tool_response>\n{m['content']}\n" for m in turn.messages)
            heard = f"\n<|im_start|>user\n{replies}<|im_end|>\n"
        return tuple(found)

    def _add(self, spans: list[Span], text: str, turn: int, version: int | None) -> None:
        ids = tuple(self.tokenizer.encode(text, add_special_tokens=False).ids)
        values = None if version is None else tuple(self._logprob() for _ in ids)
        spans.append(
            Span(
                parent=len(spans) - 1,
                token_ids=ids,
                sampled=version is not None,
                logprobs=values,
                policy_version=version,
                turn=turn,
            )
        )

    def _logprob(self) -> float:
        """Return a logprob as they are: most tokens are all but certain, some are not."""
        rate = 2.0 if self.rng.random() < 0.25 else 60.0
        return -round(self.rng.expovariate(rate) / UNIT) * UNIT


def _calls(turn: Turn) -> list[Any]:
    return list(turn.action["tool_calls"])


def play(
    env: Shop, task: JsonObject, key: EpisodeKey, *, quality: float, tokens: Tokens | None, began: float
) -> Trajectory:
    """Play one episode with the oracle and return it as a rollout would."""
    rng = random.Random(f"{key}/{quality}")
    _, info = env.reset(seed=hash_of(key.task_id), options={"task": task})
    prompt, tools = tuple(info["messages"]), tuple(info["tools"])
    oracle = env.oracle(quality=quality, rng=rng)
    turns: list[Turn] = []
    action, over = next(oracle), False
    terms: dict[str, float] = {}
    while not over and len(turns) < 7:
        for index, call in enumerate(action["tool_calls"]):
            call["id"] = f"call_{len(turns)}_{index}"
        _, reward, terminated, truncated, info = env.step(json.dumps(action))
        over, terms = terminated or truncated, info.get("reward_terms", terms)
        turns.append(_turn(action, info, float(reward), rng))
        if not over:
            action = oracle.send(turns[-1].messages)
    version = max(0, key.step - 1)
    total = sum(turn.reward for turn in turns)
    return Trajectory(
        key=key,
        env_id="agentgrpo/Shop-v0",
        seed=hash_of(key.task_id),
        policy=Policy(version=version),
        prompt=prompt,
        tools=tools,
        spans=() if tokens is None else tokens.spans(prompt, turns, version),
        turns=tuple(turns),
        stop_reason=StopReason.ANSWERED if over else StopReason.MAX_TURNS,
        reward=total if over else 0.0,
        reward_terms=terms or {"outcome": 0.0, "side_effects": 0.0},
        started_at=began,
        seconds=sum(turn.generate_seconds + turn.env_seconds for turn in turns) * 1.03,
    )


def _turn(action: JsonObject, info: JsonObject, reward: float, rng: random.Random) -> Turn:
    diff = info.get("state_diff")
    return Turn(
        action=action,
        messages=tuple(info.get("messages", ())),
        reward=reward,
        state_hash=info.get("state_hash"),
        state_diff=None if diff is None else tuple(diff),
        generate_seconds=rng.uniform(0.2, 0.6),
        env_seconds=rng.uniform(0.002, 0.03),
    )


def hash_of(text: str) -> int:
    """Return a seed of a text, the same in every process."""
    return random.Random(text).randrange(2**31)


def advantages(group: Sequence[Trajectory]) -> Iterator[TrainingRow]:
    """Yield what the learner would have noted: group-relative advantages, none where all rewards are equal."""
    rewards = [episode.reward or 0.0 for episode in group]
    mean, spread = statistics.fmean(rewards), statistics.pstdev(rewards)
    for episode, reward in zip(group, rewards, strict=True):
        rng = random.Random(str(episode.key))
        logprobs = [
            min(0.0, value + round(rng.gauss(0, 0.02) / UNIT) * UNIT)
            for span in episode.spans
            for value in span.logprobs or ()
        ]
        yield TrainingRow(
            key=episode.key,
            advantage=(reward - mean) / spread if spread else None,
            filter_reason=None if spread else "zero_variance",
            logprobs=logprobs if spread and logprobs else None,
            entropies=[rng.expovariate(1.5) for _ in logprobs] if spread and logprobs else None,
        )


def learning(step: int) -> float:
    """Return how well the oracle plays at a step: like a policy that learns."""
    return 0.35 + 0.6 * (1 - math.exp(-step / 12))


def shop_run(
    folder: Path,
    name: str = "shop",
    *,
    steps: int = 3,
    groups: int = 3,
    samples: int = 4,
    breaks_at: int | None = None,
    quality: Callable[[int], float] = learning,
    look_every: int = 10,
    with_tokens: bool = True,
    config: JsonObject | None = None,
) -> RunDirectory:
    """Make a run and return it."""
    run = RunDirectory.create(folder, name)
    tasks = [dict(row) for row in Shop.tasks("train", templates=TEMPLATES)]
    heldout = [dict(row) for row in Shop.tasks("heldout", templates=TEMPLATES)][:24]
    model = folder / ".model"
    settings = {"name": name, "env": "shop", "seed": 0, "train": {"steps": steps}, **(config or {})}
    _record(run, settings, model, tasks, heldout)
    env = BreakingShop()
    rng = random.Random(name)
    tokens = Tokens(_tokenizer(model, tasks), rng) if with_tokens else None
    clock = BEGAN
    with EpisodeStore(run.episodes) as store, Metrics(run.metrics) as metrics:
        for step in range(steps + 1):
            env.is_broken = breaks_at is not None and step >= breaks_at
            level = quality(step)
            if step:
                chosen = rng.sample(tasks, groups)
                for task in chosen:
                    group = [_one(env, task, step, i, level, tokens, clock + i * 0.1) for i in range(samples)]
                    store.add_sync(group)
                    store.add_sync(list(advantages(group)))
                metrics.write(step, _metrics(rng, step, level))
            if step % look_every == 0:
                store.add_sync([_one(env, task, step, 0, level, tokens, clock, "eval") for task in heldout])
            clock += 9.0
    env.close()
    finish_record(run, status="finished")
    return run


def _one(
    env: Shop,
    task: JsonObject,
    step: int,
    sample: int,
    quality: float,
    tokens: Tokens | None,
    began: float,
    phase: Phase = "train",
) -> Trajectory:
    key = EpisodeKey(phase=phase, step=step, task_id=str(task["task_id"]), sample=sample)
    return play(env, task, key, quality=quality, tokens=tokens, began=began)


def _record(run: RunDirectory, config: JsonObject, model: Path, *tasks: Sequence[JsonObject]) -> None:
    write_text(run.config, f'name = "{config["name"]}"\nenv = "shop"\n')
    rows = dict(zip(("train", "heldout"), tasks, strict=True))
    start_record(run, config=config, env=[Shop], env_id="agentgrpo/Shop-v0", tasks=rows, model_path=model, sampling={})


def _tokenizer(folder: Path, tasks: Sequence[JsonObject]) -> Tokenizer:
    path = folder / "tokenizer.json"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        words = ' {"customer": "C23", "order": "1001", "amount": 12, "reason": "damaged", "arguments": {"name": "'
        texts = [str(task["instruction"]) for task in tasks[:200]]
        tokenizer_of([*texts, *[words + name for name in TOOLS * 20]]).save(str(path))
    return Tokenizer.from_file(str(path))


def _metrics(rng: random.Random, step: int, quality: float) -> dict[str, float]:
    return {
        "train/kl": abs(rng.gauss(0.002, 0.0008)),
        "train/entropy": 0.45 * (1.15 - quality) + rng.gauss(0, 0.01),
        "train/staleness": float(rng.random() < 0.2),
        "train/zero_variance_groups": min(1.0, max(0.0, quality - 0.4 + rng.gauss(0, 0.05))),
        "train/truncated": max(0.0, rng.gauss(0.02, 0.01)),
        "train/grad_norm": abs(rng.gauss(0.08, 0.02)),
        "train/clip_fraction": abs(rng.gauss(0.01, 0.004)),
        "train/effective_sample_size": 1 - abs(rng.gauss(0.004, 0.002)),
        "time/rollout": rng.uniform(3.2, 4.4),
        "time/learn": rng.uniform(2.0, 2.6),
        "time/elapsed": 9.0 * step,
    }


def main() -> None:
    """Make the run in which refunds break at step 40, and one beside it that goes well."""
    folder = Path(sys.argv[1])
    clock = time.perf_counter()
    shop_run(folder, "shop-lr2", steps=60, groups=6, samples=8, config={"learner": {"learning_rate": 2e-3}})
    shop_run(folder, "shop-nightly", steps=60, groups=6, samples=8, breaks_at=40)
    print(f"made in {time.perf_counter() - clock:.0f} s: agentgrpo view {folder}")


if __name__ == "__main__":
    main()
