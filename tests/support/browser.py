"""Debian's chromium for tests, pictures and benchmarks, with a fresh profile for every page."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium")

#: Why no browser can be had; empty if one can.
MISSING = (
    "there is no chromium; apt-get install chromium"
    if CHROMIUM is None
    else "" if find_spec("playwright") else "playwright is not installed; it is in the extra dev"
)  # fmt: skip

_LOCAL = ("file:", "data:", "blob:")


@dataclass
class Seen:
    """What a page complained about, and what it asked of the network."""

    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser; run as root, it has to do without its sandbox."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


def fresh_page(browser: Browser, width: int = 2800, height: int = 1200) -> tuple[Page, Seen]:
    """A page in a profile of its own, wide enough for every column, and what is seen of it: errors, and
    requests that are not for a file."""
    page, seen = browser.new_context(viewport={"width": width, "height": height}).new_page(), Seen()
    page.set_default_timeout(60_000)  # milliseconds; the machine may be at work besides
    page.on("pageerror", lambda error: seen.errors.append(str(error)))
    page.on("console", lambda said: seen.errors.append(said.text) if said.type == "error" else None)
    page.on("request", lambda sent: None if sent.url.startswith(_LOCAL) else seen.requests.append(sent.url))
    return page, seen
