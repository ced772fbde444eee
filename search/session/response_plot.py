"""The response of the rate change to alpha as a plot of characters, for the end of a search in a terminal."""

from __future__ import annotations

import math
import string

from rich.console import Console
from rich.text import Text

from search.base.space import Plan
from search.records.response import CEILING, axis_floor, last_change
from search.records.search_records import SearchRecords, TrialRecord

#: Size of the plot in characters: its greatest width, the least (no plot in a narrower terminal), its height.
_WIDEST, _NARROWEST, _HEIGHT = 78, 40, 16

#: Colours of the strategies, by names that both plotext and rich know.
_COLOURS = {"y": "blue", "z": "magenta", "y+z": "green"}

#: One mark per quality; qualities beyond them (there are at most 99) share them.
_MARKS = string.digits[1:] + string.ascii_letters

#: Plain characters for the lines that plotext draws.
_PLAIN = str.maketrans("─│┌┐└┘├┤┬┴┼", "-|+++++++++")

#: Blank share of the range of log alpha on either side.
_EDGE = 0.03


def response_plot(records: SearchRecords, plan: Plan, console: Console) -> list[Text]:
    """The rate change of every trial over alpha on a logarithmic axis, after the trial's last epoch: its mark
    is its quality, its colour its strategy. Returns a line that explains the plot, and the plot; nothing if
    there is no trial to draw, or the terminal is too narrow. Plain characters only, where the output is no
    terminal or colours are not wanted (NO_COLOR)."""
    changes = [(trial, last_change(records, trial)) for trial in records.trials if trial.alpha]
    drawn = [(trial, change) for trial, change in changes if change is not None]
    width = min(console.width, _WIDEST)
    if not drawn or width < _NARROWEST:
        return []
    coloured = console.is_terminal and not console.no_color and not console.options.ascii_only
    lines = Text.from_ansi(_built(drawn, (axis_floor(records), CEILING), plan, width))
    lines.rstrip()
    key = _key(drawn, plan, coloured)
    return [key, lines] if coloured else [Text(text.plain.translate(_PLAIN)) for text in (key, lines)]


def _built(
    drawn: list[tuple[TrialRecord, float]], limits: tuple[float, float], plan: Plan, width: int
) -> str:
    """The plot as plotext builds it, with escape sequences for its colours."""
    import plotext  # only at the end of a search
    from matplotlib.ticker import MaxNLocator

    low, high = math.log10(plan.alpha_min), math.log10(plan.alpha_max)
    plotext.clear_figure()
    plotext.theme("clear")
    plotext.limit_size(False, False)
    plotext.plotsize(width, _HEIGHT)
    plotext.hline(0)
    for trial, change in drawn:
        plotext.scatter(
            [math.log10(trial.alpha)], [min(max(change, limits[0]), limits[1])],
            marker=_mark(trial.quality), color=_COLOURS[trial.strategy_name],
        )  # fmt: skip
    decades = range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1)
    plotext.xticks(list(decades), [f"1e{decade}" for decade in decades])
    plotext.xlim(low - _EDGE * (high - low), high + _EDGE * (high - low))
    ticks = [
        tick for tick in MaxNLocator(_HEIGHT // 3).tick_values(*limits) if limits[0] <= tick <= limits[1]
    ]
    plotext.yticks(ticks, [f"{tick:+g}" if tick else "0" for tick in ticks])
    plotext.ylim(*limits)
    built: str = plotext.build()
    plotext.clear_figure()
    return built


def _mark(quality: int) -> str:
    return _MARKS[(quality - 1) % len(_MARKS)]


def _key(drawn: list[tuple[TrialRecord, float]], plan: Plan, coloured: bool) -> Text:
    """What the marks and colours mean, and how many trials lie above the plot."""
    letters = ", ".join(f"{_mark(q)} = {q}" for q in plan.qualities if _mark(q) != str(q))
    key = Text(
        f"Rate change of the trials in percent, over alpha; marks: quality{letters and f' ({letters})'}"
    )
    if coloured:
        names = Text(", ").join(Text(name, _COLOURS[name]) for name in plan.strategies)
        key.append("; colours: ").append_text(names)
    above = sum(change > CEILING for _, change in drawn)
    return key.append(f"; {above} of {len(drawn)} above +{CEILING:g} %, drawn at the edge") if above else key
