"""The picture of `env play` in the documentation: `python -m tests.cli.picture` draws it anew."""

from __future__ import annotations

import html
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

from agentgrpo.baselines import play
from agentgrpo.cli.play import Game
from agentgrpo.cli.target import open_target

PICTURE = Path(__file__).parents[2] / "docs" / "images" / "play.svg"
TASK = "train-refund_item-003"
_FONTS = re.compile(r"@font-face \{\{.*?\}\}\s*", re.DOTALL)  # from the web: a picture needs nothing of that


def draw() -> str:
    """Return the picture: a person refunds an order, at first too much."""
    target = open_target("shop")
    console = Console(
        highlight=False, record=True, width=100, force_terminal=True, color_system="truecolor", file=io.StringIO()
    )
    index = next(i for i, task in enumerate(target.train) if task.id == TASK)
    typed = lines(index)

    def read(prompt: str) -> str:
        line = next(typed, None)
        if line is None:
            raise EOFError
        console.print(Text.assemble((prompt, "bold"), line))
        return line

    tasks = [*target.train[index:], *target.train[:index]]
    Game(target, tasks, 0, console, read).run()
    return console.export_svg(
        title=f"agentgrpo env play shop --task {TASK}", code_format=_FONTS.sub("", CONSOLE_SVG_FORMAT)
    )


def lines(index: int) -> Iterator[str]:
    """Yield what is typed: the oracle's calls in different ways, one of them wrong first."""
    target = open_target("shop")
    played = play(target.source, target.train[index], "oracle", seed=0)
    calls = [json.loads(action)["tool_calls"][0]["arguments"] for action in played.actions[:-1]]
    find, order, _, refund = calls
    yield f'find_customer name="{find["name"]}"'
    yield "find_order"
    yield from order.values()
    amount = refund["amount"]
    yield f"refund_order order={refund['order']} amount={amount + 5} reason={refund['reason']}"
    yield f"refund_order order={refund['order']} amount={amount} reason={refund['reason']}"
    yield "say done"


def words(svg: str) -> str:
    """Return what a picture says."""
    return " ".join(html.unescape(" ".join(re.findall(r"<text[^>]*>([^<]*)</text>", svg))).split())


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
