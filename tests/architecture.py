"""Which room of the tree imports which: `python -m tests.architecture` draws it into docs/architecture.md.

The rooms are the packages of search/, with its commands as one, and the other top-level packages. An arrow is
an import anywhere in a room, inside functions too; one that follows from two others is left out.
"""

from __future__ import annotations

from pathlib import Path

import grimp

PAGE = Path(__file__).resolve().parents[1] / "docs" / "architecture.md"

#: What the drawing stands between.
BEGIN, END = "```mermaid\n", "```\n"

_COMMANDS = "search's commands"


def room(module: str) -> str:
    """The room that a module is in."""
    first, _, rest = module.partition(".")
    if first != "search" or not rest:
        return first
    inner = rest.partition(".")[0]
    return _COMMANDS if (PAGE.parents[1] / "search" / f"{inner}.py").is_file() else f"search.{inner}"


def edges() -> set[tuple[str, str]]:
    """Importing room and imported room, of all pairs."""
    graph = grimp.build_graph("lic", "search", "configs", "dashboards", cache_dir=None)
    pairs = {
        (room(module), room(other))
        for module in graph.modules
        for other in graph.find_modules_directly_imported_by(module)
    }
    return {(here, there) for here, there in pairs if here != there and "search" not in (here, there)}


def reduced(pairs: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Without those that follow from others; there are no circles."""

    def reaches(here: str, there: str, without: tuple[str, str]) -> bool:
        return any(
            b == there or reaches(b, there, without) for a, b in pairs if a == here and (a, b) != without
        )

    return {pair for pair in pairs if not reaches(*pair, without=pair)}


def drawing() -> str:
    """A Mermaid flowchart, which GitHub and most viewers of Markdown draw."""
    names = {name: f"n{number}" for number, name in enumerate(sorted({n for pair in edges() for n in pair}))}
    lines = [f'    {key}["{name}"]' for name, key in names.items()]
    lines += [f"    {names[here]} --> {names[there]}" for here, there in sorted(reduced(edges()))]
    return "\n".join(["flowchart TD", *lines]) + "\n"


def page() -> str:
    """The page with the drawing as it is now."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    return f"{before}{BEGIN}{drawing()}{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"drew {len(reduced(edges()))} arrows into {PAGE}")
