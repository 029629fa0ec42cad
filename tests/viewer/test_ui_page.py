from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agentgrpo.store import EpisodeFilter, EpisodeReader, EpisodeStore, RunDirectory
from agentgrpo.types import Parent
from agentgrpo.viewer.episodes import open_episode
from agentgrpo.viewer.page import episode_page
from agentgrpo.viewer.runs import Runs
from tests.store.strategies import make_key, make_trajectory
from tests.viewer.browsing import Watched, chromium, watched
from tests.viewer.serving import Served

pytestmark = pytest.mark.ui
LIVE_SECONDS = 1.0
ROWS = "(selector => [...document.querySelectorAll(selector)].map(node => node.innerText))"
TRIES = 5


def fork(run: Path, episode: str, *, turn: int, count: int = 1, **_: Any) -> None:
    """Store new episodes as a fork does, without playing them."""
    directory = RunDirectory(path=run)
    with EpisodeReader(directory.episodes) as reader:
        parent = reader.get(episode)
        first = len(reader.list(EpisodeFilter(phase="fork")))
    with EpisodeStore(directory.episodes) as store:
        for number in range(first, first + count):
            key = make_key(1, parent.row.task_id, number, phase="fork")
            store.add_sync([make_trajectory(key, parent=Parent(episode=parent.row.id, turns=turn - 1))])


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def url(root: Path) -> Iterator[str]:
    with Served(root, fork=fork) as served:
        yield served.url


@pytest.fixture
def seen(browser: Any, url: str) -> Iterator[Watched]:
    with watched(browser, url) as seen:
        yield seen
        seen.assert_calm()


@pytest.fixture
def place(run: RunDirectory) -> Callable[[str], str]:
    return lambda rest: f"/r/{run.path.name}/{rest}"


def texts(page: Any, selector: str) -> list[str]:
    return list(page.locator(selector).all_inner_texts())


def colour(page: Any, selector: str) -> str:
    return str(page.locator(selector).first.evaluate("node => getComputedStyle(node).backgroundColor"))


def test_the_list_is_filtered_sorted_and_searched(seen: Watched, place: Callable[[str], str]) -> None:
    page = seen.page
    page.goto(place("episodes"))
    page.wait_for_selector(".list-row")
    assert page.locator(".filter-note").inner_text() == "84 episodes"
    page.fill(".filter-input", "phase:train reward<0.5")
    page.wait_for_function("() => document.querySelector('.filter-note').textContent.includes(' of 84')")
    rewards = [float(text.replace("\u2212", "-")) for text in texts(page, ".list-row .col-reward")]
    assert rewards
    assert max(rewards) < 0.5
    assert "filter=phase:train+reward" in page.url
    page.fill(".filter-input", '"refund"')
    page.wait_for_function("() => !location.search.includes('reward')")
    page.wait_for_function(f"() => {ROWS}('.list-row .col-task').every(text => /refund|status|cancel|send/.test(text))")
    page.wait_for_function("() => document.querySelector('.filter-note').textContent.includes(' of 84')")
    assert all(re.search("refund|status|cancel|send", text) for text in texts(page, ".list-row .col-task"))
    page.fill(".filter-input", "")
    page.click("button[aria-label='sort by reward']")
    page.wait_for_selector("[aria-sort=descending] >> text=reward")
    page.click("button[aria-label='sort by reward']")
    page.wait_for_selector("[aria-sort=ascending] >> text=reward")
    page.wait_for_function("() => document.querySelectorAll('.list-row').length > 20")
    page.wait_for_function(
        f"() => {ROWS}('.list-row[data-index] .col-reward').map(text => parseFloat(text.replace('\u2212', '-')))"
        ".every((reward, at, all) => at === 0 || all[at - 1] <= reward)"
    )
    shown = [float(text.replace("\u2212", "-")) for text in texts(page, ".list-row[data-index] .col-reward")]
    assert shown == sorted(shown)


def test_held_out_success_stands_by_kind_of_task_and_leads_to_its_episodes(
    seen: Watched, run: RunDirectory, place: Callable[[str], str]
) -> None:
    page = seen.page
    page.goto(place("steps"))
    grid = page.locator(".facets", has_text="Held-out success by kind of task")
    grid.wait_for()
    with EpisodeReader(run.episodes) as reader:
        rows = [row for row in reader.facets("eval") if row.facet == "family"]
        kinds = {row.value: sum(r.episodes for r in rows if r.value == row.value) for row in rows}
    assert len(kinds) > 1
    assert sorted(grid.locator(".facet-row a").all_inner_texts()) == sorted(kinds)
    name, count = next(iter(kinds.items()))
    grid.get_by_text(name, exact=True).click()
    page.wait_for_selector(".list-row")
    assert page.locator(".filter-note").inner_text().startswith(f"{count} of ")


def test_a_mistake_in_the_filter_is_underlined_where_it_is(seen: Watched, place: Callable[[str], str]) -> None:
    page = seen.page
    page.goto(place("episodes"))
    page.wait_for_selector(".list-row")
    page.fill(".filter-input", "step:1 rewrad<1")
    page.wait_for_selector(".filter-input[aria-invalid=true]")
    assert page.locator(".filter-where mark").inner_text() == "rewrad"
    assert "Did you mean 'reward'?" in page.locator(".filter-note").inner_text()
    seen.problems = [problem for problem in seen.problems if "400" not in problem]


def group_with_variance(run: RunDirectory) -> Any:
    with EpisodeReader(run.episodes) as reader:
        return next(row for row in reader.list(EpisodeFilter(phase="train")) if row.advantage)


def test_a_group_stands_side_by_side(seen: Watched, run: RunDirectory, place: Callable[[str], str]) -> None:
    page, row = seen.page, group_with_variance(run)
    page.goto(place(f"group?key=train/{row.step}/{row.task_id}"))
    page.wait_for_selector(".columns-head")
    with EpisodeReader(run.episodes) as reader:
        mates = reader.group(row.key)
    shown = texts(page, ".columns-head .advantage")
    assert [text[0] for text in shown] == ["+" if (mate.advantage or 0) > 0 else "\u2212" for mate in mates]
    assert page.locator(".is-divergence .flag").inner_text().lower() == "first divergence"
    boxes = [page.locator(f"#at-0 [data-column='{column}']").bounding_box() for column in range(len(mates))]
    assert len({round(box["y"]) for box in boxes}) == 1
    assert [box["x"] for box in boxes] == sorted({box["x"] for box in boxes})


def test_tokens_have_the_colours_of_what_is_known_of_them(
    seen: Watched, run: RunDirectory, place: Callable[[str], str]
) -> None:
    page, row = seen.page, group_with_variance(run)
    page.goto(place(f"episode?key={row.id}&view=tokens"))
    page.wait_for_selector(".tokens i.on")
    assert page.locator(".tokens i.on").count() == row.sampled_tokens
    assert page.locator(".tokens i").count() == row.tokens
    assert colour(page, ".tokens i.on") != colour(page, ".tokens i.off")
    for kind, style in (("i.k", "solid"), ("i.off:not(.k)", "none")):
        token = page.locator(f".tokens {kind}").first
        assert token.evaluate("node => getComputedStyle(node).borderTopStyle") == style
    found = {}
    for name in ("role", "probability", "advantage", "ratio", "entropy"):
        page.click(f".segments button >> text={name}")
        kinds = page.evaluate("[...new Set([...document.querySelectorAll('.tokens i')].map(i => i.className))]")
        selectors = [f'.tokens i[class="{kind}"]' for kind in kinds if " k" not in kind]
        found[name] = {selector: colour(page, selector) for selector in selectors}
    assert len(set(found["role"].values())) >= 4
    assert len(set(found["probability"].values())) >= 4
    assert len(set(found["advantage"].values())) == 2
    assert len(set(found["entropy"].values())) >= 4
    page.locator(".tokens i.on").first.hover()
    tip = page.locator(".token-tip:has(dl)").inner_text()
    assert all(word in tip for word in ("id", "logprob", "learner", "ratio", "advantage", "nats"))


def test_what_was_not_recorded_cannot_be_chosen(seen: Watched, run: RunDirectory, place: Callable[[str], str]) -> None:
    with EpisodeReader(run.episodes) as reader:
        row = next(row for row in reader.list(EpisodeFilter(phase="train")) if row.advantage is None)
    seen.page.goto(place(f"episode?key={row.id}&view=tokens"))
    seen.page.wait_for_selector(".tokens i")
    assert texts(seen.page, ".segments button:disabled") == ["advantage", "ratio", "entropy"]


def test_a_change_of_state_says_what_it_replaced(seen: Watched, run: RunDirectory, place: Callable[[str], str]) -> None:
    with EpisodeReader(run.episodes) as reader:
        rows = [reader.get(row.id) for row in reader.list(limit=500)]
    stored = next(s for s in rows if any(d["op"] == "replace" for t in s.trajectory.turns for d in t.state_diff or ()))
    change = next(d for t in stored.trajectory.turns for d in t.state_diff or () if d["op"] == "replace")
    page = seen.page
    page.goto(place(f"episode?key={stored.row.id}"))
    page.wait_for_selector(".change.is-replace")
    shown = page.locator(".change.is-replace").first.inner_text().replace("\n", "")
    assert [part for part in change["path"].split("/")[1:] if part not in shown] == []
    assert str(change["value"]) in page.locator(".change.is-replace ins").first.inner_text()
    assert (
        page.locator(".exchange .call").first.bounding_box()["x"]
        < (page.locator(".exchange .result").first.bounding_box()["x"])
    )


def test_every_screen_is_reached_without_a_mouse(seen: Watched, run: RunDirectory) -> None:
    page = seen.page

    def press(*keys: str, until: str, at: str) -> None:
        for key in keys:
            page.keyboard.press(key)
        page.wait_for_selector(until)
        page.wait_for_function("at => location.href.includes(at)", arg=at)

    page.goto("/")
    page.wait_for_selector(".run-line")
    press("x", until=".run-curves .chart", at="runs=")
    press("j", "Enter", until=".chart-large", at="/steps")
    press("h", "h", until=".groups h2 >> text=Groups of step 2", at="step=2")
    press("Enter", until=".columns-head", at="/group?key=train/2/")
    press("l", "Enter", until=".turn", at="/episode?key=train/2/")
    press("j", "j", until="#turn-2.is-current", at="turn=2")
    press("t", until=".tokens i", at="view=tokens")
    press("m", until=".tokens[data-colour=role]", at="colour=role")
    press(".", until=".token-tip dl", at="/episode")
    press("?", until="dialog.help[open]", at="/episode")
    keys = texts(page, "dialog.help dd")
    assert "next turn" in keys
    assert "dark or light" in keys
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog.help", state="hidden")
    press("G", until=".columns-head", at="/group?key=")
    press("u", until=".chart-large", at="/steps")
    press("g", "e", until=".list-row", at="/episodes")
    press("/", until=".filter-input:focus", at="/episodes")
    page.keyboard.type("success:yes")
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelector('.filter-note').textContent.includes(' of 84')")
    press("j", "o", until=".turn", at="/episode?key=")
    press("Escape", until=".list-row", at="filter=success:yes")
    page.wait_for_selector(".list-row[aria-selected=true][data-index='1']")
    press("g", "t", until=".lane", at="/timeline")
    press("g", "c", until=".task-line", at="/compare")
    before = colour(page, "body")
    page.keyboard.press("d")
    assert colour(page, "body") != before
    press("g", "r", until=".run-line", at="/")


def test_links_show_the_same_in_another_browser(browser: Any, url: str, seen: Watched, run: RunDirectory) -> None:
    page, row = seen.page, group_with_variance(run)
    page.goto(f"/r/{run.path.name}/episode?key={row.key}&view=tokens&colour=advantage")
    page.wait_for_selector(".tokens[data-colour=advantage] i")
    page.keyboard.press("m")
    page.wait_for_function("() => location.href.includes('colour=ratio')")
    with watched(browser, url) as other:
        other.page.goto(page.url)
        other.page.wait_for_selector(".tokens[data-colour=ratio] i")
        other.assert_calm()


def test_an_episode_is_shown_within_a_second_of_being_stored(browser: Any, tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path, "live")
    with (
        EpisodeStore(run.episodes) as store,
        Served(tmp_path) as served,
        watched(browser, served.url) as seen,
    ):
        store.add_sync([make_trajectory()])
        page = seen.page
        page.goto(f"/r/{run.path.name}/episodes")
        page.wait_for_selector(".list-row")
        page.wait_for_selector(".live.is-on")
        took = []
        for number in range(TRIES):  # the machine is shared: the quickest says what the page does
            clock = time.perf_counter()
            store.add_sync([make_trajectory(make_key(9, f"fresh-{number}"))])
            page.wait_for_selector(f".list-row >> text=fresh-{number}")
            took.append(time.perf_counter() - clock)
            if took[-1] < LIVE_SECONDS:
                break
        assert min(took) < LIVE_SECONDS
        seen.assert_calm()


def test_an_episode_is_forked_from_the_page(seen: Watched, run: RunDirectory, place: Callable[[str], str]) -> None:
    page = seen.page
    page.goto(place("episode?key=1"))
    page.wait_for_selector(".turn")
    page.keyboard.press("j")
    page.keyboard.press("F")
    page.wait_for_selector("dialog.fork[open]")
    assert page.locator("dialog.fork input").first.input_value() == "2"
    page.locator("dialog.fork input").nth(1).fill("2")
    page.click("dialog.fork button[type=submit]")
    page.wait_for_selector(".fork-tabs")
    assert [text.partition(":")[0] for text in texts(page, ".fork-tabs .tab")] == [
        "this episode",
        "fork at turn 2",
        "fork at turn 2",
    ]
    page.click(".fork-tabs a >> nth=0")
    page.wait_for_selector(".fork-tabs a >> text=the original")
    with EpisodeReader(run.episodes) as reader:
        assert {row.parent_turns for row in reader.list(EpisodeFilter(parent=1))} == {1}


def test_an_exported_page_works_from_a_disk_without_a_network(
    browser: Any, root: Path, run: RunDirectory, tmp_path: Path
) -> None:
    row = group_with_variance(run)
    opened = Runs(root).get(run.path.name)
    data = [open_episode(opened, str(row.id), with_tokens=True), open_episode(opened, "1", with_tokens=True)]
    opened.close()
    path = tmp_path / "episodes.html"
    path.write_text(episode_page(data), encoding="utf-8")
    with watched(browser, path.as_uri(), offline=True) as seen:
        page = seen.page
        page.route("**/*", lambda route: route.continue_() if route.request.url == path.as_uri() else route.abort())
        page.goto(path.as_uri())
        page.wait_for_selector(".turn")
        assert page.locator(".turn").count() == row.turns
        page.keyboard.press("t")
        page.wait_for_selector(".tokens i")
        assert page.locator(".tokens i").count() == row.tokens
        assert colour(page, ".tokens i.on") != colour(page, ".tokens i.off")
        page.keyboard.press("l")
        page.wait_for_selector(".exported-list [aria-current] >> text=sample 0")
        seen.assert_calm()


def sheets(page: Any) -> int:
    """Return how many sheets of paper a page takes."""
    return len(re.findall(rb"/Type\s*/Page\b", page.pdf(format="A4")))


def test_a_printed_episode_goes_over_as_many_sheets_as_it_takes(
    browser: Any, url: str, root: Path, run: RunDirectory, tmp_path: Path
) -> None:
    with EpisodeReader(run.episodes) as reader:
        row = max(reader.list(limit=500), key=lambda row: row.turns)
    opened = Runs(root).get(run.path.name)
    path = tmp_path / "episode.html"
    path.write_text(episode_page([open_episode(opened, str(row.id))]), encoding="utf-8")
    opened.close()
    for place in (path.as_uri(), f"{url}/r/{run.path.name}/episode?key={row.id}"):
        with watched(browser, path.as_uri() if place == path.as_uri() else url, color_scheme="dark") as seen:
            page = seen.page
            page.goto(place)
            page.wait_for_selector(".turn")
            dark = colour(page, "body")
            page.emulate_media(media="print")
            assert colour(page, "body") != dark
            short = sheets(page)
            page.evaluate("() => document.querySelector('.turn').style.setProperty('min-height', '3000px')")
            assert sheets(page) >= short + 2
            seen.assert_calm()


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_wider_than_the_window(browser: Any, url: str, run: RunDirectory, width: int) -> None:
    row = group_with_variance(run)
    here = f"/r/{run.path.name}"
    places = ["/", f"/compare?a={run.path.name}&b={run.path.name}"]
    places += [f"{here}/{screen}" for screen in ("steps?step=2", "episodes", "timeline")]
    places += [
        f"{here}/group?key=train/{row.step}/{row.task_id}",
        f"{here}/episode?key={row.id}",
        f"{here}/episode?key={row.id}&view=tokens",
    ]
    with watched(browser, url, viewport={"width": width, "height": 844}) as seen:
        for place in places:
            seen.page.goto(place)
            seen.page.wait_for_selector("main > .page, main > .list-screen")
            for part in ("document.documentElement", "document.querySelector('.bar')"):
                assert seen.page.evaluate(f"() => {part}.scrollWidth") <= width, place
        seen.assert_calm()
