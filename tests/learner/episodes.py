"""Scored episodes made of random tokens: some with several turns, some with forks, all from one prompt per group."""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from agentgrpo.config.run import LearnerConfig, LoraConfig
from agentgrpo.learner.policy import LoraPolicy
from agentgrpo.learner.step import Learner
from agentgrpo.rollout.record import Recorder
from agentgrpo.types import EpisodeKey, Generation, Group, Policy, StopReason, Task, Trajectory

VOCABULARY = 500


def episode(
    seed: int,
    prompt: Sequence[int],
    reward: float,
    *,
    task: str = "t",
    sample: int = 0,
    turns: int = 2,
    forks: bool = False,
    stop_reason: StopReason = StopReason.DONE,
) -> Trajectory:
    """Return an episode of some turns; with `forks`, each turn after the first begins a branch of its own."""
    rng = random.Random(seed)

    def tokens(least: int, most: int) -> tuple[int, ...]:
        return tuple(rng.randrange(VOCABULARY) for _ in range(rng.randint(least, most)))

    key = EpisodeKey(phase="train", step=0, task_id=task, sample=sample)
    made = Recorder(key=key, env_id="e", seed=0, policy=Policy())
    made.start([], [], prompt)
    for turn in range(turns):
        said = tokens(1, 6)
        made.sampled(
            Generation(token_ids=said, logprobs=tuple(-rng.uniform(5, 7.5) for _ in said), finish_reason="stop")
        )
        if turn < turns - 1 and forks:
            made.fork((*prompt[: len(prompt) // 2], *tokens(1, 5)))
        elif turn < turns - 1:
            made.extend(tokens(1, 5))
    made.score(reward, {})
    return made.freeze(stop_reason)


def group(
    seed: int, rewards: Sequence[float], *, task: str = "t", prompt_length: int = 40, forks: bool = False
) -> Group:
    """Return a group of episodes of one to four turns."""
    rng = random.Random(seed)
    prompt = [rng.randrange(VOCABULARY) for _ in range(prompt_length)]
    made = [
        episode(seed * 100 + i, prompt, r, task=task, sample=i, turns=1 + i % 4, forks=forks and i % 2 == 1)
        for i, r in enumerate(rewards)
    ]
    return Group(task=Task(id=task, row={}), trajectories=tuple(made))


def groups() -> list[Group]:
    """Return two groups with signal, the second with forks."""
    return [group(1, [1.0, 0.0, 0.5, 0.0], task="a"), group(2, [0.0, 0.0, 1.0, 0.25], task="b", forks=True)]


def policy(model: PreTrainedModel, *, seed: int = 0, is_random: bool = True, **lora: Any) -> LoraPolicy:
    """Return a policy over a copy of the model; with `is_random` it has moved away from the model already."""
    made = LoraPolicy(copy.deepcopy(model), LoraConfig(**{"rank": 4, "alpha": 8, **lora}), seed=seed)
    if is_random:
        randomize(made, seed)
    return made


def randomize(made: LoraPolicy, seed: int, scale: float = 0.2) -> None:
    """Set the adapter to random numbers."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in made.parameters():
        parameter.data = scale * torch.randn(parameter.shape, generator=generator).to(parameter)


def learner(made: LoraPolicy, **config: Any) -> Learner:
    """Return a learner of ten steps."""
    return Learner(made, LearnerConfig(**{"learning_rate": 1e-3, **config}), total_steps=10)


def weights(made: LoraPolicy) -> torch.Tensor:
    """Return a copy of all trained weights in one vector."""
    return torch.cat([p.detach().flatten() for p in made.parameters()]).clone()
