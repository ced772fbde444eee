"""Whatever signal ends a command, whatever it waits for: status 130, one sentence, in time, nothing left."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest

from search.base import signals
from search.base.limits import Limits
from search.base.signals import ENDING, ends_on_signal

pytestmark = pytest.mark.slow

TO_TEST = [*ENDING, signal.SIGALRM]


def test_running_epochs_get_some_seconds_and_then_signals_mean_what_they_did(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(signals, "_GRACE", 0.3)
    before = [signal.getsignal(number) for number in TO_TEST]
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        limits = Limits(None, None, 1.0)
        said: list[str] = []
        with ends_on_signal(limits, said.append):
            os.kill(os.getpid(), number)
            assert limits.reached() == "interrupted"
            assert said[0].startswith(f"{number.name}: finishing the running epochs (0.3 s at most)")
        time.sleep(0.4)  # those that ended in time are not disturbed
        limits = Limits(None, None, 1.0)
        with pytest.raises(KeyboardInterrupt), ends_on_signal(limits, said.append):
            began = time.monotonic()
            os.kill(os.getpid(), number)
            time.sleep(5)
        assert 0.2 < time.monotonic() - began < 2
    assert before == [signal.getsignal(number) for number in TO_TEST]


@pytest.mark.parametrize("twice", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_process_and_to_its_group_is_one(twice: signal.Signals) -> None:
    """`timeout` sends SIGTERM to its child, then to the group that both are in."""
    limits = Limits(None, None, 1.0)
    said: list[str] = []
    with ends_on_signal(limits, said.append):
        os.kill(os.getpid(), twice)
        os.kill(os.getpid(), twice)
        time.sleep(0.05)
    assert limits.interrupted
    assert len(said) == 1


@pytest.mark.parametrize("kinds", [[signal.SIGINT, signal.SIGINT], [signal.SIGQUIT]])
def test_a_second_ctrl_c_and_sigquit_interrupt_at_once(kinds: list[signal.Signals]) -> None:
    with pytest.raises(KeyboardInterrupt), ends_on_signal(Limits(None, None, 1.0), lambda _: None):
        for number in kinds:
            os.kill(os.getpid(), number)
        time.sleep(5)


#: A command that waits as a call of Ray's C++ code does: Python's handlers do not run, nor does it return.
_STUCK = """
import ctypes, subprocess, sys
from search.base import signals
signals._PATIENCE = 0.5
with signals.ends_in_time("lictune: {}; to go on: ...".format):
    child = subprocess.Popen(["sleep", "60"], start_new_session=True)
    print(child.pid, flush=True)
    mutex = ctypes.create_string_buffer(64)
    libc = ctypes.CDLL(None)
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_lock(mutex)
"""


@pytest.mark.parametrize("number", ENDING)
def test_a_command_that_cannot_answer_is_ended_with_all_that_it_started(number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _STUCK], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as command:
        assert command.stdout is not None and command.stderr is not None
        child = psutil.Process(int(command.stdout.readline()))
        time.sleep(0.2)
        command.send_signal(number)
        assert command.wait(10) == 130
        assert command.stderr.read() == "lictune: interrupted; to go on: ...\n"
    assert psutil.wait_procs([child], timeout=5)[1] == []


#: A command that has started Ray and waits; the environment names a Ray that is not there.
_WITH_RAY = """
import os, time
from search.base import signals
from search.engine import cluster
try:
    with signals.ends_in_time("lictune: {}".format):
        cluster.connect(None, 1)
        print(*(process.pid for process in cluster._own), flush=True)
        time.sleep(60)
except KeyboardInterrupt:
    cluster.disconnect()
    raise SystemExit(130)
"""


@pytest.fixture
def foreign_ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A stale note of a cluster, and variables that name one."""
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setenv("RAY_NAMESPACE", "theirs")
    # pytest's own folder is longer than a socket's path may be.
    with TemporaryDirectory(prefix="l") as folder:
        (Path(folder) / "ray").mkdir()
        (Path(folder) / "ray" / "ray_current_cluster").write_text("127.0.0.1:2")
        monkeypatch.setenv("RAY_TMPDIR", folder)
        yield Path(folder)


@pytest.mark.usefixtures("foreign_ray")
def test_a_signal_to_the_group_does_not_reach_a_ray_of_ones_own() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _WITH_RAY], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    ) as command:  # fmt: skip
        assert command.stdout is not None and command.stderr is not None
        vital = [psutil.Process(int(pid)) for pid in command.stdout.readline().split()]
        assert sorted(process.name() for process in vital) == ["gcs_server", "raylet"], command.stderr.read()
        everything = psutil.Process(command.pid).children(recursive=True)
        assert command.pid not in {os.getsid(process.pid) for process in everything}
        began = time.monotonic()
        os.killpg(command.pid, signal.SIGTERM)
        assert command.wait(30) == 130
        assert time.monotonic() - began < 20
        assert not re.search("Traceback|SIGTERM", said := command.stderr.read()), said
    assert psutil.wait_procs(everything, timeout=10)[1] == []


#: A command that waits for an answer of a Ray whose GCS has been killed: Ray's own code gives it 60 s.
_WITHOUT_GCS = """
from search.base import signals
from search.engine import cluster
cluster._PATIENCE_WITH_RAY = 1.0
with signals.ends_in_time("lictune: {}; to go on: ...".format):
    cluster.connect(None, 1)
    for process in cluster._own:
        if process.name() == "gcs_server":
            process.kill()
    cluster.resource("CPU")
"""


def test_a_ray_that_was_killed_is_not_waited_for() -> None:
    done = subprocess.run([sys.executable, "-c", _WITHOUT_GCS], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        2, "lictune: Ray on this machine has died, or was killed; to go on: ...\n",
    )  # fmt: skip
