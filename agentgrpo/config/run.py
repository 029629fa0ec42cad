"""The configuration of a run: one TOML file, one model per section, every key checked.

It knows keys, defaults and which combinations make sense; it loads neither models nor environments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from agentgrpo.config.engine import EngineConfig
from agentgrpo.config.file import apply_override, no_toml, read_toml, validate, write_toml
from agentgrpo.config.judge import JudgeConfig
from agentgrpo.config.section import Section

Preset = dict[str, Any]

# Named algorithms are points in the space of the four axes (reference: DESIGN "Learner"), not code paths.
ALGORITHMS: dict[str, Preset] = {
    # LOOP (2502.01600): no std scaling; DAPO (2503.14476): token mean, clip-higher, no KL, truncated masked.
    "trajectory_grpo": {
        "baseline": "mean",
        "scale_rewards": "none",
        "importance_level": "token",
        "loss_type": "clip",
        "aggregation": "token_mean",
        "epsilon": 0.2,
        "epsilon_high": 0.28,
        "beta": 0.0,
        "mask_truncated": True,
    },
    # GRPO as published (2402.03300): std scaling, mean over each sequence, symmetric clip, k3 KL.
    "grpo": {
        "baseline": "mean",
        "scale_rewards": "group",
        "importance_level": "token",
        "loss_type": "clip",
        "aggregation": "sequence_mean",
        "epsilon": 0.2,
        "epsilon_high": 0.2,
        "beta": 0.04,
        "mask_truncated": False,
    },
}


class LoraConfig(Section):
    """The adapter: peft's words."""

    rank: int = Field(16, gt=0)
    alpha: float = Field(32, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: str | list[str] = "all-linear"


class ModelConfig(Section):
    """Which model, and how its chat is rendered."""

    path: str = "models/tiny"
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    renderer: str = "auto"
    enable_thinking: bool | None = None
    thinking_retention: Literal["tool_cycle", "all"] | None = None
    gradient_checkpointing: bool = False
    lora: LoraConfig = LoraConfig()


class TinyConfig(Section):
    """A tiny Qwen3-architecture model, made when [model] path does not exist."""

    hidden_size: int = Field(96, gt=0)
    layers: int = Field(3, gt=0)
    heads: int = Field(4, gt=0)
    kv_heads: int = Field(2, gt=0)
    intermediate_size: int = Field(256, gt=0)
    vocab_size: int = Field(1600, gt=300)
    context_length: int = Field(1024, gt=0)


class SftConfig(Section):
    """Supervised warm start on oracle demonstrations."""

    steps: int = Field(600, gt=0)
    batch_size: int = Field(32, gt=0)
    learning_rate: float = Field(3e-3, gt=0)
    episodes: int = Field(2000, gt=0)
    quality: float = Field(0.5, ge=0, le=1)  # probability that a demonstrated decision is the oracle's
    perfect_fraction: float = Field(0.5, ge=0, le=1)  # share of steps on perfect demonstrations, made first

    def dead_keys(self) -> dict[str, str]:
        """Return what demonstrations that are all perfect leave unused."""
        is_perfect = self.perfect_fraction == 1
        return {"quality": "while perfect_fraction is 1: remove it, or lower perfect_fraction"} if is_perfect else {}


class WarmStartConfig(Section):
    """What to do when the model folder is missing: make a tiny model and fine-tune it."""

    tiny: TinyConfig = TinyConfig()
    sft: SftConfig = SftConfig()


class RolloutConfig(Section):
    """How episodes are run and sampled."""

    tasks_per_step: int = Field(16, gt=0)
    group_size: int = Field(8, gt=0)
    max_turns: int = Field(8, gt=0)
    max_tokens: int = Field(2048, gt=0)  # sampled tokens of an episode
    max_turn_tokens: int = Field(512, gt=0)  # sampled tokens of one turn
    temperature: float = Field(1.0, gt=0)
    concurrency: int = Field(128, gt=0)
    tool_seconds: float = Field(60.0, gt=0)  # deadline of one env step
    episode_seconds: float = Field(600.0, gt=0)
    generate_seconds: float = Field(300.0, gt=0)
    retries: int = Field(2, ge=0)  # fresh attempts at an episode that failed
    group_seconds: float | None = Field(None, gt=0)  # from a training group's first start: then what runs is cut
    min_survivors: int = Field(2, gt=0)  # scored episodes a group needs to train
    max_failed_share: float = Field(0.5, ge=0, le=1)  # of a rollout's episodes without a score: more stops the run

    def dead_keys(self) -> dict[str, str]:
        """Return the limits of a turn that those of its episode leave unused."""
        pairs = (("max_turn_tokens", "max_tokens"), ("generate_seconds", "episode_seconds"))
        return {
            turn: f"above rollout.{episode} = {getattr(self, episode):g}: lower it, or remove it"
            for turn, episode in pairs
            if getattr(self, turn) > getattr(self, episode)
        }


class LearnerConfig(Section):
    """GRPO's four axes and the optimizer. Axes left out are those of `algorithm`."""

    algorithm: Literal["trajectory_grpo", "grpo"] = "trajectory_grpo"
    baseline: Literal["mean", "leave_one_out"] | None = None
    scale_rewards: Literal["none", "group", "batch"] | None = None
    importance_level: Literal["token", "turn", "sequence"] | None = None
    loss_type: Literal["clip", "cispo", "mask", "reinforce"] | None = None
    aggregation: Literal["token_mean", "sequence_mean", "constant"] | None = None
    epsilon: float | None = Field(None, gt=0)
    epsilon_high: float | None = Field(None, gt=0)
    beta: float | None = Field(None, ge=0)
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    mask_truncated: bool | None = None
    old_logprobs: Literal["engine", "learner"] = "engine"  # what the ratio is against
    truncation: Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"] = "token_truncate"
    truncation_cap: float = Field(2.0, gt=0)  # of the weight learner / engine
    truncation_floor: float | None = Field(None, gt=0)
    drop_zero_variance: bool = True
    # Bounded so that no finite gradient can make a weight that is no number.
    learning_rate: float = Field(1e-5, gt=0, le=1)
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int = Field(0, ge=0)
    weight_decay: float = Field(0.0, ge=0, le=1)
    max_grad_norm: float = Field(1.0, gt=0, le=1e9)
    minibatches: int = Field(1, gt=0)  # optimizer steps per rollout batch
    tokens_per_microbatch: int = Field(16384, gt=0)

    def dead_keys(self) -> dict[str, str]:
        """Return what the axes chosen leave unused."""
        axes, dead = self.axes(), {}
        if axes["loss_type"] == "reinforce":
            why = 'with loss_type = "reinforce", which uses no ratio: remove it'
            dead = dict.fromkeys(("epsilon", "epsilon_high", "importance_level"), why)
        if axes["beta"] == 0:
            dead["kl_estimator"] = "while beta is 0: set beta or remove kl_estimator"
        if self.old_logprobs == "engine":
            why = (
                'with old_logprobs = "engine": the ratio is against the engine already, a weight would count that '
                'twice; remove it, or set old_logprobs = "learner"'
            )
            dead |= dict.fromkeys(("truncation", "truncation_cap", "truncation_floor"), why)
        return dead

    @model_validator(mode="after")
    def _penalty_has_a_gradient(self) -> Self:
        if self.kl_estimator == "k1" and self.axes()["beta"]:
            raise ValueError(
                'kl_estimator = "k1" has no effect: its expected gradient is 0; take "k3" or "k2", or set beta = 0'
            )
        return self

    @model_validator(mode="after")
    def _truncation_leaves_something(self) -> Self:
        floor, cap = self.truncation_floor, self.truncation_cap
        if floor is not None and floor > cap:
            raise ValueError(
                f"truncation_floor = {floor:g} is above truncation_cap = {cap:g}: expected a band, such as 0.5 and 2"
            )
        return self

    def axes(self) -> Preset:
        """Return the preset of `algorithm` overridden by the axes given."""
        preset = ALGORITHMS[self.algorithm]
        given = {key: getattr(self, key) for key in preset if getattr(self, key) is not None}
        return {**preset, **given}


class TrainConfig(Section):
    """How long, how often to look, where to write."""

    steps: int = Field(100, ge=0)
    max_staleness: int = Field(0, ge=0)  # updates an episode may lie behind when it trains; 0: rollouts wait for them
    max_hours: float | None = Field(None, gt=0)
    checkpoint_every: int = Field(25, gt=0)
    keep_checkpoints: int = Field(2, gt=0)
    stall_seconds: float = Field(300.0, gt=0)  # without any progress: say what is waited for
    stop_stalled_seconds: float = Field(1800.0, gt=0)  # without any progress: stop the run
    runs: str = "runs"
    threads: int | None = Field(None, gt=0)
    track: list[Literal["tensorboard", "wandb", "trackio"]] = Field([])


class EvalConfig(Section):
    """Held-out evaluation: before, during (every so many steps) and after."""

    every: int = Field(25, ge=0)  # 0: only before and after
    tasks: int | None = Field(None, gt=0)  # of the held-out set, the first so many; None: all
    during_tasks: int = Field(64, gt=0)  # the same during training, never more than `tasks`
    samples: int = Field(1, gt=0)
    temperature: float = Field(0.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)

    @property
    def tasks_between(self) -> int:
        """Tasks of the evaluations during training, if there are as many."""
        return min(self.during_tasks, self.tasks or self.during_tasks)

    def dead_keys(self) -> dict[str, str]:
        """Return what greedy decoding, or no evaluation during training, leaves unused."""
        why = "at temperature 0 (greedy): set temperature or remove it"
        dead = dict.fromkeys(("top_p", "top_k", *(["samples"] if self.samples > 1 else [])), why)
        dead = dead if self.temperature == 0 else {}
        return dead if self.every else {**dead, "during_tasks": "while eval.every is 0: set every or remove it"}


class Config(Section):
    """One run."""

    name: str = Field("run", pattern=r"^[A-Za-z0-9._-]+$")
    seed: int = Field(0, ge=0)
    env: str = ""
    env_args: dict[str, Any] = Field({})
    reward: str | None = Field(None, min_length=1)  # module:function of a finished episode, in place of the env's terms
    reward_weights: dict[str, float] = Field({})
    tasks: str | None = None
    heldout: str | int | float | None = None
    model: ModelConfig = ModelConfig()
    warm_start: WarmStartConfig | None = None
    engine: EngineConfig = EngineConfig()
    rollout: RolloutConfig = RolloutConfig()
    learner: LearnerConfig = LearnerConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
    judge: JudgeConfig | None = None

    def unused(self) -> dict[str, Any]:
        """Return the dead keys of all sections, with those that another section leaves unused."""
        keys = super().unused()
        dead = {"concurrency": True} if self._has_idle_concurrency() else {}
        return keys | {"rollout": keys.get("rollout", {}) | dead}

    def _has_idle_concurrency(self) -> bool:
        return self.rollout.concurrency > self.engine.max_sequences

    @field_validator("env_args")
    @classmethod
    def _can_be_written(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        for key, value in no_toml(arguments):
            raise ValueError(
                f"{key} = {value!r} ({type(value).__name__}) cannot be kept in a config file: expected text, numbers, "
                "booleans, dates, and lists and tables of them; leave the key out, or write it as text"
            )
        return arguments

    @model_validator(mode="after")
    def _optimizer_steps_fit(self) -> Self:
        rollout, learner = self.rollout, self.learner
        # Dropout alone would move it away from 1.
        is_one = learner.old_logprobs == "learner" and learner.minibatches == 1 and not self.model.lora.dropout
        if is_one and (learner.epsilon, learner.epsilon_high) != (None, None):
            raise ValueError(
                'learner.epsilon and epsilon_high have no effect with old_logprobs = "learner" and minibatches = 1: '
                'the ratio of the one optimizer step is 1; remove them, raise minibatches, or take "engine"'
            )
        if learner.minibatches > rollout.tasks_per_step:
            raise ValueError(
                f"learner.minibatches = {learner.minibatches} has no effect above rollout.tasks_per_step = "
                f"{rollout.tasks_per_step}: no group is split between optimizer steps"
            )
        return self

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        rollout, learner = self.rollout, self.learner
        if rollout.group_size == 1 and self.train.steps:
            raise ValueError(
                "rollout.group_size = 1 gives every advantage 0: a group baseline needs at least 2 episodes"
            )
        if rollout.min_survivors > rollout.group_size:
            raise ValueError(
                f"rollout.min_survivors = {rollout.min_survivors} can never be met by "
                f"rollout.group_size = {rollout.group_size}"
            )
        if self._has_idle_concurrency() and "concurrency" in rollout.model_fields_set:
            raise ValueError(
                f"rollout.concurrency = {rollout.concurrency} has no effect above engine.max_sequences = "
                f"{self.engine.max_sequences}: set both to the same number"
            )
        if self.train.stall_seconds > self.train.stop_stalled_seconds:
            raise ValueError(
                f"train.stall_seconds = {self.train.stall_seconds:g} has no effect: the run stops before, after "
                f"train.stop_stalled_seconds = {self.train.stop_stalled_seconds:g}"
            )
        live, versions = self.engine.vllm.max_live_versions, self.train.max_staleness + 2
        if live is not None and live < versions:
            raise ValueError(
                f"engine.vllm.max_live_versions = {live} is too few for train.max_staleness = "
                f"{self.train.max_staleness}: set {versions} (one is being published beside the others), or remove it"
            )
        if self.train.max_staleness and learner.axes()["loss_type"] == "reinforce" and learner.old_logprobs == "engine":
            raise ValueError(
                'learner.loss_type = "reinforce" uses no ratio, so nothing corrects for episodes that '
                f"train.max_staleness = {self.train.max_staleness} lets grow old: set learner.old_logprobs = "
                '"learner" (a bounded weight does), another loss_type, or max_staleness = 0'
            )
        if learner.warmup_steps > self.train.steps > 0:
            raise ValueError(
                f"learner.warmup_steps = {learner.warmup_steps} is longer than train.steps = {self.train.steps}"
            )
        if self.model.thinking_retention and self.model.enable_thinking is False:
            raise ValueError("model.thinking_retention has no effect while model.enable_thinking = false: remove it")
        return self

    def to_toml(self) -> str:
        """Return the resolved configuration as TOML: defaults included, keys without effect left out."""
        return write_toml(self.model_dump(exclude_none=True, exclude=self.unused()))


def load_config(
    source: str | Path | Mapping[str, Any] | Config, *, overrides: Sequence[str] = (), **keys: Any
) -> Config:
    """Read a configuration from a TOML file or a mapping.

    Args:
        source: Path of a TOML file, a mapping, or a Config.
        overrides: "section.key=value" strings; the value is read as TOML, else as a plain string.
        keys: Top-level keys that replace those of the source (`env=...`); None is ignored.

    Raises:
        ConfigError: the file is missing or not TOML, a key is unknown or invalid, or would have no effect.
    """
    data = _read(source)
    for override in overrides:
        apply_override(data, override)
    data.update({k: v for k, v in keys.items() if v is not None})
    return validate(Config, data)


def _read(source: str | Path | Mapping[str, Any] | Config) -> dict[str, Any]:
    if isinstance(source, Config):
        return source.model_dump(mode="python", exclude_unset=True)
    return dict(source) if isinstance(source, Mapping) else read_toml(Path(source))
