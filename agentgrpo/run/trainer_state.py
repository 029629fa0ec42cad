"""What a run is at the end of a train step, in memory and as the files of a checkpoint.

No random state is among it: every random number is a function of the run's seed and of what it is for.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from safetensors.torch import load_file, save

from agentgrpo.engines.adapters import save_adapter
from agentgrpo.errors import RunError
from agentgrpo.evaluate.heldout import Evaluation
from agentgrpo.learner.policy import LoraPolicy
from agentgrpo.learner.step import Learner, LearnerState
from agentgrpo.rollout.group import GroupResult
from agentgrpo.types import Adapter, JsonObject, Trajectory

_TRAINER, _OPTIMIZER = "trainer.json", "optimizer.safetensors"


@dataclass(slots=True, kw_only=True)
class Progress:
    """How far a run is: what of its state is plain data."""

    step: int = 0
    best: float | None = None  # held-out success of the best checkpoint
    before: Evaluation | None = None  # what was found before the first step
    episodes: int = 0
    sampled_tokens: int = 0
    ends: dict[str, int] = field(default_factory=dict)  # episodes by stop reason
    sampler: JsonObject | None = None
    stream: JsonObject | None = None  # of asynchronous training: the groups that were started and not trained
    cut: dict[str, int] = field(default_factory=dict)  # groups that met their deadline, by task
    metrics_bytes: int = 0
    elapsed: float = 0.0  # seconds, over all of the run's processes

    def count(self, trajectory: Trajectory) -> None:
        """Count an episode."""
        self.episodes += 1
        self.sampled_tokens += trajectory.sampled_count
        self.ends[trajectory.stop_reason] = self.ends.get(trajectory.stop_reason, 0) + 1

    def count_group(self, result: GroupResult) -> None:
        """Count what the deadline of a group cut off."""
        if result.cut:
            self.cut[result.group.task.id] = self.cut.get(result.group.task.id, 0) + 1

    @property
    def oldest_version(self) -> int:
        """The oldest policy whose episodes may still be trained."""
        return min((version for _, _, version in (self.stream or {"held": []})["held"]), default=self.step)

    def copy(self) -> Progress:
        """Return a copy that further counting leaves as it is."""
        return replace(self, ends=dict(self.ends), cut=dict(self.cut))

    def to_json(self) -> JsonObject:
        """Return it as JSON data."""
        return {key: value for key, value in asdict(self).items() if value or key not in ("stream", "cut")}

    @classmethod
    def from_json(cls, data: JsonObject) -> Progress:
        """Return what `to_json` was called on."""
        before = data["before"]
        return cls(**{**data, "before": None if before is None else Evaluation(**before)})


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerState:
    """Copies of all that a run needs to go on from the end of a step."""

    progress: Progress
    adapter: Adapter
    learner: LearnerState

    def write(self, folder: Path) -> None:
        """Write the files of a checkpoint; the folder loads in plain peft."""
        save_adapter(self.adapter, folder)
        (folder / _OPTIMIZER).write_bytes(save(dict(self.learner.tensors)))
        trainer = {
            "progress": self.progress.to_json(),
            "learner": self.learner.counters,
            "adapter_sha256": self.adapter.sha256,
        }
        (folder / _TRAINER).write_text(json.dumps(trainer, indent=1), encoding="utf-8")


def restore(folder: Path, policy: LoraPolicy, learner: Learner) -> Progress:
    """Bring policy and learner to where a checkpoint was written, and return how far the run was."""
    trainer = json.loads((folder / _TRAINER).read_text(encoding="utf-8"))
    policy.load(folder)
    if policy.adapter().sha256 != trainer["adapter_sha256"]:
        raise RunError(f"the adapter in '{folder}' is not what it was after loading: this is a bug")
    learner.restore(LearnerState(tensors=load_file(folder / _OPTIMIZER), **trainer["learner"]))
    return Progress.from_json(trainer["progress"])
