"""What is examined: the config, and what the parts have found out so far for those after them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from agentgrpo.chat import Chat
from agentgrpo.config.run import Config
from agentgrpo.registry import EnvSource
from agentgrpo.run.workbench import Workbench
from agentgrpo.types import JsonObject, Message, Task, Trajectory


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """A model as its files describe it, before any weight is loaded."""

    config: JsonObject
    parameters: int
    dtype_bytes: int  # of a weight once loaded
    file_bytes: int
    linear_parameters: int  # of the layers an adapter goes on
    adapter_parameters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WarmStart:
    """What was measured of the warm start on a throw-away model."""

    count: int  # demonstrations played
    demonstration_seconds: float  # per demonstration
    tokenize_seconds: float  # per demonstration
    fit_seconds: float  # tokenizer and random weights
    step_seconds: float  # per supervised step
    demonstration_bytes: float  # per demonstration kept, its row included
    step_bytes: int  # added by the supervised steps: optimizer, gradients, activations


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What an episode is on average."""

    turns: float
    sampled: float
    tokens: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCost:
    """One train step as measured."""

    episodes: int
    rollout_seconds: float  # less what was waited for a core
    rollout_wall: float
    learn_seconds: float
    publish_seconds: float
    shape: Shape
    longest: int  # tokens of the longest episode
    learn_bytes: int | None  # added by the learner while it learned, where the model is
    disk_bytes: float  # per episode
    sampled: int
    is_whole: bool  # all groups of a step were run, at their concurrency
    batch_tokens: int  # computed by the largest microbatch
    batch_trained: int  # those of them that are trained


@dataclass(slots=True, kw_only=True)
class Subject:
    """The examination so far. What is None could not be found out."""

    config: Config
    folder: Path  # the doctor's own, deleted afterwards
    base_bytes: int = 0  # of the program before it loads anything
    source: EnvSource | None = None
    train_tasks: tuple[Task, ...] = ()
    heldout_tasks: tuple[Task, ...] = ()
    tools: tuple[JsonObject, ...] = ()
    prompts: list[tuple[Message, ...]] = field(default_factory=list)
    longest_prompt: int | None = None
    model_path: Path | None = None  # the model's folder, or the throw-away one standing in for it
    model: ModelFacts | None = None
    is_usable: bool = True  # whether the engine can compute the model, and it fits
    warm_start: WarmStart | None = None
    chat: Chat | None = None
    bench: Workbench | None = None
    group: tuple[Trajectory, ...] | None = None
    group_seconds: float = 0.0
    step: StepCost | None = None
    expert: Shape | None = None  # what the oracle needs for an episode

    @property
    def is_stand_in(self) -> bool:
        """Whether the run will make its model, and a throw-away one is examined instead."""
        return self.warm_start is not None or (self.model_path or Path()).is_relative_to(self.folder)
