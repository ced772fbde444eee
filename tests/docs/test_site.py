"""The documentation as a site: built without a warning and without a network, its links lead somewhere."""

from __future__ import annotations

import html
import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from search.__main__ import COMMANDS
from search.settings.config import Settings

ROOT = Path(__file__).resolve().parents[2]

#: Nothing listens there.
_NOBODY = "http://127.0.0.1:9"


class Page(HTMLParser):
    """What a page links to, what it loads, and its anchors."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {key: value or "" for key, value in attrs}
        self.anchors |= {found[key] for key in ("id", "name") if key in found}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag in ("img", "script") and "src" in found:
            self.loads.append(found["src"])
        if tag == "link" and found.get("rel") in ("stylesheet", "icon"):
            self.loads.append(found["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "site"
    nowhere = {key: _NOBODY for name in ("http_proxy", "https_proxy") for key in (name, name.upper())}
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT, env={**os.environ, **nowhere}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path.read_text()) for path in site.rglob("*.html")}


def text_of(site: Path, name: str) -> str:
    return html.unescape((site / name).read_text())


def test_every_link_of_the_site_leads_somewhere(site: Path, pages: dict[Path, Page]) -> None:
    for path, page in pages.items():
        if path.name == "404.html":  # its links are those of a site at the root of a server
            continue
        for link in page.links + page.loads:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.is_file(), f"{path.relative_to(site)} links to {link}"
            if parts.fragment and target.suffix == ".html":
                anchors = pages[target].anchors
                assert unquote(parts.fragment) in anchors, f"{path.relative_to(site)} links to {link}"


def test_a_page_loads_nothing_from_elsewhere(pages: dict[Path, Page]) -> None:
    """But for Mermaid, which the theme's script fetches where a diagram is to be drawn."""
    assert {load for page in pages.values() for load in page.loads if urlsplit(load).scheme} == set()


def test_the_reference_names_every_command_and_setting(site: Path) -> None:
    commands, settings = (
        text_of(site, "reference/command-line.html"),
        text_of(site, "reference/settings.html"),
    )
    for command in COMMANDS:
        assert f'id="lictune-{command}"' in commands
    for setting in Settings.model_fields:
        assert f"--{setting.replace('_', '-')}" in commands
        assert f"<code>{setting}</code>" in settings
    for name in ("presets", "settings", "command-line", "metrics"):
        assert "generated:" not in text_of(site, f"reference/{name}.html")


def test_the_reference_has_the_python_api(pages: dict[Path, Page], site: Path) -> None:
    wanted = {f"search.{name}" for name in ("tune", "resume", "load", "Search", "Simulation", "SearchError")}
    wanted |= {"search.Search.best", "search.Search.table", "search.Search.export", "lic.zoo.load"}
    wanted |= {"search.settings.config.Settings", "lic.codec.bitstream.encode"}
    assert wanted <= pages[site / "reference" / "api.html"].anchors


def test_the_tutorial_is_a_page(site: Path, pages: dict[Path, Page]) -> None:
    text = text_of(site, "tutorial.html")
    assert "bits per pixel instead of 24" in text
    assert "Traceback" not in text
    assert sum("tutorial-" in load for load in pages[site / "tutorial.html"].loads) == 2
