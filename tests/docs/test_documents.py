"""The documents: what they link to is there, and the README stays a page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PAGES = sorted(
    path
    for path in [
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("docs/how-to/*.md"),
        *ROOT.glob("docs/reference/*.md"),
        *ROOT.glob("docker/*.md"),
        *ROOT.glob("lic/*/*.md"),
    ]
)

_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    words = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in _HEADING.findall(page.read_text()))
    return {text.strip().replace(" ", "-") for text in words}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in _LINK.findall(page.read_text()):
        if link.startswith(("http://", "https://")):
            continue
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        assert target.exists(), f"{page.name} links to {link}"
        assert not anchor or anchor in anchors(target), f"{page.name} links to {link}"


def test_every_command_of_the_documents_is_one() -> None:
    """`python -m MODULE` and `make TARGET` name what is there."""
    made = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        text = page.read_text()
        for module in set(re.findall(r"python3? -m ((?:search|lic|dashboards|tests)\b[a-z_.]*)", text)):
            path = ROOT / module.replace(".", "/")
            assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), (page.name, module)
        for target in set(re.findall(r"(?:`|^    )make ([a-z-]+)", text, re.MULTILINE)):
            assert target in made, (page.name, target)


def test_the_readme_is_a_page() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= 700
