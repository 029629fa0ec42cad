"""A headless Chromium, and pages that say what went wrong in them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHROMIUM = Path("/usr/bin/chromium")
WATCH = """
document.addEventListener("securitypolicyviolation", (event) => console.error("policy: " + event.violatedDirective));
"""


@contextmanager
def chromium() -> Iterator[Any]:
    """Yield a browser; the module is imported here: it is an extra."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass(slots=True, kw_only=True)
class Watched:
    """What happened on a page that should not."""

    page: Any
    dialogs: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)  # errors, and what the policy forbade
    elsewhere: list[str] = field(default_factory=list)  # requests to other hosts

    def assert_calm(self) -> None:
        """Assert that nothing did."""
        found = {"dialogs": self.dialogs, "problems": self.problems, "elsewhere": self.elsewhere}
        assert not any(found.values()), found


@contextmanager
def watched(browser: Any, url: str, **context: Any) -> Iterator[Watched]:
    """Yield a page of an inspector, in a fresh profile."""
    made = browser.new_context(**({"viewport": {"width": 1280, "height": 900}, "base_url": url} | context))
    page = made.new_page()
    page.set_default_timeout(60_000)
    seen = Watched(page=page)

    def dismiss(dialog: Any) -> None:
        seen.dialogs.append(dialog.message)
        dialog.dismiss()

    page.add_init_script(WATCH)
    page.on("dialog", dismiss)

    def note(message: Any) -> None:
        if message.type == "error":
            seen.problems.append(message.text)

    def look(request: Any) -> None:
        if not request.url.startswith((url, "data:")):
            seen.elsewhere.append(request.url)

    page.on("console", note)
    page.on("pageerror", lambda error: seen.problems.append(str(error)))
    page.on("request", look)
    try:
        yield seen
    finally:
        made.close()
