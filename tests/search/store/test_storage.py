"""A search's records in a database server."""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from optuna.exceptions import StorageInternalError
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial
from sqlalchemy.exc import OperationalError

from search.decide.core import Core, open_studies
from search.store.storage import StorageError, _Patient, keep_password, open_storage, sqlite_address
from tests.search.decide.test_core import PLAN, figures, run_all
from tests.support.database import MISSING, Database, temporary_database


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    if MISSING:
        pytest.skip(MISSING)
    with temporary_database("lictune") as made:
        yield made


@pytest.fixture
def _password(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", database.password)


@pytest.mark.usefixtures("_password")
@pytest.mark.slow
def test_a_search_decides_the_same_while_its_database_restarts(database: Database) -> None:
    said: list[str] = []
    core = Core(open_storage(database.url("lictune"), said.append), "restarts", PLAN)
    over = threading.Event()

    def restart() -> None:
        for _ in range(600):  # until the search has noticed, however slow the machine is just then
            if said:
                break
            time.sleep(0.05)
        for _ in range(3):
            time.sleep(1.0)
            database.start()
            over.wait(1.0)
            database.stop()
        database.start()

    database.stop()  # before the search, which may be over within a second
    meanwhile = threading.Thread(target=restart)
    meanwhile.start()
    found = run_all(core)
    over.set()
    meanwhile.join()
    assert found == run_all(Core(InMemoryStorage(), "restarts", PLAN))
    assert len(core.trials.get_trials()) == PLAN.budget
    address = database.url("lictune")
    assert f"no answer from the database at {address}; waiting for it" in said
    assert said[-1] == f"the database at {address} answers again"


class Forgetful(InMemoryStorage):
    """Does what it is told, but of the first answer that it owes for a new trial nothing is heard."""

    lost = False

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        made = super().create_new_trial(study_id, template_trial)
        if self.lost or template_trial is None or "alpha" not in template_trial.params:
            return made
        self.lost = True
        raise StorageInternalError from OperationalError("insert", None, Exception())


def test_a_trial_whose_making_was_not_answered_is_made_once() -> None:
    storage, said = Forgetful(), []
    core = Core(_Patient(storage, "there", said.append), "s", PLAN)
    found = run_all(core)
    assert storage.lost and len(said) == 2
    assert found == run_all(Core(InMemoryStorage(), "s", PLAN))


@pytest.mark.parametrize("sampler", ["surrogate", "gp"])
def test_what_the_core_keeps_at_hand_is_what_the_storage_holds(tmp_path: Path, sampler: str) -> None:
    address, plan = sqlite_address(tmp_path / "study.db"), dataclasses.replace(PLAN, sampler=sampler)
    core = Core(address, "s", plan)
    left = core.suggest()
    assert left is not None
    core.observe(left.name, 1, figures(left, 1), {"val/bpp": [0.1, 0.2], "val/mse": [1.0, 2.0]})
    run_all(core)
    for known, held in zip((core.trials, core.baselines), open_studies(address, "s"), strict=True):
        assert known.user_attrs == held.user_attrs
        trials = known.get_trials(), held.get_trials()
        assert len(trials[0]) == len(trials[1]) > 0
        for ours, theirs in zip(*trials, strict=True):
            if ours.datetime_complete and theirs.datetime_complete:
                assert abs((ours.datetime_complete - theirs.datetime_complete).total_seconds()) < 10
                ours.datetime_complete = theirs.datetime_complete
            assert ours == theirs


def test_a_password_goes_to_the_environment_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "")
    kept = keep_password("postgresql+psycopg://me:a%40b:c@db.example:5433/studies")
    assert kept == "postgresql+psycopg://me@db.example:5433/studies"
    assert os.environ["PGPASSWORD"] == "a@b:c"


@pytest.mark.usefixtures("_password")
def test_a_database_that_cannot_be_used_is_told_in_one_sentence(database: Database) -> None:
    for url, reason in (
        (database.url("nowhere"), 'database "nowhere" does not exist'),
        (database.url("lictune").replace(str(database.port), "1"), "refused"),
        ("postgresql+nothing://me@here/there", "sqlalchemy.dialects:postgresql.nothing"),
    ):
        with pytest.raises(StorageError, match=r"cannot be used .*--study takes a URL") as error:
            open_storage(url)
        assert reason in str(error.value)
        assert "\n" not in str(error.value)
        assert database.password not in str(error.value)
    with pytest.raises(StorageError, match="is not a database URL"):
        keep_password("here")
