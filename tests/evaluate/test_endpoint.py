"""A chat model behind an endpoint plays an environment: table, run, `show`, and what a warm start takes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agentgrpo.cli.main import app
from agentgrpo.endpoint import client
from agentgrpo.endpoint.client import Endpoint
from agentgrpo.endpoint.stub import Answer, StubEndpoint, calls, says
from agentgrpo.endpoint.wire import action_to_wire
from agentgrpo.errors import RunError, TaskError, UserError
from agentgrpo.evaluate.endpoint import evaluate_endpoint
from agentgrpo.evaluate.heldout import Evaluation
from agentgrpo.evaluate.run import evaluate_checkpoint
from agentgrpo.learner.filters import FilterReason, filter_groups
from agentgrpo.registry import resolve_env
from agentgrpo.run.report import SilentReporter
from agentgrpo.store import EpisodeReader, RunDirectory
from agentgrpo.tasks import load_tasks
from agentgrpo.training import train
from agentgrpo.types import Group, JsonObject, StopReason, Task, Trajectory
from agentgrpo.warm_start.demonstrations import demonstrate
from agentgrpo.warm_start.good_episodes import good_episodes
from tests.endpoint.serving import serving

SEED = 0
OVERRIDES = ["env_args.turns=2", "eval.tasks=6", "rollout.retries=0"]


class Notes(SilentReporter):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def message(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_jitter", lambda state: 0.01)


def oracle_answers(*, spoil: int = 0) -> Answer:
    """Return answers that solve the lockbox, found by the question; the first `spoil` tasks go wrong."""
    source = resolve_env("lockbox", turns=2)
    known = {}
    for number, task in enumerate(load_tasks(source.tasks("heldout"), split="heldout")[:6]):
        played = demonstrate(source, task, quality=1.0, seed=SEED)
        actions = [action_to_wire(action) for action, _ in played.turns]
        question = next(m["content"] for m in played.prompt if m["role"] == "user")
        known[question] = [says("I give up")] if number < spoil else actions

    def answer(body: JsonObject) -> JsonObject:
        question = next(m["content"] for m in body["messages"] if m["role"] == "user")
        return dict(known[question][sum(m["role"] == "assistant" for m in body["messages"])])

    return answer


def play(
    stub: StubEndpoint, folder: Path, *, target: str = "lockbox", overrides: list[str] = OVERRIDES, **options: Any
) -> tuple[Evaluation, RunDirectory, list[str]]:
    """Evaluate the stub's model; return what was found, the run and what was said."""
    notes = Notes()
    endpoint = Endpoint(stub.url, "stub/model 1", **options)
    found = evaluate_endpoint(target, endpoint, overrides=[*overrides, f"train.runs={folder}"], reporter=notes)
    return found, RunDirectory.open(folder), notes.lines


def stored(run: RunDirectory) -> list[Trajectory]:
    with EpisodeReader(run.episodes) as reader:
        return [reader.get(row.id).trajectory for row in reader.list(order="id", descending=False)]


def test_a_model_is_evaluated_and_its_episodes_are_kept(tmp_path: Path) -> None:
    with serving(oracle_answers(spoil=2), faults=["500", "none", "429", "reset", "half"]) as stub:
        found, run, lines = play(stub, tmp_path)
    assert (found.episodes, found.tasks, found.failed) == (6, 6, 0)
    assert found.success == pytest.approx(4 / 6)
    assert lines[1].startswith("stub/model 1, heldout: success 0.667 (95 % interval")
    assert any(line.startswith("asked again: ") for line in lines)
    trajectories = stored(run)
    assert all(t.is_text and not t.spans and t.policy.name == "stub/model 1" for t in trajectories)
    assert all(t.info["endpoint"]["completion_tokens"] == 5 * len(t.turns) for t in trajectories)
    record, summary = run.read_record(), json.loads(run.summary.read_text())
    assert (record["status"], record["exact"], record["endpoint"]["model"]) == ("finished", False, "stub/model 1")
    assert sum(record["repeated"].values()) == sum(summary["repeated"].values()) == 4
    assert summary["stop_reasons"] == {"answered": 6}
    assert record["episodes"]["by_stop_reason"]["answered"] == 6


def test_its_episodes_train_nothing_by_grpo(tmp_path: Path) -> None:
    with serving(oracle_answers(spoil=2)) as stub:
        _, run, _ = play(stub, tmp_path)
    group = Group(task=Task(id="t", row={}), trajectories=tuple(stored(run)))
    assert {d.reason for d in filter_groups([group])} == {FilterReason.NOTHING_SAMPLED}


def test_show_opens_its_run(tmp_path: Path) -> None:
    with serving(oracle_answers()) as stub:
        _, run, _ = play(stub, tmp_path)
    listed = CliRunner().invoke(app, ["show", str(run.path)], env={"COLUMNS": "140"})
    assert (listed.exit_code, listed.stdout.count("answered")) == (0, 6)
    one = CliRunner().invoke(app, ["show", str(run.path), "1"], env={"COLUMNS": "140"})
    assert "text only, 15 tokens by the endpoint's count" in one.stdout
    tokens = CliRunner().invoke(app, ["show", str(run.path), "1", "--tokens", "mask"], env={"COLUMNS": "140"})
    assert "it is text, without tokens" in tokens.stdout


def test_a_call_nobody_can_read_becomes_an_observation(tmp_path: Path) -> None:
    said = [calls("find", '{"name": '), calls("nonesuch", {}), calls("find", {"name": 7}), says("done")]

    def answer(body: JsonObject) -> JsonObject:
        return dict(said[sum(m["role"] == "assistant" for m in body["messages"])])

    with serving(answer) as stub:
        found, run, _ = play(stub, tmp_path, overrides=["eval.tasks=1", "env_args.turns=2"])
        last = stub.requests[-1]["messages"]
    assert found.success == 0.0
    (episode,) = stored(run)
    assert (len(episode.turns), episode.error_count, episode.stop_reason) == (4, 3, StopReason.ANSWERED)
    errors = [json.loads(m["content"])["error"]["type"] for m in last if m["role"] == "tool"]
    assert errors[:2] == ["invalid_json", "unknown_tool"]
    ids = [c["id"] for m in last for c in m.get("tool_calls", [])]
    assert ids == [m["tool_call_id"] for m in last if m["role"] == "tool"]


def test_a_conversation_that_no_longer_fits_is_a_limit_and_not_a_failure(tmp_path: Path) -> None:
    with serving(lambda body: calls("find", {}), faults=["none", "long"]) as stub:
        found, run, _ = play(stub, tmp_path, overrides=["eval.tasks=1"])
    assert (found.failed, stored(run)[0].stop_reason) == (0, StopReason.CONTEXT_FULL)


def test_limits_of_tokens_count_as_the_endpoint_counts(tmp_path: Path) -> None:
    overrides = ["eval.tasks=1", "rollout.max_tokens=8", "rollout.max_turn_tokens=6"]
    with serving(lambda body: calls("find", {})) as stub:
        _, run, _ = play(stub, tmp_path, overrides=overrides)
        assert [request["max_tokens"] for request in stub.requests] == [6, 3]
    assert stored(run)[0].stop_reason is StopReason.MAX_TOKENS


def test_an_outage_stops_the_run_and_says_why(tmp_path: Path) -> None:
    with (
        serving(lambda body: says("x"), faults=["refused"] * 99) as stub,
        pytest.raises(RunError, match="answered 400"),
    ):
        play(stub, tmp_path)
    record = RunDirectory.open(tmp_path).read_record()
    assert (record["status"], record["episodes"]["by_stop_reason"]["failed"]) == ("failed", 6)


def test_a_refused_key_ends_it_at_once_and_is_written_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "secret-of-mine")
    with serving(lambda body: says("x"), key="another") as stub:
        with pytest.raises(UserError, match="answered 401"):
            play(stub, tmp_path, api_key_env="SOME_KEY")
        assert len(stub.requests) <= 8
    written = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert b"secret-of-mine" not in written


def test_its_run_is_no_training_and_says_how_to_repeat_it(tmp_path: Path) -> None:
    with serving(oracle_answers()) as stub:
        _, run, _ = play(stub, tmp_path)
        with pytest.raises(UserError, match="is an evaluation of stub/model 1: repeat it with agentgrpo eval"):
            evaluate_checkpoint(run.path, reporter=SilentReporter())
        with pytest.raises(UserError, match="is an evaluation of stub/model 1: it trains nothing"):
            train(resume=run.path, reporter=SilentReporter())
        again, _, _ = play(stub, tmp_path / "again", target=str(run.config), overrides=["eval.tasks=2"])
    assert again.tasks == 2


def test_tasks_that_are_not_there_are_named(tmp_path: Path) -> None:
    endpoint = Endpoint("http://localhost:9", "m")
    with pytest.raises(TaskError, match="lockbox has no split 'nonesuch'"):
        evaluate_endpoint("lockbox", endpoint, split="nonesuch", reporter=SilentReporter())


def test_good_episodes_are_those_that_succeeded_with_calls_that_could_be_read(tmp_path: Path) -> None:
    with serving(oracle_answers(spoil=2)) as stub:
        _, run, _ = play(stub, tmp_path)
    chosen = good_episodes(run, limit=100)
    assert (len(chosen.trajectories), chosen.total, chosen.unreadable) == (4, 6, 0)
    assert "They were played on the tasks of 'heldout'" in str(chosen)
    assert len(good_episodes(run, limit=1).trajectories) == 1


def test_a_run_without_good_episodes_teaches_nothing(tmp_path: Path) -> None:
    with serving(lambda body: says("no idea")) as stub:
        _, run, _ = play(stub, tmp_path)
    with pytest.raises(UserError, match="holds no good episode: 6 were played, 0 succeeded"):
        good_episodes(run, limit=10)


def test_the_command_line_plays_and_fine_tunes(tmp_path: Path, tiny_folder: Path) -> None:
    with serving(oracle_answers()) as stub:
        options = ["--endpoint", stub.url, "--model", "stub", "--tasks", "4", "--concurrency", "2"]
        sets = ["--set", "env_args.turns=2", "--set", f"train.runs={tmp_path}"]
        done = CliRunner().invoke(app, ["eval", "lockbox", *options, *sets])
        assert stub.most_open <= 2
    assert (done.exit_code, done.exception) == (0, None)
    assert "stub, heldout: success 0.750" in done.stdout  # two of the tasks ask the same question
    taught = tmp_path / "taught"
    settings = ["--run", str(RunDirectory.open(tmp_path).path), "--steps", "2", "--batch-size", "2"]
    tuned = CliRunner().invoke(app, ["model", "sft", str(tiny_folder), str(taught), *settings])
    assert (tuned.exit_code, tuned.exception) == (0, None)
    assert "3 of 4 episodes are taken" in tuned.stdout
    assert (taught / "model.safetensors").is_file()


@pytest.mark.parametrize(
    "arguments",
    [
        ["eval", "runs", "--model", "m"],
        ["eval", "shop", "--endpoint", "http://x"],
        ["eval", "shop", "--endpoint", "http://x", "--model", "m", "--checkpoint", "best"],
        ["model", "sft", "a", "b", "--run", "r", "--env", "shop"],
    ],
)
def test_options_that_do_not_belong_together_are_refused(arguments: list[str]) -> None:
    assert CliRunner().invoke(app, arguments).exit_code == 2
