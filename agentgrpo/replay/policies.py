"""Who goes on from a turn: which adapter on which model, by what a person calls it. It loads nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from agentgrpo.config.run import Config
from agentgrpo.errors import UserError
from agentgrpo.replay.recorded import Recorded, open_config
from agentgrpo.run.checkpoint import MANIFEST, Checkpoints
from agentgrpo.store.run import RunDirectory
from agentgrpo.types import JsonObject, Policy

_ADAPTER = "adapter_model.safetensors"
_FIRST = ("best", "last")  # which checkpoint of a run is meant when none is named


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """A policy to go on with."""

    policy: Policy
    adapter: Path | None  # the folder of the adapter; None: the base model as it is
    config: Config  # the forked run's, with the model and the engine of the policy's run
    shares_tokens: bool  # whether its model is the one that played the run: then recorded ids are its own


def choose(recorded: Recorded, wanted: str | Path | None) -> Chosen:
    """Find the policy a person names.

    Args:
        recorded: The run whose episode is forked.
        wanted: A checkpoint of the run ("best", "last", "step-NNNNNN"), "base", a folder with an adapter, or another
            run, whose best checkpoint is taken. None: this run's.

    Raises:
        UserError: there is no such policy.
    """
    name = str(wanted) if wanted is not None else None
    if "endpoint" in recorded.record and (name is None or not Path(name).exists()):
        raise UserError(
            f"'{recorded.run.path}' was played by {recorded.record['endpoint']['model']}, it has no policy of its own: "
            "say who goes on, --policy RUN, or --endpoint URL --model NAME"
        )
    if name == "base":
        return _own(recorded, Policy(name="base"), None)
    if name is None or "/" not in name:
        found = _checkpoint(recorded.run, name)
        if found is not None:
            return _own(recorded, Policy(version=_step(found)), found)
    if name is None or not Path(name).is_dir():
        raise UserError(_no_policy(recorded.run, name))
    return _elsewhere(recorded, Path(name))


def _own(recorded: Recorded, policy: Policy, adapter: Path | None) -> Chosen:
    return Chosen(policy=policy, adapter=adapter, config=recorded.config, shares_tokens=True)


def _elsewhere(recorded: Recorded, folder: Path) -> Chosen:
    """Return the policy of a folder: an adapter's, perhaps of a run, or a run's."""
    is_adapter = (folder / _ADAPTER).is_file()
    owner = folder.resolve().parents[1] if is_adapter else folder
    if is_adapter and not (owner / "run.json").is_file():
        return _own(recorded, Policy(name=folder.name, version=_step(folder)), folder)
    run, record, config = open_config(owner)
    adapter = folder.resolve() if is_adapter else _checkpoint(run, None)
    if adapter is None:
        raise UserError(f"'{run.path}' has no checkpoint to go on with")
    is_own = run.path.resolve() == recorded.run.path.resolve()
    policy = Policy(version=_step(adapter)) if is_own else Policy(name=run.name, version=_step(adapter))
    mixed = recorded.config.model_copy(update={"model": config.model, "engine": config.engine})
    return Chosen(policy=policy, adapter=adapter, config=mixed, shares_tokens=_is_same_model(recorded.record, record))


def _checkpoint(run: RunDirectory, name: str | None) -> Path | None:
    checkpoints = Checkpoints(folder=run.checkpoints, keep=1)
    found = (checkpoints.path(which) for which in ((name,) if name else _FIRST))
    return next((path for path in found if path is not None), None)


def _is_same_model(one: JsonObject, other: JsonObject) -> bool:
    hashes = [record.get("hashes", {}).get("model") for record in (one, other)]
    if None not in hashes:
        return bool(hashes[0] == hashes[1])
    return one.get("model_path") is not None and one["model_path"] == other.get("model_path")


def _step(adapter: Path) -> int:
    """Return the train step a checkpoint says it was written at; 0 when it does not say."""
    try:
        return int(json.loads((adapter / MANIFEST).read_text(encoding="utf-8"))["step"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _no_policy(run: RunDirectory, name: str | None) -> str:
    there = ", ".join(sorted(p.name for p in run.checkpoints.glob("[!.]*"))) or "none"
    what = f"there is no policy '{name}'" if name else f"'{run.path}' has no checkpoint yet"
    return f"{what}. Expected a checkpoint of the run (there: {there}), base, another run, or a folder with an adapter"
