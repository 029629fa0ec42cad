from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentgrpo.store import EpisodeFilter, EpisodeReader, EpisodeStore, RunDirectory
from tests.store.strategies import make_key, make_trajectory
from tests.viewer.browsing import chromium, watched
from tests.viewer.serving import Served

pytestmark = pytest.mark.ui
MANY = 150  # episodes: more than a page of the list

# Every text that can be seen, with the ratio of WCAG 2.2 (1.4.3) between its colour and what lies below it.
CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3]));
  const channel = (value) => (value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4);
  const light = (colour) => [0.2126, 0.7152, 0.0722].reduce((sum, weight, i) => sum + weight * channel(colour[i]), 0);
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = [];
  while (walker.nextNode()) {
    const parent = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || parent.closest(":disabled, .skip")) continue;
    if (!parent.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
    const chain = [];
    for (let node = parent; node; node = node.parentElement) chain.unshift(getComputedStyle(node));
    const ground = chain.reduce((below, style) => over(rgba(style.backgroundColor), below), [255, 255, 255]);
    const opacity = chain.reduce((product, style) => product * Number(style.opacity), 1);
    const ink = rgba(parent instanceof SVGElement ? chain.at(-1).fill : chain.at(-1).color);
    const [a, b] = [light(over([ink[0], ink[1], ink[2], ink[3] * opacity], ground)), light(ground)];
    found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), walker.currentNode.data.trim()]);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def url(root: Path) -> Iterator[str]:
    with Served(root) as served:
        yield served.url


def row_of(run: RunDirectory, **where: Any) -> Any:
    with EpisodeReader(run.episodes) as reader:
        return reader.list(EpisodeFilter(**where), limit=1)[0]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_text_can_be_read(browser: Any, url: str, root: Path, run: RunDirectory, theme: str) -> None:
    broken = next(path.name for path in root.iterdir() if path.name.startswith("second"))
    row, here = row_of(run, phase="train"), f"/r/{run.path.name}"
    places = [f"/?runs={run.path.name},{broken}", f"/compare?a={run.path.name}&b={broken}", f"/r/{broken}/steps?step=2"]
    places += [f"{here}/episodes?filter=phase:train", f"{here}/timeline", f"{here}/group?key={row.key}"]
    places += [f"{here}/episode?key={row.id}", f"{here}/episode?key={row.id}&view=tokens", "/nowhere"]
    with watched(browser, url, color_scheme=theme) as seen:
        for place in places:
            seen.page.goto(place)
            seen.page.wait_for_selector("main > *")
            seen.page.wait_for_load_state("networkidle") if place == "/nowhere" else seen.page.wait_for_timeout(250)
            texts = seen.page.evaluate(CONTRAST)
            assert len(texts) > 5, place
            assert [text for text in texts if text[0] < 4.5] == [], place
        seen.assert_calm()


def test_a_page_says_that_the_server_is_gone_and_goes_on_when_it_is_back(browser: Any, tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, "long")
    with EpisodeStore(run.episodes) as store:
        store.add_sync([make_trajectory(make_key(1, f"task-{number}")) for number in range(MANY)])
    served = Served(tmp_path)
    with watched(browser, served.url) as seen, watched(browser, served.url) as other:
        page = seen.page
        page.goto(f"/r/{run.path.name}/episodes")
        page.wait_for_selector(".list-row")
        page.wait_for_selector(".live.is-on")
        other.page.goto("/")
        other.page.wait_for_selector(".run-line")
        served.close()
        page.wait_for_selector(".notice >> text=The server does not answer")
        page.keyboard.press("End")
        page.wait_for_selector(".filter-note >> text=No answer")
        assert page.locator(".filter-input[aria-invalid]").count() == 0  # not the filter's fault
        other.page.click(".run-name a")
        other.page.wait_for_selector("main >> text=That did not work")
        assert other.page.title() == "That did not work \u00b7 agentgrpo"
        with Served(tmp_path, port=served.port):
            page.wait_for_selector(".notice", state="hidden")
            page.keyboard.press("Home")
            page.keyboard.press("End")
            page.wait_for_function(f"() => document.querySelector('.rows-body').clientHeight === {MANY} * 30")
            other.page.wait_for_selector(".chart-large")
            other.page.wait_for_selector(".notice", state="hidden")
        assert all("net::ERR" in problem for problem in seen.problems + other.problems), other.problems


def test_screens_opened_before_the_first_episode_fill_by_themselves(browser: Any, tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, "early")
    with (
        EpisodeStore(run.episodes) as store,
        Served(tmp_path) as served,
        watched(browser, served.url) as seen,
        watched(browser, served.url) as other,
    ):
        page, timeline = seen.page, other.page
        page.goto(f"/r/{run.path.name}/steps")
        timeline.goto(f"/r/{run.path.name}/timeline")
        for each in (page, timeline):
            each.wait_for_selector("main >> text=No episode has finished yet")
            each.wait_for_selector(".live.is-on")
        store.add_sync([make_trajectory(make_key(1, "a", sample)) for sample in range(2)])
        page.wait_for_selector(".heading >> text=1 train steps, 2 episodes")
        page.wait_for_selector(".chart-grid >> text=Turns")
        assert page.locator("main >> text=No episode has finished yet").is_hidden()
        timeline.wait_for_selector(".readout >> text=2 episodes")
        store.add_sync([make_trajectory(make_key(1, "a", sample)) for sample in range(2, 5)])
        store.add_sync([make_trajectory(make_key(2, "b"))])
        page.wait_for_selector(".heading >> text=2 train steps, 6 episodes")
        timeline.wait_for_selector(".readout >> text=5 episodes")
        timeline.wait_for_selector(".heading >> text=Step 1 of 2")
        timeline.wait_for_function("() => document.querySelectorAll('.lane').length === 5")
        seen.assert_calm()
        other.assert_calm()


@pytest.mark.parametrize("screen", ["steps", "episodes", "timeline", "episode?key=1", "group?key=train/1/a"])
def test_a_link_to_a_run_that_is_gone_says_so(browser: Any, url: str, screen: str) -> None:
    with watched(browser, url) as seen:
        seen.page.goto(f"/r/gone/{screen}")
        seen.page.wait_for_selector("main >> text=No run 'gone'")
        assert seen.page.locator("main a").all_inner_texts() == ["All runs"]
        assert seen.page.locator(".notice").is_hidden()
        assert all("404" in problem for problem in seen.problems)


def test_a_link_to_an_episode_that_is_gone_leads_to_those_there_are(browser: Any, url: str, run: RunDirectory) -> None:
    with watched(browser, url) as seen:
        seen.page.goto(f"/r/{run.path.name}/episode?key=train/99/none/0")
        seen.page.click("main >> text=Episodes of this run")
        seen.page.wait_for_selector(".list-row")
        assert all("400" in problem for problem in seen.problems)


def test_a_tick_keeps_the_focus_and_the_keys_work_on(browser: Any, url: str) -> None:
    with watched(browser, url) as seen:
        page = seen.page
        page.goto("/")
        page.wait_for_selector(".run-line")
        box = page.locator(".run-line input").nth(1)
        box.focus()
        page.keyboard.press(" ")
        page.wait_for_selector(".run-curves .chart")
        assert box.evaluate("node => node === document.activeElement && node.checked")
        page.keyboard.press("j")
        assert page.locator(".run-line").nth(1).evaluate("node => node.classList.contains('is-chosen')")
        seen.assert_calm()


def test_shares_say_all_and_none_only_when_it_is_so(browser: Any, url: str) -> None:
    values = [None, 0, 0.0004, 0.004, 0.5, 0.99, 239 / 240, 0.9996, 1]
    with watched(browser, url) as seen:
        seen.page.goto("/")
        shown = seen.page.evaluate("async (values) => values.map((await import('/static/format.js')).percent)", values)
        assert shown == ["\u2013", "0 %", "< 0.1 %", "0.4 %", "50 %", "99 %", "99.6 %", "> 99.9 %", "100 %"]
        seen.assert_calm()


@pytest.mark.parametrize(
    ("where", "label", "note"),
    [
        ({"phase": "train"}, "sampled, trained", None),
        ({"phase": "eval"}, "sampled", "None of these tokens trained (eval)."),
    ],
)
def test_tokens_are_called_trained_where_they_were(
    browser: Any, url: str, root: Path, where: Any, label: str, note: str | None
) -> None:
    run = next(RunDirectory(path=path) for path in root.iterdir() if path.name.startswith("first"))
    with EpisodeReader(run.episodes) as reader:
        rows = reader.list(EpisodeFilter(**where))
    row = next(row for row in rows if row.phase != "train" or row.untrained is None)
    with watched(browser, url) as seen:
        seen.page.goto(f"/r/{run.path.name}/episode?key={row.id}&view=tokens")
        seen.page.wait_for_selector(".token-span.is-sampled")
        words = seen.page.locator(".token-span.is-sampled .token-label span:nth-child(2)").all_inner_texts()
        assert set(words) == {label}
        assert seen.page.locator(".token-legend .warn").all_inner_texts() == ([note] if note else [])
        seen.assert_calm()


def test_names_without_room_keep_their_ends(browser: Any, tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, "names")
    names = [f"{'heldout-of-a-long-name-' * 3}{number:03}" for number in (1, 2)]
    with EpisodeStore(run.episodes) as store:
        store.add_sync([make_trajectory(make_key(1, name)) for name in names])
    with Served(tmp_path) as served, watched(browser, served.url, viewport={"width": 390, "height": 844}) as seen:
        seen.page.goto(f"/r/{run.path.name}/episodes")
        seen.page.wait_for_selector(".list-row")
        cut = seen.page.locator(".list-row .cut").first
        assert cut.inner_text() == names[1]
        assert cut.evaluate(
            "node => { const range = document.createRange(); range.selectNodeContents(node.lastChild);"
            " return range.getBoundingClientRect().right <= node.getBoundingClientRect().right + 1; }"
        )
        seen.assert_calm()
