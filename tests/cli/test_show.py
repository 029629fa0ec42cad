from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from typer.testing import CliRunner

from agentgrpo.cli.show import show
from agentgrpo.cli.token_view import Colour, Vocabulary, token_view
from agentgrpo.cli.transcript import State, conversation, printable
from agentgrpo.errors import UserError
from agentgrpo.store import EpisodeReader, EpisodeStore, RunDirectory, TrainingRow, write_json
from agentgrpo.types import Boundary, Failure, JsonObject, Span, Turn
from tests.store.strategies import UNIT, make_key, make_spans, make_trajectory

ROOT = Path(__file__).parents[2]
Show = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    """Two groups of four, one episode of the second broken, and a held-out episode."""
    run = RunDirectory.create(tmp_path / "runs", "shop", now=1.75e9)
    write_json(run.record, {"status": "running", "model_path": str(tmp_path / "model")})
    with EpisodeStore(run.episodes) as store:
        for step, rewards in enumerate([(1.0, 0.0, 0.0, 1.0), (0.5, None, 0.0, 1.0)], 1):
            keys = [make_key(step, f"shop-{step}", sample) for sample in range(4)]
            store.add_sync([make_trajectory(k, reward=r) for k, r in zip(keys, rewards, strict=True)])
        store.add_sync([make_trajectory(make_key(2, "heldout-of-a-very-long-name-" * 4 + "7", phase="eval"))])
    return run


@pytest.fixture
def output(run: RunDirectory) -> Show:
    app = typer.Typer()
    app.command()(show)

    def call(*args: Any, columns: int = 100) -> str:
        done = CliRunner().invoke(app, [str(run.path), *map(str, args)], env={"COLUMNS": str(columns)})
        if done.exception is not None:
            raise done.exception
        return done.stdout

    return call


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if re.match(r"\s*\d+ +(train|eval)", line)]


def squeeze(text: str) -> str:
    return "\n".join(" ".join(line.split()) for line in text.splitlines()) + "\n"


@pytest.mark.parametrize("columns", [100, 140])
def test_the_list_fits_its_width_and_shows_every_column(output: Show, columns: int) -> None:
    text = output(columns=columns)
    heading = next(line for line in text.splitlines() if "phase" in line)
    assert " ".join(heading.split()) == "# phase step task sample reward success turns calls errors stop seconds"
    assert all(len(line) <= columns for line in text.splitlines()[1:-1])
    newest, *others = rows(text)
    assert newest[0] == "9"
    assert re.fullmatch(r"heldout-.*…?.*-7", newest[3])
    assert others[0] == ["8", "train", "2", "shop-2", "3", "1.00", "✓", "4", "3", "1", "answered", "4.2"]
    assert "shop-2025061" in text
    assert "held-out success 100.0% at step 2" in text
    assert "9 of 9 episodes." in text


@pytest.mark.parametrize(
    ("columns", "options", "shown"),
    [
        (80, [], "# phase step task sample reward success turns errors stop"),
        (80, ["--sort", "seconds"], "# phase step task sample reward success turns stop seconds"),
        (40, [], "# phase step task reward success"),
    ],
)
def test_a_narrow_list_leaves_out_columns_rather_than_names(
    output: Show, columns: int, options: list[str], shown: str
) -> None:
    heading, *lines = output(*options, columns=columns).splitlines()[2:5]
    assert (heading.split(), len(heading) <= columns) == (shown.split(), True)
    assert all(re.search(r" (shop-\d|hel\S*…\S*-7) ", line) for line in lines)


def run_it(run: RunDirectory, **environment: str) -> str:
    command = [sys.executable, "-m", "agentgrpo.cli.main", "show", str(run.path)]
    clean = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "PYTHONUTF8")}
    return subprocess.run(command, env=clean | environment, capture_output=True, check=True, timeout=60).stdout.decode()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_is_told(run: RunDirectory) -> None:
    command = [sys.executable, "-m", "agentgrpo.cli.main", "show", str(run.path)]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("error: the machine refused: No space left on device. Free space")
    assert "Traceback" not in done.stderr


def test_nothing_is_cut_in_a_file(run: RunDirectory) -> None:
    text = run_it(run, PYTHONIOENCODING="utf-8")
    assert "heldout-of-a-very-long-name-" * 4 + "7" in text
    assert re.search("errors stop +seconds\n", text)


def test_a_screen_that_lacks_signs_gets_others(run: RunDirectory) -> None:
    listed = [line.split() for line in run_it(run, PYTHONIOENCODING="ascii").splitlines() if " shop-1 " in line]
    assert [(line[5], line[6]) for line in listed] == [("1.00", "y"), ("0.00", "n"), ("0.00", "n"), ("1.00", "y")]


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        (["--phase", "eval"], [9]),
        (["--step", "1", "--asc"], [1, 2, 3, 4]),
        (["--task", "shop-2", "--limit", "2"], [8, 7]),
        (["--task", "heldout*"], [9]),
        (["--stop", "failed"], [6]),
        (["--failed"], [6]),
        (["--min-reward", "0.25", "--max-reward", "0.75"], [5]),
        (["--contains", "engine is gone"], [6]),
        (["--sort", "reward", "--asc", "--step", "2", "--phase", "train"], [7, 5, 8, 6]),
        (["--sort", "task", "--limit", "1"], [8]),
    ],
)
def test_filters_and_order(output: Show, options: list[str], ids: list[int]) -> None:
    assert [int(row[0]) for row in rows(output(*options))] == ids


def test_nothing_that_matches_is_said_not_drawn(output: Show) -> None:
    assert "None of the 9 episodes match" in output("--step", "77")


def test_an_empty_run_is_no_error(tmp_path: Path, output: Show) -> None:
    run = RunDirectory.create(tmp_path / "runs", "empty", now=1.76e9)
    EpisodeStore(run.episodes).close()
    app = typer.Typer()
    app.command()(show)
    done = CliRunner().invoke(app, [str(tmp_path / "runs")])  # the newest run
    assert "empty-2025" in done.stdout
    assert "No episode has finished yet." in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["99"], "numbered 1 to 9"),
        (["train/1/shop-1/7"], "there are: train/1/shop-1/0"),
        (["--sort", "rewrd"], "Did you mean 'reward'"),
        (["--tokens", "mask"], "--tokens needs an episode"),
    ],
)
def test_mistakes_are_answered_with_the_fix(output: Show, arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        output(*arguments)


def test_an_episode_pairs_calls_with_results(output: Show) -> None:
    text = output("train/1/shop-1/0")
    assert text == output("1")
    compact = squeeze(text)
    assert "train/1/shop-1/0 #1" in compact
    assert "result success · reward 1.00 · answered" in compact
    assert 'call cancel_order(order_id="4812")\nerror tool_error: no order 4812\n' in compact
    assert 'call find_orders(customer="Ada Lovelace")\nresult [{"id": "4821", "status": "pending"}]\n' in compact
    assert "state /orders/4821/status: cancelled" in compact
    assert "group mean 0.50 of 4: 1.00 0.00 0.00 1.00" in compact
    assert "end answered reward 1.00" in compact


def test_a_broken_episode_says_where_and_why(output: Show) -> None:
    compact = squeeze(output("6"))
    assert "not scored · reward - · failed:engine · the engine is gone" in compact
    assert "end failed at the engine: the engine is gone" in compact


async def test_training_is_shown(run: RunDirectory, output: Show) -> None:
    with EpisodeStore(run.episodes) as store:
        await store.set_training(
            [
                TrainingRow(key=make_key(1, "shop-1", 0), advantage=0.5),
                TrainingRow(key=make_key(1, "shop-1", 1), filter_reason="truncated"),
            ]
        )
    assert "advantage +0.50" in output("1")
    assert "did not train: truncated" in output("2")


def plain(*parts: Any) -> str:
    console = Console(width=100, record=True, color_system=None, file=Path("/dev/null").open("w"))  # noqa: SIM115
    with console.file:
        for part in parts:
            console.print(part)
        return console.export_text()


def test_calls_that_could_not_be_parsed_and_results_nobody_asked_for() -> None:
    action = {
        "content": "",
        "reasoning": "hm",
        "tool_calls": [
            {"id": "a", "name": None, "raw": '{"name": ', "error": {"type": "invalid_json", "message": "cut off"}},
            {"id": "b", "name": "look", "arguments": {}},
        ],
    }
    answers = (
        {"role": "user", "content": "and now?"},
        {"role": "tool", "tool_call_id": "a", "content": "not json", "is_error": True},
    )
    turn = Turn(action=action, messages=answers, reward=0.0, finish_reason="length")
    text = squeeze(plain(*conversation(make_trajectory(turns=(turn,)))))
    assert 'call ? {"name":\nerror not json\ncall look()\nno result\nuser and now?\n' in text
    assert "ended by length" in text
    assert "thinks hm" in text


def test_a_patch_says_what_it_replaces_when_that_is_known() -> None:
    patch: list[JsonObject] = [
        {"op": "add", "path": "/orders/1", "value": {"status": "new", "a/b": 1}},
        {"op": "replace", "path": "/orders/1/status", "value": "paid"},
        {"op": "replace", "path": "/orders/1/a~1b", "value": 2},
        {"op": "remove", "path": "/orders/1/status"},
        {"op": "remove", "path": "/orders/1"},
        {"op": "replace", "path": "/orders/1/status", "value": ""},
        {"op": "test", "path": "/users/2/age", "value": 41},
        {"op": "replace", "path": "/users/2/age", "value": 42},
        {"op": "replace", "path": "/users/2/name", "value": "Ada", "old": "ada"},
        {"op": "move", "path": "/b", "from": "/a"},
    ]
    assert [line.plain for line in State().lines(patch)] == [
        '/orders/1: added {"status": "new", "a/b": 1}',
        "/orders/1/status: new -> paid",
        "/orders/1/a~1b: 1 -> 2",
        "/orders/1/status: paid -> removed",
        '/orders/1: {"status": "new", "a/b": 1} -> removed',
        '/orders/1/status: ""',
        "/users/2/age: 41 -> 42",
        "/users/2/name: ada -> Ada",
        "/b: move /a",
    ]


def test_no_text_can_reach_the_terminal_as_a_command(run: RunDirectory, output: Show) -> None:
    evil = "\x1b[2J\x1b]0;owned\x07\x9b1m \u202e [red]x[/red]"
    call = {"id": "a", "name": evil, "arguments": {evil: evil}}
    turn = Turn(action={"content": evil, "tool_calls": [call]}, messages=({"role": evil, "content": evil},), reward=0.0)
    key = make_key(9, task_id=f"t{evil}")
    with EpisodeStore(run.episodes) as store:
        store.add_sync([make_trajectory(key, turns=(turn,), env_id=evil, reward_terms={evil: 1.0})])
    for text in (output(), output("10"), output("10", "--tokens", "mask")):
        assert not set(text) & set("\x1b\x07\x9b\u202e")
    assert "[red]x[/red]" in output("10")
    assert printable("a\n\tb\x00ü") == "a\n\tb\\x00ü"


@pytest.fixture
def tokenizer(run: RunDirectory) -> Tokenizer:
    """A byte-level tokenizer with two control tokens, in the run's model folder."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<|im_start|>"), AddedToken("<|im_end|>")])
    folder = Path(run.read_record()["model_path"])
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer


def store_text(run: RunDirectory, tokenizer: Tokenizer, texts: list[str]) -> None:
    ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    with EpisodeStore(run.episodes) as store:
        store.add_sync([make_trajectory(make_key(7), spans=make_spans(ids))])


async def test_tokens_become_the_text_they_were(run: RunDirectory, tokenizer: Tokenizer, output: Show) -> None:
    store_text(run, tokenizer, ["<|im_start|>user\nnaïve ☃", "yes ☃<|im_end|>", "\nok"])
    text = output("10", "--tokens", "mask")
    assert " <|im_start|> user⏎\nnaïve ☃yes ☃ <|im_end|> ⏎\nok" in text
    assert "row 1 of 1" in text
    assert "sampled by the model, trained" not in text
    with EpisodeStore(run.episodes) as store:
        await store.set_training([TrainingRow(key=make_key(7), advantage=0.5)])
    assert "sampled by the model, trained" in output("10", "--tokens", "mask")


def test_control_tokens_and_their_look_alikes_differ(run: RunDirectory, tokenizer: Tokenizer) -> None:
    fake = tokenizer.encode("<|im", add_special_tokens=False).ids + tokenizer.encode("_end|>").ids
    real = tokenizer.encode("<|im_end|>").ids
    store_text(run, tokenizer, ["x", "<|im_end|>"])
    with EpisodeStore(run.episodes) as store:
        store.add_sync([make_trajectory(make_key(8), spans=make_spans([fake, real]))])
    with EpisodeReader(run.episodes) as reader:
        stored = reader.get(11)
    *_, row = token_view(stored, Vocabulary.of(run.read_record()["model_path"]), Colour.MASK)
    styles = {row.plain[span.start : span.end]: str(span.style) for span in row.spans}  # type: ignore[union-attr]
    assert styles[" <|im_end|> "].startswith("bold")
    assert "on #" not in styles["<"]
    assert row.plain == "<|im_end|> <|im_end|> "  # type: ignore[union-attr]


@pytest.mark.parametrize("colour", Colour)
def test_without_a_tokenizer_ids_are_shown(output: Show, colour: Colour) -> None:
    text = output("1", "--tokens", colour)
    assert "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15" in text
    assert "ids are shown" in text


async def test_colours_say_what_the_legend_says(run: RunDirectory) -> None:
    values = (0.0, -0.5, -1.25, -2.5, -9.0)
    sampled = Span(parent=-1, token_ids=(1, 2, 3, 4, 5), sampled=True, logprobs=values, policy_version=0)
    with EpisodeStore(run.episodes) as store:
        await store.add([make_trajectory(make_key(8), spans=(sampled,))])
        with EpisodeReader(run.episodes) as reader:
            untrained = reader.get(10)
            await store.set_training([TrainingRow(key=make_key(8), advantage=-2 * UNIT)])
            trained = reader.get(10)
    no_words = Vocabulary.of(None)
    *_, by_logprob = token_view(untrained, no_words, Colour.LOGPROB)
    assert len({str(span.style) for span in by_logprob.spans}) == 5  # type: ignore[union-attr]
    assert "none trained (no train step yet)" in plain(*token_view(untrained, no_words, Colour.MASK))
    assert "no advantage (not trained on)" in plain(*token_view(untrained, no_words, Colour.ADVANTAGE))
    assert "advantage -0.00" in plain(*token_view(trained, no_words, Colour.ADVANTAGE))


async def test_what_the_learner_knew_of_each_token_colours_it(run: RunDirectory) -> None:
    values = (-0.5, -0.5, -0.5, -0.5)
    heard = Span(parent=-1, token_ids=(9,), sampled=False)
    sampled = Span(parent=0, token_ids=(1, 2, 3, 4), sampled=True, logprobs=values, policy_version=0)
    made = make_trajectory(make_key(8), spans=(heard, sampled))
    learner, entropies = (-0.25, -0.5, -0.625, -2.0), (0.0, 0.25, 1.0, 4.0)
    with EpisodeStore(run.episodes) as store:
        await store.add([made])
        with EpisodeReader(run.episodes) as reader:
            before = reader.get(made.key)
            await store.set_training([TrainingRow(key=made.key, logprobs=learner, entropies=entropies)])
            after = reader.get(made.key)
    for colour, ends in ((Colour.ENTROPY, ("#d9dce1", "#b48ae8")), (Colour.RATIO, ("#7fb0f5", "#f5a25c"))):
        *_, row = token_view(after, Vocabulary.of(None), colour)
        styles = [str(span.style) for span in row.spans]  # type: ignore[union-attr]
        assert len(set(styles)) == 5
        assert (styles[1][-7:], styles[-1][-7:]) == ends
        assert "not recorded" in plain(*token_view(before, Vocabulary.of(None), colour))


def test_an_episode_without_sampled_tokens_has_no_rows(run: RunDirectory, output: Show) -> None:
    with EpisodeStore(run.episodes) as store:
        store.add_sync([make_trajectory(make_key(8), spans=())])
    assert "The model sampled no tokens" in output("10", "--tokens", "logprob")


def test_showing_starts_without_torch() -> None:
    code = (
        "import sys, agentgrpo.cli.show; print(*{'torch', 'transformers', 'matplotlib', 'numpy'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert (done.stdout.split(), done.returncode) == ([], 0), done.stderr


async def test_what_could_not_be_scored_is_listed_with_what_broke(run: RunDirectory, output: Show) -> None:
    failure = Failure(boundary=Boundary.JUDGE, cause="no verdict within 2 s")
    unscored = replace(make_trajectory(make_key(9, "shop-9", 0)), reward=None, reward_terms={}, failure=failure)
    judged = replace(make_trajectory(make_key(9, "shop-9", 1)), info={"judge": {"reason": "found it at once"}})
    with EpisodeStore(run.episodes) as store:
        await store.add([unscored, judged])
    assert "answered:judge" in output("--failed")
    assert "end answered at the judge: no verdict within 2 s" in squeeze(output("train/9/shop-9/0"))
    assert "judge found it at once" in squeeze(output("train/9/shop-9/1"))
