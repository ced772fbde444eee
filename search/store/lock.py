"""One process drives a search: a lock in its folder, and, if its trials are in a database that other machines
reach, a sign of life there.

The system lets go of the file's lock when its process ends, however that ends. The sign in the database grows
older then; another host that sees it stand still takes the search over.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout
from optuna import Study

from lic import atomic_io
from search.settings.complaints import ConfigError
from search.store.optuna_internals import id_of_study, storage_of

#: Seconds between two signs of life, and for how long one that stands still is watched.
_BEAT, _WATCH = 10.0, 45.0

#: The attribute of a search's study that holds the sign, and the file that says who holds the lock.
_DRIVER, _HOLDER = "driver", ".driver.json"


def driver_lock(folder: Path) -> FileLock:
    """The lock that a search holds while it runs."""
    return FileLock(folder / ".driver.lock")


def is_running(folder: Path) -> bool:
    """Whether a process on this machine is at work on the search in this folder."""
    try:
        with driver_lock(folder).acquire(timeout=0):
            return False
    except Timeout:
        return True


@contextlib.contextmanager
def only_driver(folder: Path) -> Iterator[None]:
    """Be the one process that drives the search in this folder, which is made if it is not there. Raises
    ConfigError, which names it, if another does; OSError if the folder cannot be written to."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with driver_lock(folder).acquire(timeout=0):
            atomic_io.write(folder / _HOLDER, json.dumps(_self()))
            yield
    except Timeout as error:
        try:
            who = _described(json.loads((folder / _HOLDER).read_text()))
        except (OSError, ValueError, KeyError, TypeError):
            who = "another process"
        raise ConfigError(f"{folder} is being searched by {who}; wait for its end, or end it") from error


def _self() -> dict[str, Any]:
    """Who this process is."""
    process = psutil.Process()
    return {"host": socket.gethostname(), "pid": process.pid, "since": process.create_time(),
            "user": getpass.getuser() if "USER" in os.environ else str(os.getuid())}  # fmt: skip


def _described(holder: dict[str, Any]) -> str:
    since = time.strftime("%Y-%m-%d %H:%M", time.localtime(holder["since"]))
    return f"process {holder['pid']} of {holder['user']} on {holder['host']}, since {since}"


def _has_ended(holder: dict[str, Any]) -> bool:
    """Whether it was a process of this machine that is no more."""
    if holder["host"] != socket.gethostname():
        return False
    try:
        return bool(psutil.Process(holder["pid"]).create_time() != holder["since"])
    except psutil.NoSuchProcess:
        return True


@contextlib.contextmanager
def signs_of_life(
    study: Study, say: Callable[[str], None], lost: Callable[[str], None], beat: float = _BEAT
) -> Iterator[None]:
    """Be the one process, of all machines, that drives the search of this study. `lost` is told, by another
    thread, if one takes it over meanwhile, as it may once this process has given no sign for long. Raises
    ConfigError if another process drives it."""
    _wait_for_silence(study, say, _WATCH * beat / _BEAT)
    own, over = {**_self(), "id": secrets.token_hex(8)}, threading.Event()

    def give_signs() -> None:
        count = 0
        while not over.wait(beat):
            now = _sign(study)
            if now is not None and now["id"] != own["id"]:
                lost(f"{_described(now)} has taken it over")
                return
            count += 1
            study.set_user_attr(_DRIVER, {**own, "count": count})

    study.set_user_attr(_DRIVER, own)
    thread = threading.Thread(target=give_signs, name="signs of life", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(beat)
        if (_sign(study) or own)["id"] == own["id"]:
            study.set_user_attr(_DRIVER, None)


def _sign(study: Study) -> dict[str, Any] | None:
    return storage_of(study).get_study_user_attrs(id_of_study(study)).get(_DRIVER)


def _wait_for_silence(study: Study, say: Callable[[str], None], seconds: float) -> None:
    first = _sign(study)
    if first is None or _has_ended(first):
        return
    say(f"{_described(first)} drove this search; seeing for {seconds:.0f} s whether it still does ...")
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(min(1.0, seconds / 10))
        if _sign(study) != first:
            raise ConfigError(
                f"the search is being driven by {_described(first)}; wait for its end, or end it there"
            )
