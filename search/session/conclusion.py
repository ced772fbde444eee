"""The results of a driver session after training: tables, checkpoints, confirmation, report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.style import Style
from rich.text import Text

from lic import atomic_io
from lic.cli import command
from search.records import results
from search.records.confirmed import ConfirmedResults, table_of
from search.records.folder import SearchFolder
from search.records.results import best_per_rate
from search.records.search_records import FAILED, SearchRecords
from search.session import summary
from search.session.monitor import start_report
from search.session.response_plot import response_plot
from search.settings.plan import plan_of
from search.store.checkpoints import Checkpoints, refusal
from search.store.find import TRIALS_FOLDER


def all_failed(records: SearchRecords) -> str | None:
    """A sentence with the first reason if every trial failed, or every baseline; else None."""
    for kind, trained in (("trial", records.trials), ("baseline", [*records.baselines.values()])):
        if trained and all(record.state == FAILED for record in trained):
            return f"all {kind}s failed; the first reason: {trained[0].reason}"
    return None


def keep_best(records: SearchRecords, checkpoints: Checkpoints, best: Path) -> list[str]:
    """Copy the last checkpoint of the selected point per quality to best/qN.pt, with an index. Returns a
    sentence for each quality without a checkpoint. A copy that an earlier session made of the same point is
    kept."""
    best.mkdir(exist_ok=True)
    listed = best / "index.json"
    try:
        earlier = json.loads(listed.read_text())
    except (OSError, ValueError):
        earlier = {}
    index, lacking = {}, []
    for quality, record in results.best_per_rate(records).items():
        target = best / f"q{quality}.pt"
        try:
            checkpoints.newest(f"{TRIALS_FOLDER}/{record.name}").copy_to(target)
        except OSError as error:
            if not target.is_file() or earlier.get(target.name, {}).get("trial") != record.name:
                target.unlink(missing_ok=True)
                lacking.append(
                    f"quality {quality} has no best checkpoint: {_cannot_copy(record.name, error)}"
                )
                continue
        index[target.name] = {"trial": record.name, "lambda": record.lmbda, "alpha": record.alpha,
                              "strategy": record.strategy or "", **dict(record.tuned), "seed": record.seed,
                              "figures": record.readings[records.epochs]}  # fmt: skip
    atomic_io.write(listed, json.dumps(index, indent=2) + "\n")
    return lacking


def _cannot_copy(name: str, error: OSError) -> str:
    if isinstance(error, FileNotFoundError) and error.errno is None:
        return str(error)  # what Checkpoints.newest says
    return f"cannot copy the checkpoint of {name} ({error})"


def conclude_confirmation(folder: Path, fresh: ConfirmedResults, test_set: str, console: Console) -> None:
    """Write and print the table of confirmed points, and the BD-rates over seeds and images."""
    atomic_io.write(folder / "tables" / "confirmation.csv", table_of(fresh.points).to_csv(index=False))
    console.print(summary.confirmation(fresh.points, test_set))
    for sentence in summary.confirmed_findings(fresh):
        console.print(sentence, markup=False)


def make_report(folder: Path) -> bool:
    """Write the report of an ended search; returns whether this succeeded."""
    with start_report(folder) as process:
        try:
            return process.wait() == 0
        except BaseException:
            process.kill()
            raise


def store_results(opened: SearchFolder, say: Callable[[str], None]) -> None:
    """Copy the results to the checkpoints' storage, if that is not the results folder."""
    place = opened.checkpoints
    try:
        place.keep(opened.path, "tables", "best", "report.html")
    except OSError as error:
        why = refusal(place.storage, error)
        say(f"tables, best checkpoints and report are only in {opened.path}, not at {place}: {why}")


def closing(
    opened: SearchFolder, records: SearchRecords, fresh: ConfirmedResults, has_report: bool, console: Console
) -> None:
    """Print the last lines of a search: the response to alpha as a plot, the result in a sentence, the report
    and the next commands. `fresh`: what the confirmation says, if there was one."""
    for text in response_plot(records, plan_of(opened.settings), console):
        console.print(text, soft_wrap=False)
    console.print(summary.verdict(records, fresh), markup=False, soft_wrap=False)
    confirm = not fresh.points and any(
        not record.point.is_baseline for record in best_per_rate(records).values()
    )
    console.print(next_steps(opened.path, has_report, confirm))


def next_steps(folder: Path, has_report: bool, confirm: bool = False) -> Text:
    """The report, as a link where the terminal has links, and the next commands; `confirm`: whether there are
    points that can be confirmed."""
    address = (folder / "report.html").resolve().as_uri()
    lacking = f"cannot write the report; see {folder / 'search.log'}"
    commands = [
        command("dashboards.open", folder),
        *([command("search.run", "--resume", folder, "--confirm", 1, "--seeds", 3)] if confirm else []),
        command("search.export", folder, "--verify"),
    ]
    return Text.assemble(
        *(("report: ", (address, Style(link=address))) if has_report else (lacking,)),
        f"\nfigures: {folder / 'figures'}" if has_report else "",
        "\nnext: ", "\n      ".join(commands),
    )  # fmt: skip
