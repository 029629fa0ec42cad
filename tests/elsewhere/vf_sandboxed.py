"""A verifiers taskset that sets its tasks up in a sandbox, which there is none of here."""

from __future__ import annotations

from collections.abc import Iterable

import verifiers.v1 as vf


class BoxTask(vf.Task[vf.TaskData, vf.State, vf.TaskConfig]):
    async def setup(self, trace: vf.Trace, runtime: vf.Runtime) -> None:
        await runtime.run(["true"], {})


class BoxTaskset(vf.Taskset[BoxTask, vf.TasksetConfig]):
    def load(self) -> Iterable[BoxTask]:
        yield BoxTask(vf.TaskData(prompt="Look around."), self.config.task)


__all__ = ["BoxTaskset"]
