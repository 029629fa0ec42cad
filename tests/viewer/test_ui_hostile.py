from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentgrpo.store import EpisodeReader, EpisodeStore, RunDirectory, TrainingRow, start_record
from agentgrpo.store.run import Metrics
from agentgrpo.types import Boundary, Failure, Policy, StopReason, Trajectory, Turn
from agentgrpo.viewer.episodes import episode_data
from agentgrpo.viewer.page import episode_page
from agentgrpo.viewer.vocabulary import Vocabulary
from tests.store.strategies import make_key, make_spans, make_trajectory
from tests.viewer.browsing import Watched, chromium, watched
from tests.viewer.injections import INJECTIONS
from tests.viewer.serving import Served
from tests.viewer.shop_run import tokenizer_of

pytestmark = pytest.mark.ui
# Opens every episode within the page, as a click on a link does, its tokens first, then the conversation.
HELPERS = """
const until = async (found) => { while (!found()) await new Promise((go) => setTimeout(go, 4)); };
const press = (key) => document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
const has = (selector) => () => document.querySelector(selector);
"""
WALK = (
    "async (ids) => {"
    + HELPERS
    + """
  let seen = 0;
  for (const id of ids) {
    const link = document.createElement("a");
    link.href = `${location.pathname}?view=tokens&key=${id}`;
    document.body.append(link);
    link.click();
    link.remove();
    await until(() => document.querySelector(".heading .quiet")?.textContent.includes(`#${id}`));
    await until(has(".tokens i"));
    press(".");
    await until(has(".token-tip dl"));
    press("t");
    await until(has(".turn"));
    if (document.querySelector(".turn .call-text") && !window.pwned) seen += 1;
  }
  return seen;
}"""
)
TURN_PAGES = (
    "async (size) => {"
    + HELPERS
    + """
  let seen = 0;
  for (let i = 0; i < size; i += 1) {
    press("t");
    await until(has(".tokens i"));
    press("t");
    await until(has(".turn"));
    if (!window.pwned) seen += 1;
    press("l");
  }
  return seen;
}"""
)
FOREIGN = "main script, main img, main iframe, main object, main embed, main style, main link, main base, main form"


def whole(text: str) -> str:
    """Return a text without lone surrogates, which no tokenizer takes."""
    return text.encode("utf-8", "replace").decode("utf-8")


def evil(text: str, number: int, tokenizer: Any) -> Trajectory:
    """Return an episode with a text in every field there is."""
    arguments = {text: text, "list": [text, {text: text}]}
    calls = [
        {"id": text, "name": text, "arguments": arguments},
        {"id": f"{text}2", "name": text, "raw": text, "error": {"type": text, "message": text}},
    ]
    answers: tuple[Any, ...] = (
        {"role": "tool", "tool_call_id": text, "name": text, "content": text, "is_error": False},
        {"role": "tool", "tool_call_id": f"{text}2", "name": text, "content": text, "is_error": True},
        {"role": text, "content": [{"type": text, "text": text}]},
    )
    path = "/" + text.replace("~", "~0").replace("/", "~1")
    diff: Any = [{"op": "add", "path": path, "value": text}, {"op": text, "path": text, "from": text}]
    turn = Turn(
        action={"content": text, "reasoning": text, "tool_calls": calls},
        messages=answers,
        reward=0.5,
        state_hash=text,
        state_diff=tuple(diff),
        tools=({"type": text, "function": {"name": text}},),
    )
    # Character by character: what reads like a control token is none.
    ids = [one for c in whole(text) for one in tokenizer.encode(c, add_special_tokens=False).ids]
    is_failed = number % 7 == 3
    return replace(
        make_trajectory(),
        key=make_key(1, text, number),
        env_id=text,
        policy=Policy(name=text, version=1),
        prompt=({"role": "system", "content": text}, {"role": text, "content": text}),
        tools=({"type": "function", "function": {"name": text, "description": text, "parameters": arguments}},),
        turns=(turn, turn),
        spans=make_spans([ids, ids, ids, ids]),
        reward=None if is_failed else 0.5,
        reward_terms={text: 0.5},
        stop_reason=StopReason.FAILED if is_failed else StopReason.ANSWERED,
        failure=Failure(boundary=Boundary.TOOL, cause=text) if is_failed else None,
        info={text: text},
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A run made of the texts, its name too; all of them are one group once more."""
    root = tmp_path_factory.mktemp("hostile")
    path = root / '"><img src=x onerror=alert(1)>'
    path.mkdir()
    run = RunDirectory(path=path)
    model = root / ".model"
    model.mkdir()
    tokenizer = tokenizer_of(map(whole, INJECTIONS), size=400)
    tokenizer.add_special_tokens(list(INJECTIONS[:4]))
    tokenizer.save(str(model / "tokenizer.json"))
    config = {"seed": 0, **{whole(text): whole(text) for text in INJECTIONS}}
    start_record(
        run, config=config, env=(), env_id=INJECTIONS[0], tasks={}, model_path=model, sampling={"x": INJECTIONS[0]}
    )
    with EpisodeStore(run.episodes) as store, Metrics(run.metrics) as metrics:
        for number, text in enumerate(INJECTIONS):
            one = evil(text, number, tokenizer)
            many = replace(one, key=make_key(2, INJECTIONS[0], number))
            store.add_sync([one, many])
            store.add_sync(
                [TrainingRow(key=each.key, advantage=0.5, filter_reason=whole(text)) for each in (one, many)]
            )
        metrics.write(1, dict.fromkeys(map(whole, INJECTIONS), 1.0) | {"train/kl": 0.1})
    return run


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def url(run: RunDirectory) -> Iterator[str]:
    with Served(run.path.parent) as served:
        yield served.url


def still_calm(seen: Watched) -> None:
    seen.assert_calm()
    assert seen.page.evaluate("window.pwned") is None
    assert seen.page.locator(FOREIGN).count() == 0
    assert seen.page.locator("body").evaluate("body => getComputedStyle(body).display") == "flex"


def test_there_are_enough_of_them() -> None:
    assert len(set(INJECTIONS)) >= 60


def test_no_screen_runs_what_a_run_says(run: RunDirectory, browser: Any, url: str) -> None:
    with watched(browser, url) as seen:
        page = seen.page
        page.goto("/")
        page.wait_for_selector(".run-line")
        page.keyboard.press("x")
        still_calm(seen)
        page.keyboard.press("Enter")
        page.wait_for_selector(".chart-large")
        page.keyboard.press("l")
        page.wait_for_selector(".group-line")
        still_calm(seen)
        for screen, mark in (("e", ".list-row"), ("t", ".lane"), ("c", ".task-line")):
            page.keyboard.press("g")
            page.keyboard.press(screen)
            page.wait_for_selector(mark)
            still_calm(seen)


def test_every_episode_and_its_tokens_are_text_only(run: RunDirectory, browser: Any, url: str) -> None:
    with EpisodeReader(run.episodes) as reader, watched(browser, url) as seen:
        rows = [row for row in reader.list(limit=500) if row.step == 1]
        page = seen.page
        page.goto("/")
        page.wait_for_selector(".run-line")
        page.keyboard.press("Enter")
        page.wait_for_selector(".chart-large")
        base = page.url.partition("/steps")[0]
        page.goto(f"{base}/episode?key={rows[0].id}&view=tokens")
        page.wait_for_selector(".tokens i")
        still_calm(seen)
        assert page.evaluate(WALK, [row.id for row in rows]) == len(rows)
        still_calm(seen)
        forged = next(row for row in rows if row.task_id == INJECTIONS[-1])
        page.goto(f"{base}/episode?key={forged.id}&view=tokens")
        page.wait_for_selector(".tokens i")
        assert "look like control tokens and are not" in page.locator(".token-legend .flag").inner_text()
        assert "<|im_end|>" in "".join(page.locator(".tokens i.fake").all_inner_texts())
        assert page.locator(".tokens i.k").count() == 0
        assert len(rows) == len(INJECTIONS)


def test_a_group_of_all_of_them_and_a_filter_that_is_one(run: RunDirectory, browser: Any, url: str) -> None:
    with EpisodeReader(run.episodes) as reader, watched(browser, url) as seen:
        first = next(row for row in reader.list(limit=500) if row.step == 2)
        page = seen.page
        page.goto("/")
        page.wait_for_selector(".run-line")
        page.keyboard.press("Enter")
        page.wait_for_selector(".chart-large")
        base = page.url.partition("/steps")[0]
        page.goto(f"{base}/episode?key={first.id}")
        page.wait_for_selector(".turn")
        page.keyboard.press("G")
        page.wait_for_selector(".columns-head")
        assert page.locator(".columns-head").count() == 32
        still_calm(seen)
        page.goto(f"{base}/episodes")
        for text in INJECTIONS[::20]:
            page.fill(".filter-input", f'"{text}')
            page.wait_for_selector(".filter-input[aria-invalid]")
            page.fill(".filter-input", "")
            page.wait_for_selector(".filter-input:not([aria-invalid])")
        seen.problems = [problem for problem in seen.problems if "400" not in problem]
        still_calm(seen)


def test_an_exported_page_of_all_of_them_runs_nothing(run: RunDirectory, browser: Any, tmp_path: Path) -> None:
    known = Vocabulary.of(str(run.path.parent / ".model"))
    with EpisodeReader(run.episodes) as reader:
        rows = [row for row in reader.list(limit=500) if row.step == 1]
        data = [episode_data(reader.get(row.id), None, known) for row in rows]
    path = tmp_path / "export.html"
    path.write_text(episode_page(data), encoding="utf-8")
    with watched(browser, path.as_uri(), offline=True) as seen:
        page = seen.page
        page.goto(path.as_uri())
        page.wait_for_selector(".turn")
        assert page.evaluate(TURN_PAGES, len(rows)) == len(rows)
        still_calm_export(seen)


def still_calm_export(seen: Watched) -> None:
    seen.assert_calm()
    assert seen.page.evaluate("window.pwned") is None
    assert seen.page.locator(FOREIGN).count() == 0
