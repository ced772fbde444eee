"""The Python API: `search.tune`, `search.resume`, `search.load` and `search.Simulation`.

A search runs `python -m search.run` in a separate process. So it works in a notebook, under pytest and in a
thread, handles Ctrl-C like the command, and leaves no process behind.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
import yaml

from lic.cli import INTERRUPTED
from lic.errors import LictuneError
from lic.evaluation.bdrate import CurveError, Interval
from lic.models.architectures import STRATEGIES, architecture
from lic.recipe import LAMBDAS
from search.base.space import ALPHA_MAX, ALPHA_MIN, Plan, rungs
from search.records.folder import OpenedSearch, open_search
from search.records.results import (
    OVERALL,
    best_per_rate,
    rate_table,
    strategy_results,
    strategy_table,
    trial_table,
)
from search.records.search_records import TrialRecord

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from search.simulation.simulator import Outcome

_PACKAGE = Path(__file__).resolve().parents[2]

#: Seconds that an interrupted search gets to save its epochs and end.
_GRACE = 40.0


class SearchError(LictuneError):
    """A search ended without a result; the message is that of the command."""


class SearchInterruptedError(SearchError):
    """A search was interrupted; continue it with `search.resume`."""


@dataclass(frozen=True)
class Search:
    """An opened search: finished, running or interrupted."""

    opened: OpenedSearch

    @property
    def folder(self) -> Path:
        """Its folder."""
        return self.opened.folder

    @cached_property
    def best(self) -> dict[int, TrialRecord]:
        """The selected training run per quality, with `alpha` (0: the baseline), `strategy` and `lmbda`."""
        return best_per_rate(self.opened.records)

    def table(self, name: Literal["rates", "strategies", "trials"] = "rates") -> pd.DataFrame:
        """A table of the results folder: the selected points per quality ('rates'), Bjontegaard deltas per
        strategy ('strategies'), or all training runs ('trials'). Raises ValueError for another name."""
        if name == "rates":
            return rate_table(self.opened.records)
        if name == "strategies":
            return strategy_table(self._strategies)
        if name == "trials":
            return trial_table(self.opened.records)
        raise ValueError(f"unknown table {name!r}; choose rates, strategies or trials")

    def bd_rate(self, strategy: str = OVERALL, metric: Literal["psnr", "msssim"] = "psnr") -> Interval:
        """The BD-rate in percent (negative saves bits) of a strategy's best points against the baselines,
        with its 95 % interval over images. Raises CurveError, with the reason, if it is undefined."""
        for result in self._strategies:
            if result.strategy == strategy:
                figure: Interval | None = getattr(result, f"bd_rate_{metric}")
                if figure is None:
                    raise CurveError(result.refused or f"{strategy} has no trial that was trained in full")
                return figure
        known = ", ".join(result.strategy for result in self._strategies)
        raise ValueError(f"unknown strategy {strategy!r}; choose from {known}")

    @cached_property
    def _strategies(self) -> list[Any]:
        return strategy_results(self.opened.records, self.opened.plan.strategies)

    def plot(self, name: Literal["rd"] = "rd") -> Figure:
        """The rate-distortion curves, as a figure of matplotlib. Raises ValueError for another name."""
        from search.records.figures import rd_plot

        if name != "rd":
            raise ValueError(f"unknown plot {name!r}; choose rd")
        _show_figures_in_notebooks()
        return rd_plot(self.opened.records, self.opened.plan.strategies)

    def export(self, out: Path | str = "zoo", **options: Any) -> Path:
        """Export the best model per quality as a zoo, with the options of `search.export` (`verify=True`,
        `overwrite=True`, ...); returns the zoo's folder. Raises SearchError."""
        _run("search.export", [str(self.folder.resolve()), "--out", str(out), *_options(options)])
        return Path(out) / architecture(self.opened.settings.model)


def load(name: str = "last", results: Path | str = "results") -> Search:
    """Open a search by its name in the results folder, by its folder, or the newest ('last'). Raises
    FolderError."""
    return Search(open_search(str(name), Path(results)))


def tune(*, verbose: bool = False, **settings: Any) -> Search:
    """Search, and open what was found. `settings` are those of `python -m search.run` (`model="cheng"`,
    `budget=64`, `data="photos"`, ...); what is not given comes from the environment and the preset.

    `verbose` lets the search print what it prints. Raises SearchError with the command's sentence, and
    SearchInterruptedError if it was interrupted; KeyboardInterrupt ends the search in time and is raised on.
    """
    name = settings.pop("name", None) or _new_name(str(settings.get("model", "cheng")))
    results = settings.get("results", "results")
    with tempfile.TemporaryDirectory(prefix="lictune-") as folder:
        file = Path(folder) / "settings.yaml"
        file.write_text(yaml.safe_dump({key: _plain(value) for key, value in settings.items()}))
        _run("search.run", ["--config", str(file), "--name", name], verbose)
    return load(name, results)


def resume(name: str = "last", *, results: Path | str = "results", verbose: bool = False) -> Search:
    """Go on with a search, and open what was found. Raises as `tune` does."""
    _run("search.run", ["--resume", str(name), "--results", str(results)], verbose)
    return load(name, results)


def _run(module: str, arguments: Sequence[str], verbose: bool = False) -> None:
    """Run a command to its end, in a process group of its own: a terminal's Ctrl-C comes to it by us."""
    command = [sys.executable, "-m", module, *arguments]
    path = os.pathsep.join(filter(None, [str(_PACKAGE), os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryFile("w+") as complaints:
        process = subprocess.Popen(
            command, env={**os.environ, "PYTHONPATH": path}, stdin=subprocess.DEVNULL,
            stdout=None if verbose else subprocess.DEVNULL, stderr=complaints, start_new_session=True,
        )  # fmt: skip
        try:
            status = process.wait()
        finally:
            if process.poll() is None:
                _end(process)
        if status:
            complaints.seek(0)
            kind = SearchInterruptedError if status == INTERRUPTED else SearchError
            raise kind(_last_sentence(complaints.read()) or f"the search ended with status {status}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Interrupt a command and wait until it has saved its epochs; a second interrupt kills it at once."""
    try:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _last_sentence(text: str) -> str:
    lines = [line for line in text.splitlines() if line.startswith("lictune: ")] or text.splitlines()[-1:]
    return lines[-1].removeprefix("lictune: ") if lines else ""


def _show_figures_in_notebooks() -> None:
    """Have a notebook draw a figure that a cell returns, as it does once pyplot has drawn one."""
    if "IPython" in sys.modules:
        from IPython.core.getipython import get_ipython
        from IPython.core.pylabtools import select_figure_formats

        if (shell := get_ipython()) is not None:
            select_figure_formats(shell, {"png"})


def _options(options: Mapping[str, Any]) -> list[str]:
    """Keyword arguments as command-line options."""
    found = []
    for key, value in options.items():
        option = f"--{key.replace('_', '-')}"
        if value is True:
            found.append(option)
        elif value not in (False, None):
            found += [option, str(value)]
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else value


def _new_name(model: str) -> str:
    return f"{model.replace(':', '.')}-{datetime.datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


@dataclass(frozen=True)
class Simulation:
    """The search's decisions on a simulated clock. `curve(alpha, strategy, lmbda, epoch, seed)` gives the
    rate change in percent of a trial after an epoch; negative saves bits. `lambdas` are those of the
    qualities 1, 2, ..., of which all are searched, or those in `qualities`."""

    curve: Callable[[float, str, float, int, int], float]
    budget: int = 64
    workers: int = 2
    epochs: int = 9
    grace: int = 1
    eta: int = 3
    stopping: bool = True
    sampler: str = "surrogate"
    seed: int = 0
    qualities: tuple[int, ...] = ()
    strategies: tuple[str, ...] = STRATEGIES
    lambdas: tuple[float, ...] = tuple(LAMBDAS.values())

    def run(self) -> Outcome:
        """Simulate it to its end. Raises SurfaceError if the curve fails or gives no finite number."""
        from search.simulation.simulator import SELECTION, simulate

        steps = rungs(self.epochs, self.grace, self.eta) if self.stopping else ()
        plan = Plan(
            self.qualities or tuple(range(1, len(self.lambdas) + 1)), self.strategies, ALPHA_MIN, ALPHA_MAX,
            self.epochs, steps, self.eta, self.budget, self.seed, self.sampler, SELECTION,
            lambdas=self.lambdas,
        )  # fmt: skip
        return simulate(self.curve, plan, self.workers)
