"""The Optuna storage of a search: a SQLite file, or a database server shared by several machines."""

from __future__ import annotations

import abc
import contextlib
import copy
import datetime
import functools
import logging
import os
import time
from collections.abc import Callable, Container, Iterator, Sequence
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
from search.store.optuna_internals import Write, add_trial, id_of_trial, set_trial_id, write_together

_log = logging.getLogger(__name__)

#: Seconds between attempts to reach a server, and how long to wait for it.
_AGAIN, _PATIENCE = 1.0, 3600.0


def sqlite_address(file: Path) -> str:
    """The SQLAlchemy URL of a SQLite file, for Optuna and MLflow."""
    return f"sqlite:///{file.resolve()}"


def sqlite_file(address: str) -> Path | None:
    """The file of a URL made by `sqlite_address`, else None."""
    scheme, _, path = address.partition(":///")
    return Path(path) if scheme == "sqlite" else None


def open_storage(url: str, say: Callable[[str], None] = _log.warning) -> BaseStorage:
    """Open the storage at this SQLAlchemy URL for writing; creates missing tables. If a server (not SQLite)
    becomes unreachable later, calls wait for it and report it with `say`. Raises StorageError."""
    return get_storage(url) if sqlite_file(url) is not None else _on_server(_to_write, url, say)


def open_to_read(url: str, say: Callable[[str], None] = _log.warning) -> BaseStorage:
    """Open the storage at this SQLAlchemy URL for reading; changes nothing. Waits for a server as
    `open_storage` does. Raises StorageError; a damaged SQLite file can raise any exception."""
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
        raise StorageError(f"{file} is not a SQLite database; the search cannot be read")
    # SQLite must be allowed to roll back an unfinished transaction of a killed writer.
    interrupted = any(file.with_name(f"{file.name}{end}").exists() for end in ("-journal", "-wal"))
    address = sqlite_address_of_mode(file, "rw" if interrupted else "ro")
    return get_storage(RDBStorage(address, skip_table_creation=True))


def _on_server(connect: Callable[[str], RDBStorage], url: str, say: Callable[[str], None]) -> BaseStorage:
    try:
        backend = connect(url)
    except (OptunaError, sqlalchemy.exc.SQLAlchemyError, ImportError, ValueError) as error:
        reason = " ".join(str(error.__cause__ or error).split("\n(Background")[0].split())
        raise StorageError(
            f"the database at {public(url)} cannot be used ({reason[:300]}); --study takes a URL such "
            "as postgresql+psycopg://user@host/database, with the password in PGPASSWORD or ~/.pgpass"
        ) from error
    return _Patient(get_storage(backend), public(url), say)


#: Detect connections that the server has closed before using them.
_SERVER = {"pool_pre_ping": True}


def _to_write(url: str) -> RDBStorage:
    try:
        return RDBStorage(url, engine_kwargs=_SERVER)
    except (sqlalchemy.exc.IntegrityError, sqlalchemy.exc.ProgrammingError):
        # Two searches that start at once on a new database both create its tables.
        time.sleep(_AGAIN)
        return RDBStorage(url, engine_kwargs=_SERVER)


def _to_read(url: str) -> RDBStorage:
    # PostgreSQL rejects writes in such a session; other servers ignore the option.
    options = {**_SERVER, "execution_options": {"postgresql_readonly": True}}
    return RDBStorage(url, engine_kwargs=options, skip_table_creation=True)


def sqlite_address_of_mode(file: Path, mode: Literal["ro", "rw"]) -> str:
    """The URL of an existing SQLite database; mode 'ro' is read-only."""
    return f"sqlite:///file:{quote(str(file))}?mode={mode}&uri=true"


def keep_password(url: str) -> str:
    """Remove the password from a URL and put it into the environment, where PostgreSQL's library finds it in
    this process and its children, so that no file, log or command line shows it. Returns the URL without it.
    Raises StorageError."""
    try:
        parts = make_url(url)
    except sqlalchemy.exc.ArgumentError as error:
        raise StorageError(
            f"'{public(url)}' is not a database URL; --study takes one such as "
            "postgresql+psycopg://user@host/database"
        ) from error
    if "password" in parts.query:
        raise StorageError(
            f"the URL {public(url)} has the password in its query, which files would show; set PGPASSWORD"
        )
    if parts.password is None:
        return url
    if parts.get_backend_name() != "postgresql":
        raise StorageError(f"the URL {public(url)} has a password, which is supported only for PostgreSQL")
    os.environ["PGPASSWORD"] = parts.password
    return parts._replace(password=None).render_as_string()


def _is_away(error: StorageInternalError) -> bool:
    cause = error.__cause__
    if isinstance(cause, sqlalchemy.exc.DBAPIError) and cause.connection_invalidated:
        return True
    # PendingRollbackError: a second query of a transaction after the first found the server gone.
    away = (
        sqlalchemy.exc.OperationalError,
        sqlalchemy.exc.InterfaceError,
        sqlalchemy.exc.PendingRollbackError,
    )
    return isinstance(cause, away)


#: What is written past Optuna, by name, and the calls that make a trial.
_DIRECT: dict[str, Callable[..., Any]] = {each.__name__: each for each in (add_trial, write_together)}
_MAKING = ("create_new_trial", add_trial.__name__)

#: The methods of Optuna's storage interface.
_CALLS = [name for name, value in vars(BaseStorage).items() if callable(value) and not name.startswith("_")]


def _relay(storage: Any) -> Any:
    """Class decorator: route the storage methods that the class does not define through its `_call`."""
    for name in _CALLS:
        if name not in vars(storage):
            setattr(storage, name, functools.partialmethod(storage._call, name))
    return abc.update_abstractmethods(storage)


# Typed as Any: mypy does not see the methods that `_relay` adds.
_Base: Any = BaseStorage


@_relay
class _Patient(_Base):  # type: ignore[misc]
    """Forwards every call to `storage`, and retries while its server is unreachable."""

    def __init__(self, storage: BaseStorage, address: str, say: Callable[[str], None]) -> None:
        self._storage, self._address, self._say = storage, address, say

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        since = None
        while True:
            try:
                found = self._made(*args, **kwargs) if since and name in _MAKING else None
                if found is None:
                    found = self._method(name)(*args, **kwargs)
            except StorageInternalError as error:
                if not _is_away(error) or (since and time.monotonic() - since > _PATIENCE):
                    raise
                if since is None:
                    since = time.monotonic()
                    self._say(f"no answer from the database at {self._address}; waiting for it")
                time.sleep(_AGAIN)
                continue
            except RuntimeError:
                # The call that ends a trial may have succeeded though its answer was lost.
                if since is None or name not in ("set_trial_state_values", write_together.__name__):
                    raise
                found = True
            if since is not None:
                self._say(f"the database at {self._address} answers again")
            return found

    def _method(self, name: str) -> Callable[..., Any]:
        if name in _DIRECT:
            return functools.partial(_DIRECT[name], self._storage)
        method: Callable[..., Any] = getattr(self._storage, name)
        return method

    def _made(self, study: int, template_trial: FrozenTrial | None = None) -> int | None:
        """The database id of an equal trial if it is the newest: the call that created it may have succeeded
        though its answer was lost."""
        if template_trial is None:
            return None
        wanted = (template_trial.params, template_trial.user_attrs)
        newest = self._storage.get_all_trials(study, deepcopy=False)[-1:]
        return next((id_of_trial(t) for t in newest if (t.params, t.user_attrs) == wanted), None)


#: The id of a trial that is only a draft.
_DRAFT = -1


@_relay
class Mirror(_Base):  # type: ignore[misc]
    """A write-through cache of a storage that only this process writes to. Its content is read once and then
    updated with what is written, since reading all metrics takes longer with every epoch. Trials are not
    copied: treat them as read-only.

    A new trial is a draft, invisible to other processes, until `keep` writes it in one transaction. What is
    written inside `together` is one transaction as well."""

    def __init__(self, backend: BaseStorage) -> None:
        self._backend = backend
        #: Trials and user attributes by study, and all trials by their database id.
        self._trials: dict[int, list[FrozenTrial]] = {}
        self._attributes: dict[int, dict[str, Any]] = {}
        self._known: dict[int, FrozenTrial] = {}
        #: What is to be written of trials, in order.
        self._due: list[Write] = []
        self._gathering = False

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        self._flush()
        return getattr(self._backend, name)(*args, **kwargs)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Write attributes, values and states at the end, or before anything else is written: a process that
        is killed leaves all of them or none."""
        self._gathering = True
        try:
            yield
        finally:
            self._gathering = False
            self._flush()

    def _flush(self) -> None:
        due, self._due = self._due, []
        if due:
            self._directly(write_together, due)

    def _directly(self, write: Callable[..., Any], *args: Any) -> Any:
        if isinstance(self._backend, _Patient):
            return self._backend._call(write.__name__, *args)
        return write(self._backend, *args)

    def _of(self, study: int) -> list[FrozenTrial]:
        if study not in self._trials:
            self._trials[study] = self._backend.get_all_trials(study)
            self._known |= {id_of_trial(trial): trial for trial in self._trials[study]}
        return self._trials[study]

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        trials = self._of(study_id)
        found = list(trials) if states is None else [trial for trial in trials if trial.state in states]
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
            self._flush()
            set_trial_id(trial, self._directly(add_trial, study_id, trial))
            self._trials[study_id].append(trial)
        trial.number = number
        self._known[id_of_trial(trial)] = trial
        return id_of_trial(trial)

    def keep(self, study_id: int) -> FrozenTrial:
        """Write the draft."""
        return self._known[self.create_new_trial(study_id, self._known.pop(_DRAFT))]

    def _write(self, name: str, trial_id: int, *args: Any) -> FrozenTrial:
        if trial_id != _DRAFT:
            self._call(name, trial_id, *args)
        return self._known[trial_id]

    def _gather(self, name: str, trial_id: int, *args: Any) -> FrozenTrial:
        if trial_id != _DRAFT:
            self._due.append((name, (trial_id, *args)))
            if not self._gathering:
                self._flush()
        return self._known[trial_id]

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        trial = self._write("set_trial_param", trial_id, param_name, param_value_internal, distribution)
        trial.params[param_name] = distribution.to_external_repr(param_value_internal)
        trial.distributions[param_name] = distribution

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._gather("set_trial_user_attr", trial_id, key, value).user_attrs[key] = value

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._gather("set_trial_system_attr", trial_id, key, value).system_attrs[key] = value

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        trial = self._gather("set_trial_intermediate_value", trial_id, step, intermediate_value)
        trial.intermediate_values[step] = intermediate_value

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        trial = self._gather("set_trial_state_values", trial_id, state, values)
        trial.state, trial.values = state, values
        if state.is_finished():
            trial.datetime_complete = datetime.datetime.now()
        return True

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        if study_id not in self._attributes:
            self._attributes[study_id] = dict(self._backend.get_study_user_attrs(study_id))
        return self._attributes[study_id]

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        self._call("set_study_user_attr", study_id, key, value)
        self.get_study_user_attrs(study_id)[key] = value
