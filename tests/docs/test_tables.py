"""The reference of the tables and metrics names all that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from lic.evaluation.bdrate import Interval
from search.base.space import SearchPoint
from search.records.confirmed import Confirmed, table_of
from search.records.folder import open_search
from search.records.results import best_so_far, parent_figures, strategy_results, write_tables
from search.tracking.views import final_figure

REFERENCE = Path(__file__).resolve().parents[2] / "docs" / "reference"

#: The folder of a real search.
BEFORE = Path(__file__).resolve().parents[1] / "search" / "records" / "before"


def first_column(text: str) -> list[str]:
    """The names in backticks in the first cells of the tables of a page."""
    cells = re.findall(r"^\| (`[^|]*) \|", text, re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def documented(table: str, **stands_for: str) -> list[str]:
    """The columns that the reference gives a table."""
    text = (REFERENCE / "tables.md").read_text()
    section = text.partition(f"\n## {table}\n")[2].partition("\n## ")[0]
    for word, name in stands_for.items():
        section = section.replace(f"`{word}/", f"`{name}/")
    return first_column(section)


def test_every_table_of_a_search_is_described(tmp_path: Path) -> None:
    found = open_search(str(BEFORE), BEFORE.parent)
    write_tables(found.records, strategy_results(found.records, found.plan.strategies), tmp_path)
    tables = {path.stem: pd.read_csv(path) for path in tmp_path.glob("*.csv")}
    assert set(tables) == {"rates", "strategies", "trials"}
    for name, table in tables.items():
        assert sorted(
            documented(name, SET=found.records.test_set, SELECTION=found.records.selection)
        ) == sorted(table.columns), name


def test_the_confirmation_is_described() -> None:
    row = Confirmed(SearchPoint(1, "y", 1e-7), "trial-001", 3, Interval(-1.0, -2.0, 0.0))
    assert documented("confirmation") == list(table_of([row]).columns)


def test_every_metric_is_described() -> None:
    found = open_search(str(BEFORE), BEFORE.parent)
    records, strategies = found.records, found.plan.strategies
    names = {final_figure(records.selection)}
    for record in records.everything():
        for epoch, metrics in record.readings.items():
            names |= {*metrics, *records.derived(record, epoch)}
    names |= set(parent_figures(strategy_results(records, strategies, intervals=False), records.test_set))
    names |= set(best_so_far(records, records.finished(), strategies))
    assert len(names) > 20
    known = "|".join(map(pattern, first_column((REFERENCE / "metrics.md").read_text())))
    assert {name for name in names if not re.fullmatch(known, name)} == set()


def pattern(name: str) -> str:
    """The names that a name of the reference stands for."""
    text = re.escape(name)
    for word, names in {
        "STRATEGY": "(y|z|y_z|best)", "SELECTION": "(val|kodak)", "SET": "(val|deadleaves)", "qN": "q[1-6]",
    }.items():  # fmt: skip
        text = text.replace(word, names)
    return text
