"""Another search is read and nothing else: its database, its folder and its server are as they were."""

from __future__ import annotations

import hashlib
import logging
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from optuna.storages import InMemoryStorage

import dashboards.links
import search.records.folder
from dashboards.plots import response
from lic.errors import StorageError
from search import export, track
from search.decide.core import Core
from search.records.folder import SearchFolder, open_search
from search.records.results import strategy_results, write_tables
from search.session.monitor import Followed, Monitor
from search.session.reuse import reuse_baselines
from search.settings.config import SETTINGS, Settings, recorded_settings
from search.settings.plan import plan_of
from search.store.find import STUDY, FolderError
from search.store.storage import open_to_read
from search.tracking.publishing import Publisher
from tests.support.database import Database
from tests.support.made_up import FINGERPRINT, made_up_search


class Nobody:
    """A view, a tracker and servers that do nothing."""

    def __getattr__(self, _: str) -> Any:
        return lambda *_, **__: None


def opened(folder: Path) -> None:
    open_search(str(folder), folder.parent)


def exported(folder: Path) -> None:
    # There are no checkpoints, which is found last.
    assert export.main([str(folder), "--out", str(folder.parent.parent / "zoo")]) == 2


def compared(folder: Path) -> None:
    track.main([str(folder), "--results", str(folder.parent)])


def dashboard(folder: Path) -> None:
    found = open_search(str(folder), folder.parent, with_model=False)
    dashboards.links._mlflow(found, Nobody(), 5000)  # type: ignore[arg-type]
    dashboards.links._optuna(found, Nobody(), 8080)  # type: ignore[arg-type]


def reused(folder: Path) -> None:
    plan = plan_of(SearchFolder.read(folder).settings)
    core = Core(InMemoryStorage(), "other", plan, FINGERPRINT)
    reuse_baselines(core, SearchFolder(folder.parent / "other", Settings()))
    shutil.rmtree(folder.parent / "other", ignore_errors=True)


def learnt(folder: Path) -> None:
    plan = plan_of(SearchFolder.read(folder).settings)
    Core(InMemoryStorage(), "other", plan).learn_from(SearchFolder.read(folder).trials(), "mine")


def followed(folder: Path) -> None:
    opened, publisher = SearchFolder.read(folder), Publisher(Nobody(), (), print)  # type: ignore[arg-type]
    monitor = Monitor(Followed(opened, plan_of(opened.settings), "leaves", 1), publisher, Nobody())
    monitor.close()
    assert publisher.close(monitor.groups(), {}, "FINISHED")


READERS = [opened, exported, compared, dashboard, reused, learnt, followed]


def held(results: Path) -> dict[str, str]:
    """Every file below a folder, with what is in it."""
    return {
        path.relative_to(results).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(results.rglob("*"))
        if path.is_file()
    }


def renamed(folder: Path) -> None:
    """Of an early version, which did not note its name, and moved since: its studies are called 'mine'."""
    settings = folder / SETTINGS
    settings.write_text(settings.read_text().replace("name: mine", "name: null"))


def without_baselines(folder: Path) -> None:
    """Killed between the making of its two studies."""
    with sqlite3.connect(folder / STUDY) as database:
        database.execute("DELETE FROM studies WHERE study_name = 'mine/baselines'")
    database.close()


def without_database(folder: Path) -> None:
    (folder / STUDY).unlink()


def of_nothing(folder: Path) -> None:
    (folder / STUDY).write_bytes(b"")


@pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__)
@pytest.mark.parametrize("change", [None, renamed, without_baselines, without_database, of_nothing])
def test_no_reading_command_writes_to_a_search(
    read: Callable[[Path], None], change: Callable[[Path], None] | None, tmp_path: Path
) -> None:
    folder = made_up_search(tmp_path / "results" / "mine")
    if change is renamed:
        folder = folder.rename(folder.with_name("moved"))
    if change is not None:
        change(folder)
    before = held(tmp_path / "results")
    try:
        read(folder)
    except FolderError as error:
        assert change not in (None, renamed), error
    assert held(tmp_path / "results") == before


def test_a_search_that_runs_is_read_between_its_writes(tmp_path: Path) -> None:
    """With a write under way, and where a killed writer left one, which SQLite takes back."""
    folder = made_up_search(tmp_path / "mine")
    writer = sqlite3.connect(folder / STUDY, isolation_level=None)
    writer.execute("PRAGMA cache_size = 1")
    writer.execute("BEGIN IMMEDIATE")
    for number in range(300):
        writer.execute("INSERT INTO studies (study_name) VALUES (?)", (f"x{number}" + "y" * 400,))
    killed = tmp_path / "killed"
    shutil.copytree(folder, killed)
    (killed / SETTINGS).write_text((killed / SETTINGS).read_text().replace("name: mine", "name: killed"))
    assert (killed / f"{STUDY}-journal").stat().st_size > 0
    expected = [trial.number for trial in SearchFolder.read(killed).trials()]
    writer.execute("ROLLBACK")
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("INSERT INTO studies (study_name) VALUES ('more')")
    assert [trial.number for trial in SearchFolder.read(folder).trials()] == expected == [0, 1, 2, 3]
    writer.execute("COMMIT")
    writer.close()
    assert open_search("killed", tmp_path, with_model=False).complete


def test_settings_that_cannot_be_read_are_no_sqlite(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They may name a server and a storage: that search's trials are not in a file beside them."""
    folder = made_up_search(tmp_path / "mine")
    sound, server = (folder / SETTINGS).read_text(), "study: postgresql+psycopg://me@db/optuna\n"
    for broken, told in (
        (sound.replace("study: null", "study: [postgresql"), "is not valid YAML"),
        (sound.replace("budget: 4 ", "budget: -4 ").replace("study: null", server.strip()), "budget"),
        ("- study\n", "must have lines of the form 'setting: value'"),
        (None, "cannot be read"),
    ):
        (folder / SETTINGS).unlink()
        if broken is not None:
            (folder / SETTINGS).write_text(broken)
        with pytest.raises(FolderError, match=told) as caught:
            SearchFolder.read(folder)
        assert "\n" not in str(caught.value) and str(folder) in str(caught.value)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            core = Core(InMemoryStorage(), "other", plan_of(Settings(rates=(1, 3), epochs=2)), FINGERPRINT)
            assert reuse_baselines(core, SearchFolder(tmp_path / "other", Settings())) == {}
        assert "baselines of" in caplog.text and told in caplog.text
        (folder / SETTINGS).write_text(sound)


def test_a_search_over_other_lambdas_is_read_with_them(tmp_path: Path) -> None:
    """In trials, baselines, tables; and one whose settings say otherwise is refused."""
    folder = made_up_search(tmp_path / "mine", lambdas="0.0009,0.0035,0.5", rates="1,3")
    found = open_search("mine", tmp_path)
    assert {q: baseline.lmbda for q, baseline in found.records.baselines.items()} == {1: 0.0009, 3: 0.5}
    assert {(t.quality, t.lmbda) for t in found.records.trials} == {(1, 0.0009), (3, 0.5)}
    assert found.model is not None and len(found.response(3, "y")) == 61
    assert "lambda 0.5" in str(response(found).layout.annotations)
    text = (folder / SETTINGS).read_text()
    assert "lambdas: [0.0009, 0.0035, 0.5]" in text
    (folder / SETTINGS).write_text(text.replace("0.5]", "0.6]"))
    with pytest.raises(FolderError, match=r"baseline-q3' has an invalid lmbda: 0\.5"):
        open_search("mine", tmp_path, with_model=False)


def test_settings_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, read = made_up_search(tmp_path / "mine"), []

    def counted(path: Path) -> dict[str, Any]:
        read.append(path)
        return recorded(path)

    recorded = recorded_settings
    monkeypatch.setattr(search.records.folder, "recorded_settings", counted)
    found = open_search("mine", tmp_path, with_model=False)
    for training in found.records.everything():
        with pytest.raises(FileNotFoundError):
            search.records.folder.final_weights(found, training)
    assert read == [folder]


def test_on_a_server_no_tables_are_made(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", database.password)
    with pytest.raises(StorageError, match="does not exist"):
        open_to_read(database.url("empty"))
    with pytest.raises(StorageError, match="does not exist"):
        open_to_read(database.url("empty"))


#: A search of before there were optimizers to choose from and rooms to lie in, without its checkpoints.
BEFORE = Path(__file__).parent / "before"


def test_a_search_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    """Its tables have what was measured then, and its settings are what it was trained with."""
    folder = tmp_path / "eq"
    shutil.copytree(BEFORE, folder)
    opened = open_search(str(folder), tmp_path)
    assert (opened.settings.optimizer, opened.settings.lr) == ("adam", pytest.approx(4e-4))
    write_tables(
        opened.records, strategy_results(opened.records, opened.plan.strategies), tmp_path / "tables"
    )
    written = sorted(path.name for path in (BEFORE / "tables").iterdir())
    assert written == sorted(path.name for path in (tmp_path / "tables").iterdir())
    for name in written:
        then, now = (pd.read_csv(root / "tables" / name, dtype=str) for root in (BEFORE, tmp_path))
        then = then.rename(columns=lambda column: column.replace("luckiest", "best_observed"))
        assert list(now) == list(then)
        # What is selected follows the model of today; what was measured does not.
        keys = {"rates.csv": ("quality", "lambda"), "strategies.csv": ("strategy",)}
        measured = [c for c in now if c in keys.get(name, ()) or str(c).startswith("best_observed")]
        # Trials then had a BD-rate along the straight line through two baselines.
        straight = [c for c in now if "/bd_rate_" in str(c)]
        measured = measured if name in keys else [c for c in now if c not in straight]
        assert now[straight].isna().to_numpy().all(), name
        assert now[measured].equals(then[measured]), name
