"""One HTML file that shows episodes by itself: the page's own modules and styles, and the data, in one.

It works from a disk without a network: nothing is fetched, and a policy in the page forbids it. It knows nothing of
files or of runs: the data is what `episodes.episode_data` makes.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Sequence

from agentgrpo.store.run import without_nan
from agentgrpo.types import JsonObject
from agentgrpo.viewer.assets import script, styles

ENTRY = "export.js"
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<script type="application/json" id="episodes">{data}</script>
<script type="module">{script}</script>
</body>
</html>
"""


def episode_page(data: JsonObject | Sequence[JsonObject]) -> str:
    """Return a page that shows one episode, or several with a way to go from one to the next.

    Args:
        data: What `episodes.episode_data` returned; with a vocabulary the page shows tokens too.
    """
    episodes = [data] if isinstance(data, dict) else list(data)
    code, style = script(ENTRY), styles()
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src '{_hash(code)}'",
            f"style-src '{_hash(style)}'",
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    )
    key = str(episodes[0]["row"]["key"]) if len(episodes) == 1 else f"{len(episodes)} episodes"
    title = html.escape(f"{key} · agentgrpo".encode("utf-8", "replace").decode("utf-8"))
    return _PAGE.format(policy=policy, title=title, style=style, data=embedded({"episodes": episodes}), script=code)


def embedded(data: JsonObject) -> str:
    """Return JSON that can stand in a script element: nothing in it can end the element or begin another."""
    text = json.dumps(without_nan(data), separators=(",", ":"), default=str)  # ASCII: any str survives
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
