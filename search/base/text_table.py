"""Text tables that never truncate a cell: if the terminal is too narrow for all columns, the rest follow in a
second table below, with the name columns repeated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

#: Width when output is not a terminal, in characters: wider than any table.
_UNBOUNDED = 100_000

#: Characters that an ASCII terminal lacks.
_ASCII = str.maketrans({"±": "+-"})


def text_console() -> Console:
    """A console on standard output for tables and lines: as wide as the terminal; unbounded if redirected."""
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = _UNBOUNDED
    return console


@dataclass(frozen=True)
class TextTable:
    """A table for rich's Console.print, or for Markdown. The first `names` columns identify the rows."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    names: int = 1

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.title:
            yield Text(self.title, "italic", no_wrap=False, overflow="fold")
        if not self.rows:
            yield Text("no results yet\n")
            return
        # Rendered at full width: if a single column is too wide, the terminal wraps the lines.
        unbounded = options.update(width=_UNBOUNDED)
        columns = list(range(len(self.head)))
        while columns:
            shown, columns = self._next_part(columns, console, unbounded, options.max_width)
            yield from console.render(self._table(shown, unbounded.ascii_only), unbounded)
            yield Text()
            columns = columns and [*range(self.names), *columns]

    def _next_part(
        self, columns: list[int], console: Console, unbounded: ConsoleOptions, width: int
    ) -> tuple[list[int], list[int]]:
        """The columns that fit (at least one beside the name columns), and the remaining columns."""
        count = min(self.names + 1, len(columns))
        while count < len(columns):
            table = self._table(columns[: count + 1], unbounded.ascii_only)
            if Measurement.get(console, unbounded, table).maximum > width:
                break
            count += 1
        return columns[:count], columns[count:]

    def _table(self, columns: Sequence[int], ascii_only: bool) -> Table:
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
        for column in columns:
            justify: Literal["left", "right"] = "left" if column < self.names else "right"
            table.add_column(Text(self.head[column]), justify=justify, no_wrap=True)
        for row in self.rows:
            cells = (row[column] for column in columns)
            table.add_row(*(Text(cell.translate(_ASCII) if ascii_only else cell) for cell in cells))
        return table

    def markdown(self) -> str:
        """The table as Markdown, with its title as a heading."""
        lines = [self.head, ["---"] * len(self.head), *self.rows]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines) if self.rows else "No results yet."
        return f"### {self.title}\n\n{table}" if self.title else table
