"""A search's records in a database server."""

from __future__ import annotations

import datetime
import math
import os
import threading
import time
from pathlib import Path

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import OperationalError

from lic.errors import StorageError
from search.decide.core import Core
from search.store.storage import Mirror, _Patient, keep_password, open_storage, open_to_read, sqlite_address
from tests.search.decide.test_core import PLAN, run_all
from tests.support.database import Database


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


def _write(storage: BaseStorage, trial: int, state: TrialState, values: list[float]) -> None:
    """Attributes and values of each kind, some of them replaced, and the trial's end."""
    storage.set_trial_user_attr(trial, "readings:1", {"val/bpp": 0.25})
    storage.set_trial_system_attr(trial, "seen", ["a"])
    for epoch, value in enumerate((1.5, math.inf, -math.inf, math.nan, 2.5)):
        storage.set_trial_intermediate_value(trial, epoch, value)
    storage.set_trial_user_attr(trial, "readings:1", {"val/bpp": 0.5})
    storage.set_trial_intermediate_value(trial, 0, -1.5)
    storage.set_trial_state_values(trial, state, values)


def _stored(url: str, trial: int, *, whole: bool = True) -> str:
    """All that a storage has of a trial but what tells it from another, and that it began and ended now."""
    found = open_to_read(url).get_trial(trial)
    now = datetime.datetime.now()
    assert found.datetime_start and now - found.datetime_start < datetime.timedelta(minutes=1)
    assert not whole or (found.datetime_complete and found.datetime_complete >= found.datetime_start)
    known = (found.params, found.distributions, found.user_attrs, found.system_attrs)
    return str((*known, found.intermediate_values, found.state, found.values))


@pytest.mark.parametrize(
    "state, values",
    [(TrialState.COMPLETE, [-2.0]), (TrialState.PRUNED, [math.inf]), (TrialState.FAIL, [])],
)
def test_what_is_written_together_is_all_there_or_nothing(
    tmp_path: Path, state: TrialState, values: list[float]
) -> None:
    """And it is what Optuna's own methods write, the making of the trial included."""
    url = sqlite_address(tmp_path / "study.db")
    plain = open_storage(url)
    other, study = (plain.create_new_study([StudyDirection.MINIMIZE], name) for name in "ab")
    plain.create_new_trial(other)
    template = create_trial(
        state=TrialState.RUNNING,
        params={"alpha": 1e-7, "strategy": "z", "epochs": 3},
        distributions={
            "alpha": FloatDistribution(1e-8, 1e-5, log=True),
            "strategy": CategoricalDistribution(("y", "z", "y+z")),
            "epochs": IntDistribution(1, 9),
        },
        user_attrs={"role": "trial", "lambda": 0.013},
        system_attrs={"a": [1, None]},
    )
    mirror = Mirror(plain)
    theirs = plain.create_new_trial(study, template)
    ours = mirror.create_new_trial(study, template)
    assert _stored(url, ours, whole=False) == _stored(url, theirs, whole=False)
    assert [trial.number for trial in open_to_read(url).get_all_trials(study)] == [0, 1]
    made = _stored(url, ours, whole=False)
    _write(plain, theirs, state, values)
    with mirror.together():
        _write(mirror, ours, state, values)
        assert _stored(url, ours, whole=False) == made
    assert _stored(url, ours) == _stored(url, theirs) and state.name in _stored(url, ours)


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
    storage = Forgetful()
    said: list[str] = []
    core = Core(_Patient(storage, "there", said.append), "s", PLAN)
    found = run_all(core)
    assert storage.lost and len(said) == 2
    assert found == run_all(Core(InMemoryStorage(), "s", PLAN))


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
