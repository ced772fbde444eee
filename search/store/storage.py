"""Optuna's storage of a search: a SQLite file, or a database server that several machines reach."""

from __future__ import annotations

import abc
import copy
import datetime
import functools
import logging
import os
import time
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import sqlalchemy.exc
from optuna.distributions import BaseDistribution
from optuna.exceptions import OptunaError, StorageInternalError
from optuna.storages import BaseStorage, RDBStorage, get_storage
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.engine import make_url

from lic.errors import StorageError
from lic.files import check_regular
from search.base.secrets import public
from search.store.optuna_internals import id_of_trial, set_trial_id

_log = logging.getLogger(__name__)

#: Seconds between two attempts to reach a server that is away, and how long it is waited for.
_AGAIN, _PATIENCE = 1.0, 3600.0


def sqlite_address(file: Path) -> str:
    """The address of a database in a file, as SQLAlchemy, and with it Optuna and MLflow, has it."""
    return f"sqlite:///{file.resolve()}"


def sqlite_file(address: str) -> Path | None:
    """The file at an address; None if that is not one of `sqlite_address`."""
    scheme, _, path = address.partition(":///")
    return Path(path) if scheme == "sqlite" else None


def open_storage(url: str, say: Callable[[str], None] = _log.warning) -> BaseStorage:
    """The storage at this SQLAlchemy address, to write to: what is missing there is made. A server (not
    SQLite) that goes away later is waited for; `say` is told. Raises StorageError."""
    return get_storage(url) if sqlite_file(url) is not None else _on_server(_to_write, url, say)


def open_to_read(url: str, say: Callable[[str], None] = _log.warning) -> BaseStorage:
    """The storage at this SQLAlchemy address, of which nothing is made or changed. A server that goes away is
    waited for, as by `open_storage`. Raises StorageError, and of a damaged SQLite file anything at all."""
    file = sqlite_file(url)
    if file is None:
        return _on_server(_to_read, url, say)
    try:
        check_regular(file.stat().st_mode, file)
        with file.open("rb") as content:
            sound = content.read(16) == b"SQLite format 3\0"
    except OSError as error:
        raise StorageError(f"the database {file} cannot be read ({error.strerror})") from error
    if not sound:
        raise StorageError(f"{file} is not a SQLite database, so the search that it is of cannot be read")
    # What a killed writer left half done SQLite takes back before it reads, and must be allowed to.
    interrupted = any(file.with_name(f"{file.name}{end}").exists() for end in ("-journal", "-wal"))
    address = sqlite_address_of_mode(file, "rw" if interrupted else "ro")
    return get_storage(RDBStorage(address, skip_table_creation=True))


def _on_server(connect: Callable[[str], RDBStorage], url: str, say: Callable[[str], None]) -> BaseStorage:
    try:
        backend = connect(url)
    except (OptunaError, sqlalchemy.exc.SQLAlchemyError, ImportError, ValueError) as error:
        reason = " ".join(str(error.__cause__ or error).split("\n(Background")[0].split())
        raise StorageError(
            f"the database at {public(url)} cannot be used ({reason[:300]}); --study takes an address such "
            "as postgresql+psycopg://user@host/database, its password in PGPASSWORD or ~/.pgpass"
        ) from error
    return _Patient(get_storage(backend), public(url), say)


#: A connection that the server closed meanwhile is noticed before it is used.
_SERVER = {"pool_pre_ping": True}


def _to_write(url: str) -> RDBStorage:
    try:
        return RDBStorage(url, engine_kwargs=_SERVER)
    except (sqlalchemy.exc.IntegrityError, sqlalchemy.exc.ProgrammingError):
        # Two searches that begin at once on a new database both make its tables.
        time.sleep(_AGAIN)
        return RDBStorage(url, engine_kwargs=_SERVER)


def _to_read(url: str) -> RDBStorage:
    # PostgreSQL itself refuses to write in such a session; other servers do not know the option.
    options = {**_SERVER, "execution_options": {"postgresql_readonly": True}}
    return RDBStorage(url, engine_kwargs=options, skip_table_creation=True)


def sqlite_address_of_mode(file: Path, mode: Literal["ro", "rw"]) -> str:
    """The address of a SQLite database that is there: of mode 'ro' it cannot be written to."""
    return f"sqlite:///file:{quote(str(file))}?mode={mode}&uri=true"


def keep_password(url: str) -> str:
    """The address without the password in it, which goes to the environment, where PostgreSQL's library
    finds it in this process and those it starts: no file, log or command line shall show it. Raises
    StorageError."""
    try:
        parts = make_url(url)
    except sqlalchemy.exc.ArgumentError as error:
        raise StorageError(
            f"'{public(url)}' is no address of a database; --study takes one such as "
            "postgresql+psycopg://user@host/database"
        ) from error
    if "password" in parts.query:
        raise StorageError(
            f"the address {public(url)} has its password in the query, which files would show; set PGPASSWORD"
        )
    if parts.password is None:
        return url
    if parts.get_backend_name() != "postgresql":
        raise StorageError(
            f"the address {public(url)} has a password, which only a PostgreSQL database can be given"
        )
    os.environ["PGPASSWORD"] = parts.password
    return parts._replace(password=None).render_as_string()


def _is_away(error: StorageInternalError) -> bool:
    cause = error.__cause__
    if isinstance(cause, sqlalchemy.exc.DBAPIError) and cause.connection_invalidated:
        return True
    # The last is what a second query of the same transaction says after the first found the server gone.
    away = (
        sqlalchemy.exc.OperationalError,
        sqlalchemy.exc.InterfaceError,
        sqlalchemy.exc.PendingRollbackError,
    )
    return isinstance(cause, away)


#: Optuna asks a storage by these; taken from its own list so that none is forgotten.
_CALLS = [name for name, value in vars(BaseStorage).items() if callable(value) and not name.startswith("_")]


def _relay(storage: Any) -> Any:
    """Let the calls that this storage class does not answer itself go through its `_call`."""
    for name in _CALLS:
        if name not in vars(storage):
            setattr(storage, name, functools.partialmethod(storage._call, name))
    return abc.update_abstractmethods(storage)


# Not BaseStorage itself: mypy does not see what `_relay` adds.
_Base: Any = BaseStorage


@_relay
class _Patient(_Base):  # type: ignore[misc]
    """Passes every call on to `storage`, and again while its server is away."""

    def __init__(self, storage: BaseStorage, address: str, say: Callable[[str], None]) -> None:
        self._storage, self._address, self._say = storage, address, say

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        since = None
        while True:
            try:
                found = self._made(*args, **kwargs) if since and name == "create_new_trial" else None
                if found is None:
                    found = getattr(self._storage, name)(*args, **kwargs)
            except StorageInternalError as error:
                if not _is_away(error) or (since and time.monotonic() - since > _PATIENCE):
                    raise
                if since is None:
                    since = time.monotonic()
                    self._say(f"the database at {self._address} does not answer; waiting for it")
                time.sleep(_AGAIN)
                continue
            except RuntimeError:
                # What ends a trial may have reached the server though its answer was lost.
                if since is None or name != "set_trial_state_values":
                    raise
                found = True
            if since is not None:
                self._say(f"the database at {self._address} answers again")
            return found

    def _made(self, study: int, template_trial: FrozenTrial | None = None) -> int | None:
        """The number in the database of a trial like this if it is the newest: what made it may have reached
        the server though its answer was lost."""
        if template_trial is None:
            return None
        wanted = (template_trial.params, template_trial.user_attrs)
        newest = self._storage.get_all_trials(study, deepcopy=False)[-1:]
        return next((id_of_trial(t) for t in newest if (t.params, t.user_attrs) == wanted), None)


#: The number of a trial that is only a draft.
_DRAFT = -1


@_relay
class Mirror(_Base):  # type: ignore[misc]
    """A storage that this process alone writes to: what it holds is read once, and from then on known from
    what is written, since reading what all running trials have measured takes longer with every epoch. Trials
    are not copied: they are to be read only.

    A trial that is asked for is a draft, which no other process sees, until `keep`: then it is written at
    once, and whole."""

    def __init__(self, backend: BaseStorage) -> None:
        self._backend = backend
        #: By study its trials and its user attributes, and every trial by its number in the database.
        self._trials: dict[int, list[FrozenTrial]] = {}
        self._attributes: dict[int, dict[str, Any]] = {}
        self._known: dict[int, FrozenTrial] = {}

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        return getattr(self._backend, name)(*args, **kwargs)

    def _of(self, study: int) -> list[FrozenTrial]:
        if study not in self._trials:
            self._trials[study] = self._backend.get_all_trials(study)
            self._known |= {id_of_trial(trial): trial for trial in self._trials[study]}
        return self._trials[study]

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        found = [trial for trial in self._of(study_id) if states is None or trial.state in states]
        return copy.deepcopy(found) if deepcopy else found

    def get_trial(self, trial_id: int) -> FrozenTrial:
        return self._known[trial_id]

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        return id_of_trial(self._of(study_id)[trial_number])

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        number = len(self._of(study_id))
        if template_trial is None:
            trial = create_trial(state=TrialState.RUNNING)
            set_trial_id(trial, _DRAFT)
        else:
            trial = copy.deepcopy(template_trial)
            set_trial_id(trial, self._backend.create_new_trial(study_id, template_trial))
            self._trials[study_id].append(trial)
        trial.number = number
        self._known[id_of_trial(trial)] = trial
        return id_of_trial(trial)

    def keep(self, study_id: int) -> FrozenTrial:
        """Write the draft."""
        return self._known[self.create_new_trial(study_id, self._known.pop(_DRAFT))]

    def _write(self, name: str, trial_id: int, *args: Any) -> FrozenTrial:
        if trial_id != _DRAFT:
            getattr(self._backend, name)(trial_id, *args)
        return self._known[trial_id]

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        trial = self._write("set_trial_param", trial_id, param_name, param_value_internal, distribution)
        trial.params[param_name] = distribution.to_external_repr(param_value_internal)
        trial.distributions[param_name] = distribution

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._write("set_trial_user_attr", trial_id, key, value).user_attrs[key] = value

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._write("set_trial_system_attr", trial_id, key, value).system_attrs[key] = value

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        trial = self._write("set_trial_intermediate_value", trial_id, step, intermediate_value)
        trial.intermediate_values[step] = intermediate_value

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        trial = self._write("set_trial_state_values", trial_id, state, values)
        trial.state, trial.values = state, values
        if state.is_finished():
            trial.datetime_complete = datetime.datetime.now()
        return True

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        if study_id not in self._attributes:
            self._attributes[study_id] = dict(self._backend.get_study_user_attrs(study_id))
        return self._attributes[study_id]

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        self._backend.set_study_user_attr(study_id, key, value)
        self.get_study_user_attrs(study_id)[key] = value
