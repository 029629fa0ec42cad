from __future__ import annotations

import io
import sys

import pytest

from agentgrpo.cli.main import main
from tests.cli.command import Command, Done


@pytest.fixture
def agentgrpo(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command in this process, as the `agentgrpo` script does; `typed` is what comes through a pipe."""

    def run(*words: object, typed: str = "", columns: int = 200) -> Done:
        monkeypatch.setattr(sys, "argv", ["agentgrpo", *map(str, words)])
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        monkeypatch.setenv("COLUMNS", str(columns))
        with pytest.raises(SystemExit) as caught:
            main()
        code = caught.value.code
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return Done(code if isinstance(code, int) else 0, out, err)

    return run
