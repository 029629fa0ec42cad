"""Runs to take along, and the way there and back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from agentgrpo.endpoint.client import Endpoint
from agentgrpo.endpoint.stub import says
from agentgrpo.endpoint.wire import action_to_wire
from agentgrpo.evaluate.endpoint import evaluate_endpoint
from agentgrpo.exchange.exporting import Format, export
from agentgrpo.exchange.importing import import_files
from agentgrpo.registry import resolve_env
from agentgrpo.run.report import SilentReporter
from agentgrpo.store import EpisodeStore, Filter, RunDirectory, write_json
from agentgrpo.store.episodes import Item
from agentgrpo.tasks import load_tasks
from agentgrpo.types import JsonObject
from agentgrpo.warm_start.demonstrations import demonstrate
from tests.endpoint.serving import serving


def make_run(folder: Path, items: Sequence[Item], **record: str) -> RunDirectory:
    run = RunDirectory.create(folder / "runs", "shop", now=1.75e9)
    write_json(run.record, {"status": "finished", **record})
    with EpisodeStore(run.episodes) as store:
        store.add_sync(items)
    return run


def take(run: RunDirectory, kind: Format, out: Path) -> bytes:
    export(run, Filter(), kind, out=out, limit=None)
    return out.read_bytes()


def there_and_back(run: RunDirectory, kind: Format, folder: Path) -> tuple[bytes, bytes]:
    """Return a run's export, and what becomes of it when it is imported and exported again."""
    first = take(run, kind, folder / "first.jsonl")
    brought = import_files([folder / "first.jsonl"], folder / "imported", "back", model_path=None)
    return first, take(brought.run, kind, folder / "second.jsonl")


@contextmanager
def fresh_folder() -> Iterator[Path]:
    """Yield a folder of its own for each example of a property."""
    with TemporaryDirectory() as folder:
        yield Path(folder)


def play_shop(runs: Path, tasks: int) -> RunDirectory:
    """Let the shop's oracle play held-out tasks behind a chat endpoint; the first one gives up."""
    source, known = resolve_env("shop"), {}
    for number, task in enumerate(load_tasks(source.tasks("heldout"), split="heldout")[:tasks]):
        played = demonstrate(source, task, quality=1.0, seed=0)
        question = next(m["content"] for m in played.prompt if m["role"] == "user")
        actions = [action_to_wire(action) for action, _ in played.turns]
        known[question] = [says("I give up")] if number == 0 else actions

    def answer(body: JsonObject) -> JsonObject:
        messages = body["messages"]
        question = next(m["content"] for m in messages if m["role"] == "user")
        return dict(known[question][sum(m["role"] == "assistant" for m in messages)])

    with serving(answer) as stub:
        endpoint = Endpoint(stub.url, "oracle")
        overrides = [f"eval.tasks={tasks}", f"train.runs={runs}"]
        evaluate_endpoint("shop", endpoint, overrides=overrides, reporter=SilentReporter())
    return RunDirectory.open(runs)
