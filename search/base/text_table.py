"""Tables of text in which no figure is ever cut: in a terminal that is too narrow for all columns, the others
follow below, beside the columns that name the rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

#: The width of what is not a terminal, in characters: more than any table has.
_UNBOUNDED = 100_000

#: What an encoding without box characters may lack too.
_ASCII = str.maketrans({"±": "+-"})


def text_console() -> Console:
    """Standard output for tables and lines: as wide as the terminal, or, redirected, as wide as they are."""
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = _UNBOUNDED
    return console


@dataclass(frozen=True)
class TextTable:
    """A table for rich's Console.print, or as Markdown; its first `names` columns name the rows."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    names: int = 1

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.title:
            yield Text(self.title, "italic", no_wrap=False, overflow="fold")
        if not self.rows:
            yield Text("nothing yet\n")
            return
        # Rendered as wide as it is: where one column alone is too wide for it, the terminal wraps the lines.
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
        """As many of the columns as fit, at least one beside the names, and those that are left."""
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
        """The table as Markdown, below its title."""
        lines = [self.head, ["---"] * len(self.head), *self.rows]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines) if self.rows else "Nothing yet."
        return f"### {self.title}\n\n{table}" if self.title else table
