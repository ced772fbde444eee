"""Progress output of a running search: a live table in a terminal, plain lines otherwise."""

from __future__ import annotations

from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from lic.cli import output_is_gone
from search.base.dimensions import shown_values
from search.base.formats import MISSING, fixed, percent, weight
from search.base.space import BASELINE
from search.base.text_table import TextTable
from search.records.progress import Progress
from search.records.results import best_per_rate
from search.records.search_records import FAILED, FINISHED, RUNNING, STOPPED, SearchRecords, TrialRecord


class View(Protocol):
    """Shows the progress of a search, and messages."""

    def show(self, progress: Progress) -> None:
        """Show the current progress."""

    def say(self, text: str) -> None:
        """Print one line of text."""

    def close(self) -> None:
        """Stop showing progress."""


class PlainView:
    """Prints one line per ended training run."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def show(self, progress: Progress) -> None:
        before = progress.over - len(progress.news)
        for count, record in enumerate(progress.news, before + 1):
            shown = line(progress.group(record), record)
            self.say(f"[{count:>3}/{progress.planned}] {shown} {_left(progress)}")

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)

    def close(self) -> None:
        pass


class LiveView(PlainView):
    """A table that is updated in place, one row per quality."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._live = Live(console=console, refresh_per_second=2, transient=True)
        self._live.start()

    def show(self, progress: Progress) -> None:
        if output_is_gone():  # plain lines go to the log file
            self._live.stop()
            super().show(progress)
        else:
            self._live.update(Group(_headline(progress), _table(progress)))

    def close(self) -> None:
        self._live.stop()


def view_for(console: Console) -> View:
    """The live view if the console is a terminal."""
    return LiveView(console) if console.is_terminal else PlainView(console)


def line(records: SearchRecords, record: TrialRecord) -> str:
    """One line for an ended training run: its point, its result, and how it ended."""
    term = f"{record.strategy:<3} alpha {weight(record.alpha)}" if record.alpha else ""
    what = (
        BASELINE if record.role == BASELINE else ", ".join(filter(None, (term, shown_values(record.tuned))))
    )
    if record.role == BASELINE:
        figures = record.readings.get(record.last_epoch, {})
        bpp, psnr = (figures.get(f"{records.test_set}/{name}") for name in ("bpp", "psnr"))
        result = MISSING if bpp is None else f"{fixed(bpp, 3)} bpp, {fixed(psnr, 2)} dB"
    else:
        result = percent(records.rate_change(record, record.last_epoch, records.selection))
    state = record.state
    if state != FINISHED:
        state += f" after {record.last_epoch} of {records.epochs}"
    if record.reason:
        state += f": {record.reason}"
    return f"{record.name:<12} q{record.quality} {what:<20} {result:<22} {state:<22}"


def _headline(progress: Progress) -> Text:
    count = {s: sum(r.state == s for r in progress.trainings) for s in (RUNNING, STOPPED, FAILED)}
    measured = speed(progress.pace) if progress.pace else "measuring speed"
    parts = [
        f"{progress.over} of {progress.planned} training runs ended",
        f"{count[RUNNING]} running, {count[STOPPED]} stopped early, {count[FAILED]} failed",
        measured, f"{duration(progress.elapsed)} elapsed", _left(progress),
    ]  # fmt: skip
    text = Text(f"{progress.search.name}: " + "; ".join(part for part in parts if part))
    return text.append(f"\nMLflow: {progress.trouble}") if progress.trouble else text


def _table(progress: Progress) -> TextTable:
    """One row per quality, most important columns first: a narrow terminal shows the others below."""
    head = ("quality", "baseline epoch", "best rate change", "point", "running", "trials that reached epoch",
            "stopped", "failed", "finished")  # fmt: skip
    records, kept, rows = progress.search, best_per_rate(progress.search), []
    for quality in records.qualities:
        trials = [trial for trial in records.trials if trial.quality == quality]
        best, at = MISSING, ""
        if quality in kept:
            record = kept[quality]
            change = records.rate_change(record, records.epochs, records.selection)
            best, at = percent(change) if not record.point.is_baseline else MISSING, _point(record)
        baseline = records.baselines.get(quality)
        epoch = MISSING if baseline is None else f"{baseline.last_epoch} of {records.epochs}"
        failed = baseline is not None and baseline.state == FAILED
        reached = "  ".join(
            f"{rung}: {sum(trial.last_epoch >= rung for trial in trials)}" for rung in progress.rungs
        )
        running, *over = (
            str(sum(t.state == s for t in trials)) for s in (RUNNING, STOPPED, FAILED, FINISHED)
        )
        rows.append((str(quality), "failed" if failed else epoch, best, at, running, reached, *over))
    return TextTable("", head, rows)


def _point(record: TrialRecord) -> str:
    if record.point.is_baseline:
        return "baseline"
    term = f"{record.strategy} {weight(record.alpha)}" if record.alpha else ""
    return f"{', '.join(filter(None, (term, shown_values(record.tuned))))} ({record.name})"


def _left(progress: Progress) -> str:
    return "" if progress.left is None else f"{duration(progress.left)} left"


def duration(seconds: float) -> str:
    """A duration in readable units: '45 s', '12 min', '3 h 20 min'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def speed(pace: float) -> str:
    """Epochs per second in readable units: '2.5 epochs/s', '1.2 epochs/h'."""
    seconds, unit = next(((s, u) for s, u in ((1, "s"), (60, "min")) if pace * s >= 1), (3600, "h"))
    return f"{pace * seconds:.1f} epochs/{unit}"
