from __future__ import annotations

from pathlib import Path

from agentgrpo.viewer.series import MetricsFile


def test_a_file_is_read_on_from_where_the_last_look_ended(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path)
    assert not file.refresh()
    path.write_text('{"step": 1, "a": 1.5}\n{"step": 2, "a": 2, "b": null, "c": "text", "d": true}\n{"step": 3, "a"')
    assert file.refresh()
    assert (file.steps, file.column("a"), list(file.columns)) == ([1, 2], [1.5, 2], ["a"])
    with path.open("a") as more:
        more.write(': 3}\nno json\n{"a": 1}\n{"step": 2, "b": 7}\n')
    assert file.refresh()
    assert not file.refresh()
    assert (file.steps, file.column("a"), file.column("b")) == ([1, 2, 3], [1.5, 2, 3], [None, 7, None])
    assert file.column("unknown") == [None, None, None]


def test_a_file_that_was_cut_off_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "a": 1}\n{"step": 2, "a": 2}\n')
    file = MetricsFile(path)
    file.refresh()
    path.write_text('{"step": 1, "a": 5}\n')
    assert file.refresh()
    assert (file.steps, file.column("a")) == ([1], [5])


def test_steps_that_come_late_take_their_place(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 5, "a": 5}\n{"step": 2, "a": 2}\n{"step": 3, "b": 3}\n')
    file = MetricsFile(path)
    file.refresh()
    assert (file.steps, file.column("a"), file.column("b")) == ([2, 3, 5], [2, None, 5], [None, 3, None])
