from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.command import Command, Done
from tests.cli.picture import PICTURE, draw, words
from tests.small import EXAMPLE


@pytest.fixture
def played(agentgrpo: Command) -> Done:
    lines = [
        "find_customer",
        "Ella Webb",
        '{"name": "find_order", "arguments": {"customer": "C10", "item": "sofa"}}',
        "cancel_order order=1",
        "fnd_order",
        "score",
        "say done",
        "get_order 1",
        "undo",
        "schema get_order",
        "quit",
        "say never read",
    ]
    return agentgrpo("env", "play", "shop", "--task", "train-cancel_item-003", typed="\n".join(lines) + "\n")


def test_a_person_plays_an_episode(played: Done) -> None:
    assert (played.code, played.err) == (0, "")
    lines = [line.split() for line in played.out.splitlines()]
    assert lines[1][:2] == ["agentgrpo/Shop-v0", "train-cancel_item-003"]
    for expected in (
        "user Cancel the sofa of Ella Webb.",
        "4 get_order(order) Show an order and what was paid.",
        "name (text): Ella Webb",
        'call find_customer(name="Ella Webb")',
        'result {"customer": "C',
        'call cancel_order(order="1")',
        "error tool_error: no order '1'",
        "there is no tool or command 'fnd_order'. Did you mean 'find_order'?",
        "0.00 · outcome 0 · side_effects 0",
        "end answered reward 0.00",
        "this episode is over: undo, again, next or quit",
        "back at turn 4",
        '"name": "get_order"',
    ):
        assert expected in " ".join(word for line in lines for word in line), expected
    assert "never read" not in played.out


def test_help_shows_how_a_tool_that_is_there_is_called(agentgrpo: Command) -> None:
    said = " ".join(agentgrpo("env", "play", "shop", typed="help\n").out.split())
    assert "find_customer name=... a call with its arguments" in said
    assert 'find_customer {"name": ...} the same as JSON' in said


def test_state_changes_and_rewards_are_shown_as_they_come(agentgrpo: Command, tmp_path: Path) -> None:
    typed = "find name=nobody\nunlock number=1\nagain\nnext\n"
    config = EXAMPLE / "locker.toml"
    done = agentgrpo(
        "env", "play", f"{EXAMPLE / 'locker.py'}:Locker", "--tasks", EXAMPLE / "lockers.jsonl", typed=typed
    )
    assert done.code == 0, done.err
    assert "nobody is called nobody" in done.out
    assert done.out.count("1 of 400") == 2
    assert done.out.count("2 of 400") == 1
    assert config.is_file()
    lockbox = agentgrpo("env", "play", "lockbox", "--split", "heldout", typed="press digit=3\nstate\npress digit=x\n")
    assert "/position: 0 -> 1" in lockbox.out
    assert '"position": 1' in lockbox.out
    assert "'x' is not integer" in lockbox.out


BROKEN = '''
import agentgrpo as ag

class Flaky(ag.ToolEnv):
    """Breaks at a call."""
    def reset_task(self, task):
        return "Act."
    @ag.tool
    def act(self) -> str:
        """Act."""
        raise RuntimeError("backend down")
    def reward(self):
        return 0.0
'''


def test_an_environment_that_breaks_begins_again(agentgrpo: Command, tmp_path: Path) -> None:
    (tmp_path / "flaky.py").write_text(BROKEN)
    done = agentgrpo("env", "play", f"{tmp_path / 'flaky.py'}:Flaky", typed="act\nundo\nstate\nnext\n")
    assert done.code == 0, done.err
    assert "the environment broke, the episode would count as failed: tool 'act' raised RuntimeError" in done.out
    assert "nothing was done yet" in done.out
    assert "this environment does not tell its state" in done.out
    assert "seed 0" in done.out
    assert "seed 1" in done.out


def test_an_environment_that_cannot_begin_or_raises_by_itself_is_told(agentgrpo: Command, tmp_path: Path) -> None:
    (tmp_path / "wild.py").write_text(
        "import agentgrpo as ag\n"
        "class Wild(ag.AgentEnv):\n"
        "    metadata = {'action_format': 'text'}\n"
        "    def reset(self, *, seed=None, options=None):\n"
        "        return 'go', {}\n"
        "    def step(self, action):\n"
        "        return [1][5]\n"
        "class Still(Wild):\n"
        "    def reset(self, *, seed=None, options=None):\n"
        "        return {}['nowhere']\n"
    )
    done = agentgrpo("env", "play", f"{tmp_path / 'wild.py'}:Wild", typed="left\n/undo\n/quit\n")
    assert (done.code, "would count as failed: step raised IndexError" in done.out) == (0, True)
    assert "nothing was done yet" in done.out
    done = agentgrpo("env", "play", f"{tmp_path / 'wild.py'}:Still")
    assert (done.code, "the episode cannot begin: reset raised KeyError" in done.err) == (2, True)
    done = agentgrpo("env", "stats", f"{tmp_path / 'wild.py'}:Wild")
    assert done.code == 2
    assert "broke while 'nothing' played seed 0: IndexError" in done.err
    assert "agentgrpo env check says more" in done.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["shop", "--task", "train-cancel_itm-003"], "has no task 'train-cancel_itm-003'. Did you mean"),
        (["shop", "--split", "held"], "has no tasks in a split 'held'. Did you mean 'heldout'? It has train, heldout"),
        (["shp"], "there is no environment 'shp'. Did you mean 'shop'"),
        (["x.toml", "--tasks", "y.jsonl"], "--tasks has no place beside x.toml"),
    ],
)
def test_what_cannot_be_played_is_told(agentgrpo: Command, words: list[str], told: str) -> None:
    done = agentgrpo("env", "play", *words)
    assert done.code == 2
    assert told in done.err


def test_arguments_of_the_environment_can_be_set(agentgrpo: Command) -> None:
    done = agentgrpo("env", "play", "lockbox", "--set", "env_args.turns=1", typed="press {}\npress 0\n")
    assert "argument 'digit' is missing" in done.out
    assert "done" in done.out


def test_the_picture_in_the_documentation_is_what_is_drawn() -> None:
    drawn = words(draw())
    assert "refund_order" in drawn
    assert words(PICTURE.read_text(encoding="utf-8")) == drawn
