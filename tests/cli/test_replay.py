"""replay, run rescore and train --from-record as a person meets them: what is printed, and the exit code."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from agentgrpo.store import EpisodeFilter, EpisodeReader, EpisodeStore, RunDirectory, read_metrics
from agentgrpo.store.lock import RunLock
from tests.cli.command import Command
from tests.replay.runs import oracle_run

ADDERS, SAMPLES = "tests.replay.adders", "tests.replay.rewards_sample"
ADD = json.dumps({"tool_calls": [{"name": "add", "arguments": {"number": 1}}]})


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return oracle_run(tmp_path / "runs", f"{ADDERS}:Adder", tasks=2, samples=2)


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """The same, for what never gets as far as to change it."""
    return oracle_run(tmp_path_factory.mktemp("runs"), f"{ADDERS}:Adder", tasks=2, samples=2)


@pytest.fixture
def clocked(tmp_path: Path) -> RunDirectory:
    """A run of an environment whose answers hold the time from turn 3 on."""
    return oracle_run(tmp_path / "runs", f"{ADDERS}:Adder", tasks=2, samples=2, env_args={"clock_from": 3})


def lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


# replay


def test_what_happens_again_ends_with_0(agentgrpo: Command, run: RunDirectory) -> None:
    done = agentgrpo("replay", run.path, "--all")
    assert done.code == 0
    assert lines(done.out) == [
        "4 episodes · 4 the same",
        "compared: messages of 4, rewards of 4, state hashes of 4, reward terms of 4",
    ]
    one = agentgrpo("replay", run.path.parent, "train/1/train-1/0")  # of the newest run there
    assert one.code == 0
    assert one.out == "#3 train/1/train-1/0, 6 turns: the same (messages, rewards, state hashes, reward terms)\n"


def test_what_does_not_is_shown_at_its_turn_and_ends_with_1(agentgrpo: Command, clocked: RunDirectory) -> None:
    done = agentgrpo("replay", clocked.path, 2)
    assert done.code == 1
    first, place, expected, got = lines(done.out)
    assert first == "#2 train/1/train-0/1, 6 turns: diverged: messages of turn 3"
    assert place == "at /0/content"
    assert re.fullmatch(r"expected \d+ at \d{19}", expected)
    assert re.fullmatch(r"got \d+ at \d{19}", got)
    assert expected.split(" at ")[1] != got.split(" at ")[1]
    everything = agentgrpo("replay", clocked.path, "--all")
    assert everything.code == 1
    assert lines(everything.out)[0] == "4 episodes · 0 the same · 4 diverged"
    assert "#4 train/1/train-1/1: messages of turn 3" in lines(everything.out)
    assert lines(everything.out)[-1] == f"what differs: agentgrpo replay {clocked.path} 1"


def test_a_run_that_is_being_trained_can_be_replayed_and_forked(agentgrpo: Command, run: RunDirectory) -> None:
    with RunLock(run.path), EpisodeStore(run.episodes):
        assert agentgrpo("replay", run.path, "--all").code == 0
        forked = agentgrpo("replay", run.path, 1, "--fork-turn", 2, "--policy", "none", "--action", ADD)
        assert (forked.code, forked.err) == (0, "")
        assert agentgrpo("run", "rescore", run.path, "--reward", f"{SAMPLES}:short").code == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("99",), r"error: no episode 99 in '.*'\. Episodes are numbered 1 to 4"),
        (("train/9/train-0/0",), "error: no episode train/9/train-0/0"),
        (("first",), "error: 'first' names no episode: expected a row number, or phase/step/task/sample"),
        ((), "name an episode, or --all"),
        (("1", "--all"), "name an episode, or --all"),
        (("1", "-n", "2"), "-n belongs to --fork-turn"),
        (("--all", "--fork-turn", "2"), "--fork-turn takes one episode"),
        (("1", "--policy", "best"), "--policy belongs to --fork-turn"),
        (("1", "--fork-turn", "9"), "has 6 turns: it can be forked at turn 1 to 6, not at 9"),
        (("1", "--fork-turn", "2"), "has no checkpoint yet. Expected"),
        (("1", "--fork-turn", "2", "--endpoint", "http://x"), "--endpoint goes with --model NAME"),
        (("1", "--fork-turn", "2", "--policy", "none"), "error: nobody goes on .* say what is done: --action"),
        (("1", "--fork-turn", "2", "--policy", "none", "--action", '{"tool_calls": [{'), "a call that cannot be read"),
        (("1", "--set", "env=no_such_module:Env"), "error: cannot import the module 'no_such_module'"),
        (("1", "--set", "env=shopp"), "error: there is no environment 'shopp'. Did you mean 'shop'"),
        (("1", "--set", "env_args.absent=1", "--set", "env=shop"), "unexpected keyword argument 'absent'"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(
    words: tuple[str, ...], told: str, agentgrpo: Command, untouched: RunDirectory
) -> None:
    done = agentgrpo("replay", untouched.path, *words)
    assert (done.code, done.out) == (2, "")
    assert re.search(told, done.err), done.err


# Forks


def test_forks_are_listed_and_shown_with_where_they_come_from(agentgrpo: Command, run: RunDirectory) -> None:
    done = agentgrpo("replay", run.path, 1, "--fork-turn", 3, "--policy", "none", "--action", ADD)
    assert done.code == 0
    heading, row, more = lines(done.out)
    assert heading == "# episode policy reward success turns stop cause"
    assert row.split()[:3] == ["5", "fork/1/train-0/0", "none-v0"]
    assert more == f"one in full: agentgrpo show {run.path} 5"
    shown = agentgrpo("show", run.path, 5).out
    assert "of episode #1, its own from turn 3 on" in shown
    assert re.search(r"turn 3 +its own from here on", shown)
    assert "from turn 3: #5" in agentgrpo("show", run.path, 1).out
    assert agentgrpo("replay", run.path, 5).code == 0


def test_a_state_that_cannot_be_had_again_ends_with_1(agentgrpo: Command, clocked: RunDirectory) -> None:
    done = agentgrpo("replay", clocked.path, 1, "--fork-turn", 4, "--policy", "none", "--action", ADD)
    assert done.code == 1
    assert lines(done.out)[:2] == [
        "turn 4 cannot be re-entered: before it, the messages of turn 3 would differ",
        "at /0/content",
    ]
    with EpisodeReader(clocked.episodes) as reader:
        assert reader.count(EpisodeFilter(phase="fork")) == 0


# run rescore


def test_another_reward_is_a_table_of_what_moves(agentgrpo: Command, run: RunDirectory) -> None:
    done = agentgrpo("run", "rescore", run.path, "--reward", f"{SAMPLES}:named", "--weights", "calls=-0.5,outcome=2")
    assert done.code == 0
    told = lines(done.out)
    assert told[0] == f"{SAMPLES}:named: 4 episodes scored, kept as number 1"
    assert told[1] == "phase episodes reward success rank correlation in groups"
    assert re.fullmatch(r"train 4 \d\.\d{3} -> -?\d\.\d{3} [\d.]+% -> [\d.]+% .*", told[2])
    assert re.match(r"of 2 training groups \d gain variance", told[3])
    assert f"1 {SAMPLES}:named:" in " ".join(lines(agentgrpo("show", run.path, 1).out))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "Missing option '--reward'"),
        (("--reward", f"{SAMPLES}:shrot"), "has no function 'shrot'.*Did you mean 'short'"),
        (("--reward", "short"), "names no function: expected"),
        (("--reward", f"{SAMPLES}:short", "--weights", "calls"), "--weights takes name=number, got 'calls'"),
        (("--reward", f"{SAMPLES}:none_at_all"), r"could score no episode of .* KeyError.* Nothing was written"),
    ],
)
def test_a_reward_that_cannot_score_is_one_message(
    words: tuple[str, ...], told: str, agentgrpo: Command, untouched: RunDirectory
) -> None:
    done = agentgrpo("run", "rescore", untouched.path, *words)
    assert (done.code, done.out) == (2, "")
    assert re.search(told, done.err), done.err


# train --from-record


def test_a_step_made_again_shows_its_numbers_to_the_last_digit(agentgrpo: Command, own: RunDirectory) -> None:
    row = next(row for row in read_metrics(own.metrics) if "train/loss" in row)
    done = agentgrpo("train", "--from-record", own.path, "--step", row["step"])
    assert done.code == 0, done.err
    first, loss, norm, verdict = lines(done.out)
    assert first.startswith(f"step {row['step']}, from ")
    assert (loss, norm) == (f"loss {row['train/loss']!r}", f"grad_norm {row['train/grad_norm']!r}")
    assert verdict.startswith("the same to the last bit: ")
    assert verdict.endswith("the adapter's hash, every weight of the adapter, every number of the optimizer")


def test_a_step_that_differs_ends_with_1(agentgrpo: Command, own: RunDirectory) -> None:
    rows = read_metrics(own.metrics)
    row = next(row for row in rows if "train/loss" in row)
    row["train/loss"] += 1e-12
    own.metrics.write_text("".join(json.dumps(each) + "\n" for each in rows))
    done = agentgrpo("train", "--from-record", own.path, "--step", row["step"])
    assert done.code == 1
    assert lines(done.out)[-1].startswith(f"it differs: train/loss of step {row['step']}: {row['train/loss']!r} on")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--step", "1"), "--from-record RUN and --step K go together"),
        (("--from-record", "RUN"), "--from-record RUN and --step K go together"),
        (("--from-record", "RUN", "--step", "0"), "greater than or equal to 1"),
        (("--from-record", "RUN", "--step", "1", "--max-hours", "1"), "go together, and with nothing but --set"),
        (("--from-record", "RUN", "--step", "1"), "has made no train step yet"),
        (("--from-record", "nowhere", "--step", "1"), "no run at 'nowhere'"),
    ],
)
def test_a_step_that_cannot_be_made_again_is_one_message(
    words: tuple[str, ...], told: str, agentgrpo: Command, untouched: RunDirectory
) -> None:
    done = agentgrpo("train", *(str(untouched.path) if word == "RUN" else word for word in words))
    assert (done.code, done.out) == (2, "")
    assert re.search(told, done.err), done.err
