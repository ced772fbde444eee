"""Optuna's storage of a search: a SQLite file, or a database server that several machines reach."""

from __future__ import annotations

import functools
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy.exc
from optuna.exceptions import OptunaError, StorageInternalError
from optuna.storages import BaseStorage, RDBStorage, get_storage
from sqlalchemy.engine import make_url

from search.provenance import public

_log = logging.getLogger(__name__)

#: Seconds between two attempts to reach a server that is away, and how long it is waited for.
_AGAIN, _PATIENCE = 1.0, 3600.0


class StorageError(ValueError):
    """A storage that cannot be used; one sentence with its address and what to do."""


def sqlite_address(file: Path) -> str:
    """The address of a database in a file, as SQLAlchemy, and with it Optuna and MLflow, has it."""
    return f"sqlite:///{file.resolve()}"


def sqlite_file(address: str) -> Path | None:
    """The file at an address; None if that is not one of `sqlite_address`."""
    scheme, _, path = address.partition(":///")
    return Path(path) if scheme == "sqlite" else None


def open_storage(url: str, say: Callable[[str], None] = _log.warning) -> BaseStorage:
    """The storage at this SQLAlchemy address. A server (not SQLite) that goes away later is waited for;
    `say` is told. Raises StorageError."""
    if sqlite_file(url) is not None:
        return get_storage(url)
    try:
        backend = _connect(url)
    except (OptunaError, sqlalchemy.exc.SQLAlchemyError, ImportError, ValueError) as error:
        reason = " ".join(str(error.__cause__ or error).split("\n(Background")[0].split())
        raise StorageError(
            f"the database at {public(url)} cannot be used ({reason[:300]}); --study takes an address such "
            "as postgresql+psycopg://user@host/database, its password in PGPASSWORD or ~/.pgpass"
        ) from error
    return _Patient(get_storage(backend), public(url), say)


def _connect(url: str) -> RDBStorage:
    # A connection that the server closed meanwhile is noticed before it is used.
    options = {"pool_pre_ping": True}
    try:
        return RDBStorage(url, engine_kwargs=options)
    except (sqlalchemy.exc.IntegrityError, sqlalchemy.exc.ProgrammingError):
        # Two searches that begin at once on a new database both make its tables.
        time.sleep(_AGAIN)
        return RDBStorage(url, engine_kwargs=options)


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


class _Waiting:
    """Passes every call on to `storage`, and again while its server is away."""

    def __init__(self, storage: BaseStorage, address: str, say: Callable[[str], None]) -> None:
        self._storage, self._address, self._say = storage, address, say

    def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        since = None
        while True:
            try:
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


#: Optuna asks a storage by these; made from its own list so that none is forgotten.
_CALLS = [name for name, value in vars(BaseStorage).items() if callable(value) and not name.startswith("_")]
_Patient: Any = type(
    "_Patient",
    (_Waiting, BaseStorage),
    {name: functools.partialmethod(_Waiting._call, name) for name in _CALLS},
)
