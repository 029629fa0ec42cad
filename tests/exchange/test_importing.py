from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentgrpo.errors import UserError
from agentgrpo.exchange.exporting import Format
from agentgrpo.exchange.importing import import_files
from agentgrpo.store import EpisodeReader, EpisodeStore
from tests.exchange.runs import fresh_folder, make_run, take
from tests.exchange.samples import LINE, STEPS, document
from tests.store.strategies import json_values, make_trajectory


def messages(*changed: Any) -> dict[str, Any]:
    return {"messages": [*LINE["messages"][:2], *changed]}


CALLS = [{"id": "c", "type": "function", "function": {"name": "look", "arguments": "{"}}]
BAD = {
    "{": "line 1: not JSON",
    "[1]": "expected an object with",
    '{"x": 1}': "expected an object with",
    json.dumps({"messages": []}): "messages: got a list, expected a list of messages",
    json.dumps({"messages": [7]}): r"messages\[0\]: got 7, expected an object with a role",
    json.dumps(messages()): "no message of an assistant",
    json.dumps(messages({"role": "assistant", "content": "", "tool_calls": CALLS})): r"messages\[2\].tool_calls\[0\]",
    json.dumps(messages({"role": "assistant", "content": {"a": 1}})): r"messages\[2\].content: got an object",
    json.dumps(messages({"role": "assistant", "content": "", "function_call": {"name": "x"}})): "the old form",
    json.dumps(messages({"role": "assistant", "content": "a"}, {"role": "tool", "content": "b"})): "tool_call_id",
    json.dumps(document(agent={"name": "x"})): "agent.version: Field required",
    json.dumps(document(schema_version="ATIF-v9")): "schema_version: Input should be",
    json.dumps(document(steps=STEPS[1:])): r"steps\[0\].step_id is 2, expected 1",
    json.dumps(document(steps=STEPS[:2])): "no step of source agent",
    json.dumps(document(surprise=1)): "surprise: Extra inputs are not permitted",
    json.dumps(document(steps=[{"step_id": 1, "source": "user", "message": "x", "tool_calls": []}])): "no tool_calls",
}


@pytest.mark.parametrize("text", BAD, ids=list(BAD.values()))
def test_a_line_that_is_none_is_named_and_nothing_comes_in(text: str, tmp_path: Path) -> None:
    path = tmp_path / "given.jsonl"
    path.write_text(f"{json.dumps(LINE)}\n\n{text}\n" if text != "{" else text, encoding="utf-8")
    with pytest.raises(UserError, match=BAD[text]) as caught:
        import_files([path], tmp_path / "runs", "x", model_path=None)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.parametrize("name", ["nowhere.jsonl", "empty", "nothing.jsonl", "two.json"])
def test_files_that_hold_nothing_are_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "nothing.jsonl").write_text("\n\n")
    (tmp_path / "two.json").write_text(f"{json.dumps(LINE)}\n{json.dumps(LINE)}\n")
    with pytest.raises(UserError, match=name.split(".", maxsplit=1)[0]):
        import_files([tmp_path / name], tmp_path / "runs", "x", model_path=None)


def paths_in(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, item in inner for found in paths_in(item, (*path, key)))]


def own_document() -> dict[str, Any]:
    with fresh_folder() as folder:
        return dict(json.loads(take(make_run(folder, [make_trajectory()]), Format.ATIF, folder / "a.jsonl")))


OWN = own_document()
hostile_numbers: st.SearchStrategy[Any] = st.sampled_from(
    [-1, 2**31, 2**63, 2**200, -(2**70), 1e308, -1e300, True, None, "NaN", "", "\ud800", []]
)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([OWN, document(), LINE]), st.data())
def test_whatever_stands_in_a_document_is_taken_or_refused_in_one_line(start: Any, data: st.DataObject) -> None:
    changed = deepcopy(start)
    path = data.draw(st.sampled_from(paths_in(changed)[1:]))
    place = changed
    for key in path[:-1]:
        place = place[key]
    if data.draw(st.booleans()):
        place[path[-1]] = data.draw(hostile_numbers | json_values)
    else:
        del place[path[-1]]
    with fresh_folder() as folder:
        (folder / "a.jsonl").write_text(json.dumps(changed), encoding="utf-8")
        try:
            done = import_files([folder / "a.jsonl"], folder / "runs", "x", model_path="model")
        except UserError as error:
            assert "\n" not in str(error)
            return
        with EpisodeReader(done.run.episodes) as reader:
            assert reader.get(1).trajectory is not None
        take(done.run, Format.ATIF, folder / "b.jsonl")


def test_episodes_with_the_same_key_are_further_attempts(tmp_path: Path) -> None:
    path = tmp_path / "twice.jsonl"
    path.write_text(f"{json.dumps(OWN)}\n{json.dumps(OWN)}\n")
    done = import_files([path], tmp_path / "runs", "x", model_path=None)
    assert (done.episodes, done.renumbered) == (2, 1)
    with EpisodeReader(done.run.episodes) as reader:
        assert [row.attempt for row in reader.list(order="id", descending=False)] == [0, 1]


def test_a_run_that_was_imported_says_what_of(tmp_path: Path) -> None:
    path = tmp_path / "given.jsonl"
    path.write_text(json.dumps(LINE | {"source": "web"}), encoding="utf-8")
    done = import_files([path], tmp_path / "runs", "x", model_path=None)
    record = done.run.read_record()
    assert (record["status"], record["exact"]) == ("finished", False)
    assert [file["name"] for file in record["imported"]["files"]] == ["given.jsonl"]
    assert done.left_out == {"source": 1}
    with EpisodeStore(done.run.episodes) as store:  # it is a run like any other
        store.add_sync([make_trajectory()])
