"""The examination, part after part; a part that fails stops only those that need what it would have found."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from agentgrpo import causal_lm
from agentgrpo.blocking import run_blocking
from agentgrpo.config.run import Config
from agentgrpo.doctor import machine
from agentgrpo.doctor.conversation import check_chat
from agentgrpo.doctor.disk import check_disk
from agentgrpo.doctor.environment import check_environment
from agentgrpo.doctor.forecast import check_memory, check_time, measure
from agentgrpo.doctor.model import check_model
from agentgrpo.doctor.packages import check_machine
from agentgrpo.doctor.report import Finding, Part, examine_part
from agentgrpo.doctor.rollout import check_agreement, check_rollout
from agentgrpo.doctor.secrets import check_secrets
from agentgrpo.doctor.standin import prepare_model
from agentgrpo.doctor.subject import Subject
from agentgrpo.errors import EngineFailure
from agentgrpo.run.tracking import check_trackers
from agentgrpo.run.workbench import set_threads

Step = Callable[[Subject], Iterator[Finding]]


def examine(config: Config, *, start_seconds: float) -> Iterator[Part]:
    """Yield the parts as they are done. Everything written goes to a temporary folder, deleted at the end."""
    with tempfile.TemporaryDirectory(prefix="agentgrpo-doctor-") as folder:
        subject = Subject(config=config, folder=Path(folder))
        try:
            for name, step in _parts(start_seconds).items():
                yield examine_part(name, partial(step, subject))
        finally:
            if subject.bench is not None:
                with suppress(EngineFailure):
                    run_blocking(subject.bench.engine.close())


def _parts(start_seconds: float) -> dict[str, Step]:
    return {
        "machine": _machine,
        "environment": check_environment,
        "model": _model,
        "chat": check_chat,
        "rollout": check_rollout,
        "logprobs": check_agreement,
        "train step": measure,
        "memory": check_memory,
        "time": lambda subject: check_time(subject, start_seconds),
        "disk": check_disk,
        "secrets": lambda subject: check_secrets(subject.config.model_dump(mode="json", exclude_unset=True)),
    }


def _machine(subject: Subject) -> Iterator[Finding]:
    check_trackers(subject.config.train.track)
    device = causal_lm.pick_device(subject.config.model.device)
    yield from check_machine(set_threads(subject.config), str(device).upper())


def _model(subject: Subject) -> Iterator[Finding]:
    subject.base_bytes = machine.resident()
    yield from prepare_model(subject)
    yield from check_model(subject)
