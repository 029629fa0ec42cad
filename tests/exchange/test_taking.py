"""The two commands as they are typed; the page is opened in a browser."""

from __future__ import annotations

import importlib.util
import json
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agentgrpo.cli.main import app
from agentgrpo.errors import UserError
from agentgrpo.store import RunDirectory
from agentgrpo.types import Turn
from tests.exchange.runs import make_run
from tests.store.strategies import make_key, make_trajectory

_ACT = "window.pwned=1;alert(1)"
_FORMS = (
    f"<script>{_ACT}</script>",
    f"</script><script>{_ACT}</script>",
    f"<img src=x onerror={_ACT}>",
    f"<svg/onload={_ACT}>",
    f"<iframe srcdoc='<script>parent.{_ACT}</script>'>",
    f"<a href=javascript:{_ACT}>x</a>",
    f"<details open ontoggle={_ACT}>",
    f"<input autofocus onfocus={_ACT}>",
    f"<style>@import 'https://evil.example/x.css'</style><body onload={_ACT}>",
    f"<base href=https://evil.example/><script src=x.js></script>{_ACT}",
)
_BEFORE = ("", '">', "'>", "</title></style>", "--><!--", "\u2028]]>\u0000")
INJECTIONS = [before + form for before in _BEFORE for form in _FORMS]


def run_command(*args: Any) -> str:
    done = CliRunner().invoke(app, ["run", *map(str, args)], env={"COLUMNS": "200"})
    if done.exception is not None:
        raise done.exception
    return done.stdout


def hostile_run(folder: Path) -> RunDirectory:
    """Return a run whose every text is an injection."""
    episodes = []
    for number, bad in enumerate(INJECTIONS):
        message = {"role": "tool", "tool_call_id": bad, "name": bad, "content": bad, "is_error": number % 2 == 0}
        change = {"op": "add", "path": f"/{bad}", "value": {bad: bad}}
        call = {"id": bad, "name": bad, "arguments": {bad: [bad]}}
        action = {"content": bad, "reasoning": bad, "tool_calls": [call]}
        turn = Turn(action=action, messages=(message,), reward=0.0, state_hash=bad, state_diff=(change,))
        episodes.append(
            make_trajectory(
                make_key(number, f"{number}{bad}"),
                env_id=bad,
                prompt=({"role": bad, "content": bad}, {"role": "user", "content": [{"type": bad, bad: bad}]}),
                tools=({"type": "function", "function": {"name": bad, "description": bad}},),
                turns=(turn,),
                reward_terms={bad: 0.5},
                info={bad: bad},
            )
        )
    return make_run(folder, episodes, name=INJECTIONS[1])


class Elements(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append(tag)


def test_a_page_holds_its_own_elements_and_none_of_an_episodes(tmp_path: Path) -> None:
    assert len(INJECTIONS) == 60
    page = tmp_path / "page.html"
    run_command("export", hostile_run(tmp_path).path, "--format", "html", "--out", page)
    text = page.read_text(encoding="utf-8")
    elements = ["html", "head", "meta", "meta", "meta", "meta", "title", "style", "body", "script", "script"]
    assert Elements(text).found == elements
    assert "http://" not in text.replace("http://www.w3.org/", "")
    assert "default-src 'none'" in text


CHROMIUM = shutil.which("chromium")


@pytest.mark.ui
@pytest.mark.skipif(CHROMIUM is None or importlib.util.find_spec("playwright") is None, reason="needs a browser")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_sixty_injections_do_nothing_in_a_page_opened_from_a_disk(tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    page_file = tmp_path / "page.html"
    run_command("export", hostile_run(tmp_path).path, "--format", "html", "--out", page_file)
    seen: list[str] = []
    with sync_playwright() as player:
        browser = player.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_context(offline=True).new_page()
        page.on("dialog", lambda dialog: seen.append(f"dialog {dialog.message}"))
        page.on("console", lambda message: seen.append(message.text))
        page.on("pageerror", lambda error: seen.append(str(error)))
        page.on("request", lambda request: seen.append(request.url))
        page.goto(page_file.as_uri())
        for _ in INJECTIONS:
            assert "window.pwned" in page.inner_text("main")
            page.keyboard.press("t")
            page.keyboard.press("t")
            page.keyboard.press("l")
        assert page.evaluate("window.pwned") is None
        browser.close()
    assert seen == [page_file.as_uri()]


def test_a_filter_chooses_and_the_last_line_says_what_came(tmp_path: Path) -> None:
    run = make_run(tmp_path, [make_trajectory(make_key(sample=i), reward=float(i % 2)) for i in range(6)])
    out = tmp_path / "some.jsonl"
    told = run_command("export", run.path, "success:yes", "--format", "openai", "--limit", 2, "--out", out)
    assert told.strip().endswith("some.jsonl: 2 episodes")
    assert len(out.read_text().splitlines()) == 2
    told = run_command("import", out, "--runs", tmp_path / "brought", "--name", "theirs")
    assert "2 episodes came without a reward: it stays unknown" in told
    assert RunDirectory.open(tmp_path / "brought").name.startswith("theirs-")


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["reward<"], "has no value"),
        (["success:no"], "none of the 1 episodes match 'success:no'"),
        (["--out", "."], "exists: give another name"),
    ],
)
@pytest.mark.parametrize("kind", ["html", "atif", "openai"])
def test_what_cannot_be_exported_is_said(args: list[str], told: str, kind: str, tmp_path: Path) -> None:
    run = make_run(tmp_path, [make_trajectory()])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("x")
    args = [str(tmp_path / "full") if arg == "." else arg for arg in args]
    with pytest.raises(UserError, match=told):
        run_command("export", run.path, *args, "--format", kind)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["file"]


def test_a_page_takes_a_hundred_episodes(tmp_path: Path) -> None:
    run = make_run(tmp_path, [make_trajectory(make_key(sample=i)) for i in range(101)])
    with pytest.raises(UserError, match="101 episodes match, a page takes 100"):
        run_command("export", run.path, "--format", "html", "--out", tmp_path / "page.html")


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    run = make_run(tmp_path, [make_trajectory()])
    out = tmp_path / "out.jsonl"
    out.write_text("mine")
    with pytest.raises(UserError, match="nothing is overwritten"):
        run_command("export", run.path, "--format", "atif", "--out", out)
    assert out.read_text() == "mine"


def test_secrets_do_not_leave(tmp_path: Path) -> None:
    key = "ghp_" + "a1" * 12
    run = make_run(tmp_path, [make_trajectory(prompt=({"role": "user", "content": f"my key is {key}"},))])
    for kind in ("html", "atif", "openai"):
        out = tmp_path / f"{kind}.jsonl"
        run_command("export", run.path, "--format", kind, "--out", out)
        assert key not in out.read_text(encoding="utf-8")
        assert json.dumps(key) not in out.read_text(encoding="utf-8")
