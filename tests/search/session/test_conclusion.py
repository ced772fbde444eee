"""What is left of a driver session: best checkpoints, tables, and the next commands."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from lic import atomic_io
from search.decide.belief import Prediction
from search.records.confirmed import ConfirmedResults, confirmed_results
from search.records.folder import SearchFolder
from search.records.search_records import FAILED, FINISHED
from search.session import conclusion
from search.session.conclusion import (
    all_failed,
    closing,
    conclude_confirmation,
    keep_best,
    make_report,
    next_steps,
    store_results,
)
from search.settings.config import resolve
from search.store.checkpoints import Checkpoints
from tests.search.records.test_results import record
from tests.search.records.test_results import search as searched


def test_a_kept_trial_without_a_checkpoint_costs_its_rate_only(tmp_path: Path) -> None:
    gains = [record(f"trial-{quality:03d}", quality, -5.0) for quality in range(1, 7)]
    records, place, best = searched(*gains), Checkpoints(str(tmp_path)), tmp_path / "best"
    for trial in gains:
        with place.saving(f"trials/{trial.name}", 9) as path:
            atomic_io.write(path, trial.name)
    shutil.rmtree(tmp_path / "trials" / "trial-002")

    assert keep_best(records, place, best) == [
        f"quality 2 has no best checkpoint: trial-002 has no checkpoint below {tmp_path}/trials"
    ]
    index = json.loads((best / "index.json").read_text())
    assert sorted(index) == [f"q{quality}.pt" for quality in (1, 3, 4, 5, 6)]
    assert sorted(path.name for path in best.iterdir()) == ["index.json", *sorted(index)]
    assert all((best / name).read_text() == entry["trial"] for name, entry in index.items())

    # What was kept before is of the same point at one rate, and of another at the other.
    shutil.rmtree(tmp_path / "trials" / "trial-003")
    shutil.rmtree(tmp_path / "trials" / "trial-004")
    index["q4.pt"]["trial"] = "trial-999"
    (best / "index.json").write_text(json.dumps(index))
    told = keep_best(records, place, best)
    assert [sentence.partition(" has no best")[0] for sentence in told] == ["quality 2", "quality 4"]
    assert sorted(json.loads((best / "index.json").read_text())) == ["q1.pt", "q3.pt", "q5.pt", "q6.pt"]
    assert (best / "q3.pt").read_text() == "trial-003" and not (best / "q4.pt").exists()


def test_a_search_of_which_everything_failed_says_the_first_reason() -> None:
    failed = [replace(record(f"trial-00{n}", 1, 0.0, "y", FAILED), reason=f"reason {n}") for n in range(2)]
    assert all_failed(searched(*failed)) == "all trials failed; the first reason: reason 0"
    assert all_failed(searched(failed[0], record("trial-002", 1, 0.0, "y", FINISHED))) is None
    assert all_failed(searched()) is None
    without = searched()
    baselines = {q: replace(b, state=FAILED, reason="NaN") for q, b in without.baselines.items()}
    assert all_failed(replace(without, baselines=baselines)) == "all baselines failed; the first reason: NaN"


def test_the_best_of_a_rate_may_be_its_baseline(tmp_path: Path) -> None:
    records, place = searched(record("trial-000", 1, +5.0, "y")), Checkpoints(str(tmp_path))
    with place.saving("trials/baseline-q1", 9) as path:
        atomic_io.write(path, "baseline")
    told = keep_best(replace(records, baselines={1: records.baselines[1]}), place, tmp_path / "best")
    index = json.loads((tmp_path / "best" / "index.json").read_text())
    assert told == [] and (tmp_path / "best" / "q1.pt").read_text() == "baseline"
    entry = index["q1.pt"]
    assert (entry["trial"], entry["alpha"], entry["strategy"]) == ("baseline-q1", 0.0, "")
    assert entry["figures"] == records.baselines[1].readings[9]


def test_an_index_that_cannot_be_read_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "index.json").write_text("{")
    (tmp_path / "best" / "q1.pt").write_text("of an unknown trial")
    records = searched()
    told = keep_best(
        replace(records, baselines={1: records.baselines[1]}), Checkpoints(str(tmp_path)), tmp_path / "best"
    )
    assert len(told) == 1 and not (tmp_path / "best" / "q1.pt").exists()
    assert json.loads((tmp_path / "best" / "index.json").read_text()) == {}


def test_a_confirmation_without_results_leaves_an_empty_table(tmp_path: Path) -> None:
    from tests.search.records.test_confirmed import repetitions

    (tmp_path / "tables").mkdir()
    fresh = confirmed_results(repetitions(), searched())
    conclude_confirmation(tmp_path, fresh, "kodak", Console(quiet=True))
    assert (tmp_path / "tables" / "confirmation.csv").read_text().strip() == ""


def test_confirmed_points_are_written_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.search.records.test_confirmed import repetitions

    (tmp_path / "tables").mkdir()
    complete = [f"{name}-s{seed}" for name in ("trial-001", "baseline-q1") for seed in (5, 6)]
    fresh = confirmed_results(repetitions(*complete), searched())
    conclude_confirmation(tmp_path, fresh, "kodak", Console(width=200))
    table = pd.read_csv(tmp_path / "tables" / "confirmation.csv")
    assert table[["quality", "trial", "seeds"]].to_numpy().tolist() == [[1, "trial-001", 2]]
    assert "no seed has all points of the curve" in capsys.readouterr().out


@pytest.mark.parametrize(("status", "succeeded"), [("true", True), ("false", False)])
def test_a_report_succeeds_with_its_process(
    status: str, succeeded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.executable", shutil.which(status))
    assert make_report(tmp_path) is succeeded


def test_an_interrupted_report_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[bool] = []

    class Process:
        def __enter__(self) -> Process:
            return self

        def __exit__(self, *_: object) -> None:
            assert killed

        def wait(self) -> int:
            raise KeyboardInterrupt

        def kill(self) -> None:
            killed.append(True)

    monkeypatch.setattr(conclusion, "start_report", lambda _: Process())
    with pytest.raises(KeyboardInterrupt):
        make_report(tmp_path)


def opened(folder: Path, place: Any) -> Any:
    return SimpleNamespace(path=folder, checkpoints=place)


def test_results_are_kept_beside_the_checkpoints(tmp_path: Path) -> None:
    folder, said = tmp_path / "mine", list[str]()
    (folder / "tables").mkdir(parents=True)
    (folder / "tables" / "rates.csv").write_text("quality")
    (folder / "report.html").write_text("<html>")
    store_results(opened(folder, Checkpoints(str(tmp_path / "storage"), "mine")), said.append)
    assert (tmp_path / "storage" / "mine" / "tables" / "rates.csv").read_text() == "quality"
    assert (tmp_path / "storage" / "mine" / "report.html").read_text() == "<html>" and said == []


def test_a_storage_that_refuses_the_results_is_said_and_ends_nothing(tmp_path: Path) -> None:
    class Refusing(Checkpoints):
        def keep(self, *_: object) -> None:
            raise OSError("quota exceeded")

    said: list[str] = []
    store_results(opened(tmp_path / "mine", Refusing(str(tmp_path / "storage"), "mine")), said.append)
    (sentence,) = said
    assert sentence.startswith(f"tables, best checkpoints and report are only in {tmp_path}/mine, not at ")
    assert "quota exceeded" in sentence


def test_the_next_commands_name_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "my search"
    report, figures, opens, exports = next_steps(folder, has_report=True).plain.splitlines()
    assert report == f"report: {(folder / 'report.html').as_uri()}" and "my%20search" in report
    assert figures == f"figures: {folder}/figures"
    assert "dashboards.open" in opens and f"'{folder}'" in opens  # quoted for a shell
    assert "search.export" in exports and exports.endswith("--verify")
    lacking = next_steps(folder, has_report=False).plain.splitlines()
    assert lacking == [f"cannot write the report; see {folder}/search.log", opens, exports]
    *_, confirms, _ = next_steps(folder, has_report=True, confirm=True).plain.splitlines()
    assert f"search.run --resume '{folder}' --confirm 1 --seeds 3" in confirms


def closed(tmp_path: Path, gain: float, **console: Any) -> list[str]:
    """The last lines of a search of one trial at quality 1, with this expected gain."""
    resolved = resolve({"model": "hyperprior", "width": "8", "start": "scratch"}, {}, lambda _: 0)
    screen = Console(file=io.StringIO(), highlight=False, soft_wrap=True, **console)
    records = replace(
        searched(record("trial-000", 1, gain, "y")), expected={"trial-000": Prediction(gain, 0.5)}
    )
    folder = SearchFolder(tmp_path / "mine", resolved.settings)
    closing(folder, records, ConfirmedResults(), has_report=True, console=screen)
    assert isinstance(screen.file, io.StringIO)
    return screen.file.getvalue().splitlines()


def test_a_search_ends_with_its_plot_its_result_and_its_report(tmp_path: Path) -> None:
    key, *lines = closed(tmp_path, -3.0, width=100_000)
    assert key.startswith("Rate change of the trials")
    (result,) = [number for number, line in enumerate(lines) if line.startswith("result: fewer bits")]
    assert lines[result - 1].split() == ["1e-8", "1e-7", "1e-6", "1e-5"]
    assert lines[result + 1] == f"report: file://{tmp_path}/mine/report.html"
    assert any("--confirm 1" in line for line in lines[result:])
    lines = closed(tmp_path, 1.0, width=100_000)
    assert any(line.startswith("result: nothing beats the baseline") for line in lines)
    assert not any("--confirm" in line for line in lines)


def test_in_a_terminal_the_report_is_a_link_and_words_stay_whole(tmp_path: Path) -> None:
    terminal = {"force_terminal": True, "color_system": "256", "legacy_windows": False}
    lines = closed(tmp_path, -3.0, width=60, **terminal)
    address = f"file://{tmp_path}/mine/report.html"
    assert any(f";{address}\x1b\\{address}\x1b]8;;" in line for line in lines)
    (result,) = [number for number, line in enumerate(lines) if line.startswith("result: ")]
    assert all(len(line) <= 60 for line in lines[result : result + 3])
