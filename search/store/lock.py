"""Ensures that one process drives a search: a lock file in its folder and, if the trials are in a shared
database, a heartbeat there.

The system releases the lock file when its process ends in any way. The heartbeat then stops, and another host
that sees it unchanged can take over the search.
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

#: Seconds between heartbeats, and how long an unchanged heartbeat is watched before taking over.
_BEAT, _WATCH = 10.0, 45.0

#: The study's user attribute with the heartbeat, and the file with the holder of the lock.
_DRIVER, _HOLDER = "driver", ".driver.json"


def driver_lock(folder: Path) -> FileLock:
    """The lock file of a running search."""
    return FileLock(folder / ".driver.lock")


def is_running(folder: Path) -> bool:
    """Whether a process on this machine drives the search in this folder."""
    try:
        with driver_lock(folder).acquire(timeout=0):
            return False
    except Timeout:
        return True


@contextlib.contextmanager
def only_driver(folder: Path) -> Iterator[None]:
    """Hold the lock of the search in this folder, which is created if missing. Raises ConfigError, naming the
    process, if another process holds it; OSError if the folder cannot be written to."""
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
        raise ConfigError(f"{folder} is in use by {who}; wait until it ends, or stop it") from error


def _self() -> dict[str, Any]:
    """Identifies this process."""
    process = psutil.Process()
    return {"host": socket.gethostname(), "pid": process.pid, "since": process.create_time(),
            "user": getpass.getuser() if "USER" in os.environ else str(os.getuid())}  # fmt: skip


def _described(holder: dict[str, Any]) -> str:
    since = time.strftime("%Y-%m-%d %H:%M", time.localtime(holder["since"]))
    return f"process {holder['pid']} of {holder['user']} on {holder['host']}, since {since}"


def _has_ended(holder: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine that has ended."""
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
    """Send heartbeats as the only process, on any machine, that drives the search of this study. `lost` is
    called, in another thread, if another process takes over after heartbeats were missing for long. Raises
    ConfigError if another process drives the search."""
    _wait_for_silence(study, say, _WATCH * beat / _BEAT)
    own, over = {**_self(), "id": secrets.token_hex(8)}, threading.Event()

    def give_signs() -> None:
        count = 0
        while not over.wait(beat):
            now = _sign(study)
            if now is not None and now["id"] != own["id"]:
                lost(f"{_described(now)} has taken over this search")
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
    say(f"{_described(first)} drove this search; checking for {seconds:.0f} s whether it still runs ...")
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(min(1.0, seconds / 10))
        if _sign(study) != first:
            raise ConfigError(
                f"the search is running as {_described(first)}; wait until it ends, or stop it there"
            )
