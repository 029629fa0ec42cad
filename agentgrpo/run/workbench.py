"""Everything a run works with, made from its configuration: environment, tasks, model, engine, learner.

It starts nothing and trains nothing, except the warm start when the model folder does not exist yet.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from agentgrpo import causal_lm
from agentgrpo.blocking import in_daemon
from agentgrpo.chat import Chat
from agentgrpo.config.run import Config, EvalConfig
from agentgrpo.core import AgentEnv
from agentgrpo.engines import Engine
from agentgrpo.engines.embedded import EmbeddedEngine
from agentgrpo.engines.proof import Proof
from agentgrpo.errors import ConfigError, EngineFailure, RunError, TaskError
from agentgrpo.learner.policy import LoraPolicy
from agentgrpo.learner.step import Learner
from agentgrpo.registry import EnvSource, resolve_env
from agentgrpo.run.engine_kinds import check_engine, open_engine
from agentgrpo.run.report import Reporter
from agentgrpo.run.rewarding import Rewarding, open_rewarding
from agentgrpo.seeds import derive_seed
from agentgrpo.tasks import load_tasks, split_tasks
from agentgrpo.types import Adapter, JsonObject, Policy, Task
from agentgrpo.warm_start.start import reuse, warm_start

EnvLike = str | type[AgentEnv]
TasksLike = str | Path | Iterable[JsonObject]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workbench:
    """The parts of a run."""

    config: Config
    source: EnvSource
    train_tasks: tuple[Task, ...]
    heldout_tasks: tuple[Task, ...]
    chat: Chat
    engine: Engine
    policy: LoraPolicy
    learner: Learner
    rewarding: Rewarding | None = None  # what scores episodes besides the environment

    def inexact(self) -> list[str]:
        """Return why a second run of the same may differ in its numbers; [] where every byte repeats."""
        device, dtype = self.policy.device.type, self.policy.causal_lm.dtype
        reasons = [] if device == "cpu" else [f"the device is {device}, not cpu"]
        reasons += [] if dtype == torch.float32 else [f"the model's numbers are {dtype}, not torch.float32"]
        if not isinstance(self.engine, EmbeddedEngine):
            reasons += ["vLLM's numbers depend on the batch a request is in"]
        elif not reasons and not self.engine.is_batch_invariant:
            reasons = ["this machine's matrix products depend on the batch they are in: the engine's self-check failed"]
        if self.config.train.max_staleness:
            reasons += ["training is asynchronous (train.max_staleness): the clock decides which groups a step trains"]
        if self.config.judge is not None:
            reasons += ["a model behind an endpoint judges (judge.model)"]
        return reasons

    def numbers(self) -> JsonObject:
        """Return how numbers are made here: what their last bits depend on, beside the processor."""
        return numbers_of(self.policy)

    async def publish(self, adapter: Adapter, policy: Policy) -> tuple[Proof, ...]:
        """Let the engine answer with the learner's adapter of this moment, proved where that can go wrong.

        Raises:
            RunError: it does not, so nothing may be sampled with it.
        """
        # Not in the event loop: episodes may run in it.
        is_proved = not isinstance(self.engine, EmbeddedEngine)
        canary = await in_daemon(self.policy.canary, "agentgrpo-learner") if is_proved else None
        try:
            return await self.engine.publish(adapter, policy, canary=canary)
        except EngineFailure as error:
            raise RunError(f"{policy} was not published: {error}") from error


def set_threads(config: Config) -> int:
    """Set torch's threads once: by default 1 for tiny models (no contention), else all cores. Return how many."""
    threads = config.train.threads or (1 if config.warm_start is not None else os.cpu_count() or 1)
    torch.set_num_threads(threads)
    return threads


def open_env(config: Config, env: EnvLike | None) -> EnvSource:
    """Resolve the environment a run names.

    Raises:
        ConfigError: none is named.
        EnvError: it cannot be found or made.
    """
    chosen = env or config.env
    if not chosen:
        raise ConfigError('no environment: set env = "shop" (or "module:Class") in the config, or pass env=')
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)  # so that env = "locker:Locker" finds locker.py beside the user
    arguments = dict(config.env_args)
    if config.reward_weights and config.reward is None:  # else they are weights of that reward's terms
        arguments["reward_weights"] = config.reward_weights
    return resolve_env(chosen, **arguments)


def env_reference(config: Config, source: EnvSource) -> str:
    """Return what names this environment from any folder, as far as there is such a name."""
    if ":" not in source.id or source.id.startswith("local:"):
        return config.env or source.id
    module, name = source.env_class.__module__, source.env_class.__qualname__
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None or "." in module or module == "__main__":  # of a package, or of a script that would train again
        return source.id
    return f"{Path(file).resolve()}:{name}"


def open_tasks(
    config: Config, source: EnvSource, tasks: TasksLike | None, heldout: TasksLike | float | None
) -> tuple[tuple[Task, ...], tuple[Task, ...]]:
    """Return the training and the held-out tasks of a run; the latter may be empty.

    Raises:
        TaskError: there is no training task, or a task is in both sets.
    """
    given = tasks if tasks is not None else config.tasks
    train = load_tasks(given) if given is not None else _shipped(source, "train")
    held = heldout if heldout is not None else config.heldout
    if held is None and given is None:
        held = "heldout"
    if not train:
        raise TaskError(f"{source.id} ships no training tasks: set tasks (a .jsonl file; in Python also rows)")
    if isinstance(held, int | float):
        train, test = split_tasks(train, held, config.seed)
    elif isinstance(held, str) and not Path(held).exists() and (given is None or source.tasks(held)):
        test = _shipped(source, held)
        if not test and (heldout or config.heldout):
            raise TaskError(f"heldout = '{held}' is neither a file that is there nor a split {source.id} ships")
    else:
        test = load_tasks(held, split="heldout") if held is not None else ()
    shared = {t.id for t in train} & {t.id for t in test}
    if shared:
        raise TaskError(
            f"{len(shared)} tasks are both trained on and held out, such as '{min(shared)}': take them out of one set"
        )
    wanted = config.rollout.tasks_per_step
    if config.train.steps and wanted > len(train):
        raise TaskError(
            f"rollout.tasks_per_step = {wanted}, but there are {len(train)} training tasks: lower it, or add tasks"
        )
    return train, test


def _shipped(source: EnvSource, split: str) -> tuple[Task, ...]:
    rows = source.tasks(split)
    return load_tasks(rows, split=split) if rows else ()


def prepare(
    config: Config,
    *,
    env: EnvLike | None,
    tasks: TasksLike | None,
    heldout: TasksLike | float | None,
    reporter: Reporter,
) -> Workbench:
    """Make the parts of a run; a model folder that is missing is made by the warm start, when one is configured."""
    check_engine(config)
    open_rewarding(config)  # what is wrong with it is found before a model is made
    set_threads(config)
    source = open_env(config, env)
    train_tasks, heldout_tasks = open_tasks(config, source, tasks, heldout)
    if not heldout_tasks:
        check_eval_keys(config)
    folder = Path(config.model.path)
    if config.warm_start is not None and (folder / "config.json").exists():
        reuse(config.warm_start, folder, config.seed, reporter)
    elif config.warm_start is not None:
        warm_start(config, config.warm_start, source, train_tasks, folder, reporter)
    return assemble(config, source, train_tasks, heldout_tasks)


def assemble(
    config: Config, source: EnvSource, train_tasks: tuple[Task, ...], heldout_tasks: tuple[Task, ...]
) -> Workbench:
    """Load the model and put the parts of a run together."""
    base = load_base(config)
    _check_context(config, causal_lm.context_length(base))
    # The engine copies the module tree before peft wraps the learner's: they share tensors, not modules.
    engine = open_engine(config, base)
    policy, learner = open_learner(config, base)
    return Workbench(
        config=config,
        source=source,
        train_tasks=train_tasks,
        heldout_tasks=heldout_tasks,
        chat=make_chat(config),
        engine=engine,
        policy=policy,
        learner=learner,
        rewarding=open_rewarding(config),
    )


def numbers_of(policy: LoraPolicy) -> JsonObject:
    """Return how a policy makes its numbers: what their last bits depend on, beside the processor."""
    device = policy.device
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "dtype": str(policy.causal_lm.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
    }


def load_base(config: Config) -> PreTrainedModel:
    """Load the base model of a run."""
    device = causal_lm.pick_device(config.model.device)
    dtype = causal_lm.pick_dtype(config.model.dtype, device)
    return causal_lm.load_model(config.model.path, device=device, dtype=dtype)


def open_learner(config: Config, base: PreTrainedModel) -> tuple[LoraPolicy, Learner]:
    """Put an adapter on a base model, which is changed in place, and return it with its learner, both as at step 0."""
    policy = LoraPolicy(
        base,
        config.model.lora,
        seed=derive_seed(config.seed, "lora"),
        model_path=config.model.path,
        gradient_checkpointing=config.model.gradient_checkpointing,
    )
    learner = Learner(
        policy,
        config.learner,
        total_steps=config.train.steps,
        temperature=config.rollout.temperature,
        max_episode_tokens=config.rollout.max_tokens,
        min_survivors=config.rollout.min_survivors,
        seed=config.seed,
    )
    return policy, learner


def _check_context(config: Config, limit: int) -> None:
    wanted = config.engine.context_length
    if wanted is not None and wanted > limit:
        raise ConfigError(
            f"engine.context_length = {wanted}, but the model in '{config.model.path}' was made for {limit} tokens: "
            "lower it, or remove it to use them all"
        )


def check_eval_keys(config: Config) -> None:
    """Refuse [eval] keys where nothing is held out; those that say what holds anyway are fine."""
    given = config.eval.model_fields_set
    dead = sorted(key for key in given if getattr(config.eval, key) != EvalConfig.model_fields[key].default)
    if dead:
        raise ConfigError(
            f"eval.{dead[0]} has no effect: no tasks are held out; set heldout (a file, a split or a share), or remove "
            f"{', '.join(f'eval.{key}' for key in dead)}"
        )


def make_chat(config: Config) -> Chat:
    """Load the chat of the configured model."""
    return Chat.from_folder(
        config.model.path,
        renderer=config.model.renderer,
        enable_thinking=config.model.enable_thinking,
        thinking_retention=config.model.thinking_retention,
    )
