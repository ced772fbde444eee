"""Commands that are printed can be pasted."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from lic.commands import command

ROOT = Path(__file__).resolve().parents[2]


def test_arguments_come_through_a_shell_as_they_are() -> None:
    given = ["--resume", Path("/a b/it's é/$HOME;x"), "--alpha-min", 1e-8, "*", ""]
    assert shlex.split(command("search.run", *given)) == ["python", "-m", "search.run", *map(str, given)]
    assert command("search.run", "--resume", Path("results/x")) == "python -m search.run --resume results/x"


def test_no_command_is_put_together_by_hand() -> None:
    """With a value in it, that is: `python -m x {folder}` in an f-string."""
    found = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for part in ("lic", "search", "dashboards")
        for path in (ROOT / part).rglob("*.py")
        for line in path.read_text().splitlines()
        if re.search(r"python -m [\w.]+[^\"']*\{", line)
    ]
    assert found == []
