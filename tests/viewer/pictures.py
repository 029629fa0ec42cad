"""Makes the pictures of `docs/images`: every screen of the run in which refunds break, light and dark, desk and phone.

`python -m tests.viewer.shop_run FOLDER && python -m tests.viewer.pictures FOLDER`. It draws; whether they look right is
for people to judge.
"""

from __future__ import annotations

import io
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from PIL import Image

from agentgrpo.viewer.runs import Runs
from tests.viewer.browsing import chromium, watched
from tests.viewer.serving import Served

PICTURES = Path(__file__).parents[2] / "docs" / "images"
SIZES = {"": (1280, 860), "-phone": (390, 844)}
EPISODE = "train/25/train-refund_item-165/2"
SETTLED_MS = 900

Colour: TypeAlias = tuple[int, int, int]


def _run_of(root: Path, start: str) -> str:
    return next(name for name in reversed(Runs(root).paths()) if name.startswith(start))


def _nothing(page: Any) -> None:
    """Leave the page as it opens."""


def _hover_a_token(page: Any) -> None:
    page.wait_for_selector(".tokens i.on")
    page.locator(".tokens i.on").nth(4).hover()


def _go_to_the_fall(page: Any) -> None:
    page.click("text=Success fell most")
    page.wait_for_selector(".shifts")


def _beside(page: Any) -> None:
    page.keyboard.press("Enter")


def screens(root: Path) -> Iterator[tuple[str, str, Callable[[Any], None]]]:
    """Yield each screen's name, its address, and what is done there before it is drawn."""
    run, other = _run_of(root, "shop-nightly"), _run_of(root, "shop-lr2")
    here = f"/r/{run}"
    yield "runs", f"/?runs={run},{other}", _nothing
    yield "steps", f"{here}/steps", _go_to_the_fall
    yield "episodes", f"{here}/episodes?filter=step:38..41+phase:train+tool:refund", _nothing
    yield "group", f"{here}/group?key={EPISODE.rsplit('/', 1)[0]}", _nothing
    yield "episode", f"{here}/episode?key={EPISODE}", _nothing
    yield "tokens", f"{here}/episode?key={EPISODE}&view=tokens&colour=ratio", _hover_a_token
    yield "compare", f"/compare?a={other}&b={run}", _beside
    yield "timeline", f"{here}/timeline?step=40", _nothing


def draw(root: Path, folder: Path) -> None:
    """Write every picture into a folder."""
    with chromium() as browser, Served(root) as served:
        for name, address, act in screens(root):
            for theme in ("light", "dark"):
                for suffix, (width, height) in SIZES.items():
                    size = {"width": width, "height": height}
                    with watched(browser, served.url, viewport=size, color_scheme=theme) as seen:
                        seen.page.goto(address)
                        seen.page.wait_for_timeout(SETTLED_MS)
                        act(seen.page)
                        seen.page.wait_for_timeout(SETTLED_MS)
                        _save(seen.page.screenshot(), folder / f"view-{name}-{theme}{suffix}.png")
                        seen.assert_calm()


def _save(picture: bytes, path: Path) -> None:
    """Write a picture in 256 of its colours, those untouched: half the size."""
    drawn = Image.open(io.BytesIO(picture)).convert("RGB")
    data = drawn.tobytes()
    pixels = list(zip(data[::3], data[1::3], data[2::3], strict=True))
    kept, places = _palette([colour for colour, _ in Counter(pixels).most_common()])
    written = Image.new("P", drawn.size)
    written.putpalette([level for colour in kept for level in colour])
    written.putdata([places[pixel] for pixel in pixels])
    written.save(path, optimize=True)


def _palette(colours: Sequence[Colour]) -> tuple[list[Colour], dict[Colour, int]]:
    """Return the most frequent colours and those least like them, 256 in all, and which of them stands for each."""
    kept = list(colours[:192])
    nearest = {colour: min((math.dist(each, colour), i) for i, each in enumerate(kept)) for colour in colours}
    while len(kept) < min(256, len(colours)):
        kept.append(max(nearest, key=nearest.__getitem__))
        for colour in colours:
            nearest[colour] = min(nearest[colour], (math.dist(kept[-1], colour), len(kept) - 1))
    return kept, {colour: place for colour, (_, place) in nearest.items()}


if __name__ == "__main__":
    draw(Path(sys.argv[1]), PICTURES)
