"""A new user's question, answered by clicks alone: why did success drop at step 10?"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.viewer.browsing import Watched, chromium, watched
from tests.viewer.serving import Served
from tests.viewer.shop_run import shop_run

pytestmark = pytest.mark.ui


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A run in which refunds do nothing from step 10 on, without a word about it."""
    root = tmp_path_factory.mktemp("broken")
    settings: dict[str, Any] = {"steps": 16, "groups": 5, "samples": 4, "look_every": 100, "with_tokens": False}
    shop_run(root, "broken", breaks_at=10, quality=lambda _: 0.97, **settings)
    with Served(root) as served:
        yield served.url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture(params=[(1280, 900), (390, 844)], ids=["desk", "phone"])
def seen(browser: Any, url: str, request: pytest.FixtureRequest) -> Iterator[Watched]:
    width, height = request.param
    with watched(browser, url, viewport={"width": width, "height": height}) as seen:
        yield seen
        seen.assert_calm()


def test_four_clicks_lead_from_the_runs_to_the_call_that_did_nothing(seen: Watched) -> None:
    page = seen.page
    page.goto("/")
    page.click(".run-name a")
    page.click("text=Success fell most at step 10")
    advice = page.locator(".advice")
    said = advice.inner_text()
    assert re.match(r"Look first at refund_order: its calls changed the state 100 % of the time before, 0 % now", said)
    assert advice.bounding_box()["y"] < page.viewport_size["height"]
    assert page.locator(".shifts tbody tr th").first.inner_text() == "call refund_order"
    advice.locator("a").click()
    page.click(".list-row >> nth=0")
    turn = page.locator(".turn", has_text="refund_order").first
    assert "state unchanged" in turn.inner_text()


def test_the_episodes_before_are_a_click_away_too(seen: Watched) -> None:
    page = seen.page
    page.goto("/")
    page.click(".run-name a")
    page.click("text=Success fell most at step 10")
    page.locator(".shifts tbody tr").first.locator("td a").first.click()
    page.wait_for_selector(".list-row")
    assert page.locator(".filter-input").input_value() == "step:5..9 phase:train tool:refund_order"
    page.click(".list-row >> nth=0")
    turn = page.locator(".turn", has_text="refund_order").first
    assert "state unchanged" not in turn.inner_text()


def at_the_drop(seen: Watched) -> Any:
    """Go where success fell most, by what the screen says."""
    page = seen.page
    page.goto("/")
    page.click(".run-name a")
    page.click("text=Success fell most at step 10")
    return page


def test_spans_are_widened_without_a_keyboard(seen: Watched) -> None:
    page = at_the_drop(seen)
    page.click(".shift >> text=narrower")
    page.wait_for_selector(".shift >> text=in steps 7\u20139")
    page.click(".shift >> text=wider")
    page.wait_for_selector(".shift >> text=in steps 5\u20139")


def test_no_column_of_what_changed_is_cut_off(seen: Watched) -> None:
    page = at_the_drop(seen)
    page.wait_for_selector(".shifts")
    assert page.evaluate("() => { const s = document.querySelector('#screen'); return s.scrollWidth <= s.clientWidth }")


ADVICE = """
async ([shifts]) => {
  const { shiftPanel } = await import("/static/shift.js");
  const sums = { steps: [1, 2], episodes: 40, success: 0.9 };
  const found = { phase: "train", before: sums, after: { ...sums, steps: [3, 4], success: 0.5 }, shifts };
  const nodes = shiftPanel("run", found, { narrower: () => {}, wider: () => {} });
  return nodes.find((node) => node?.className === "advice").textContent;
}
"""
BEFORE = {"episodes": 10, "success": 0.9, "errors": 0.0, "calls": 10, "changed": None, "turns": 0}
SAID = [
    ({"facet": "tool", "reason": "errors"}, {"errors": 0.8}, "its calls failed 0 % of the time before, 80 % now."),
    ({"facet": "stop", "reason": None}, {"episodes": 30}, "episodes that ended x: 25 % of all before, 75 % now."),
    ({"facet": "family", "reason": None}, {"success": 0.2}, "success 90 % of the time before, 20 % now. No tool's own"),
]


@pytest.mark.parametrize(("shift", "after", "said"), SAID)
def test_what_is_said_first_fits_what_changed(
    browser: Any, url: str, shift: dict[str, Any], after: dict[str, Any], said: str
) -> None:
    with watched(browser, url) as seen:
        seen.page.goto("/")
        found = seen.page.evaluate(ADVICE, [[{**shift, "value": "x", "before": BEFORE, "after": {**BEFORE, **after}}]])
        assert said in found
        seen.assert_calm()
