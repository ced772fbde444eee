"""Nothing is too long to be read at once; an exception has its reason beside it, as `# size: REASON`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

#: Lines of a file, lines of a function with its docstring, and parameters without self and cls.
FILE, FUNCTION, PARAMETERS = 450, 60, 7

FILES = sorted(
    path
    for room in ("lic", "search", "dashboards", "configs", "tests")
    for path in (ROOT / room).rglob("*.py")
)

_EXCEPTION = "# size: "


def too_long(source: str, name: str = "") -> Iterator[str]:
    """What is too long in a file, a sentence each."""
    lines = source.splitlines()
    if len(lines) > FILE and _EXCEPTION not in lines[0]:
        yield f"{name} has {len(lines)} lines"
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        head = lines[node.lineno - 1 : node.body[0].lineno]  # of which a line may hold the exception
        if any(_EXCEPTION in line for line in head):
            continue
        length = (node.end_lineno or node.lineno) - node.lineno + 1
        if length > FUNCTION:
            yield f"{name}:{node.lineno} {node.name} has {length} lines"
        taken = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        count = len([argument for argument in taken if argument.arg not in ("self", "cls")])
        if count > PARAMETERS:
            yield f"{name}:{node.lineno} {node.name} has {count} parameters"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_it_can_be_read_at_once(path: Path) -> None:
    assert not list(too_long(path.read_text(), str(path.relative_to(ROOT))))


def test_what_is_too_long_is_found() -> None:
    body = "\n".join("    pass" for _ in range(FUNCTION))
    assert list(too_long(f"def f():\n{body}\n")) == [":1 f has 61 lines"]
    assert not list(too_long(f"def f():  # size: a table\n{body}\n"))
    eight = ", ".join("abcdefgh")
    assert list(too_long(f"class A:\n    def f(self, {eight}): ...\n")) == [":2 f has 8 parameters"]
    assert list(too_long(f"def f(*, {eight}): ...\n")) == [":1 f has 8 parameters"]
    assert not list(too_long("def f(a, *args, **kwargs): ...\n"))
    assert list(too_long("x = 1\n" * 451)) == [" has 451 lines"]
