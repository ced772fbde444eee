"""The Ray cluster that a search runs on: this machine, or one that is there."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import secrets
import shlex
import socket
import sys
import threading
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from lic.cli import USER_ERROR
from lic.errors import LictuneError
from search.base.foreign_variables import ignore_foreign
from search.base.signals import end_process
from search.engine import devices, ray_internals

if TYPE_CHECKING:
    from search.store.checkpoints import Checkpoints

#: Seconds that a node has to answer whether it can take part.
_PATIENCE = 120.0


class ClusterError(LictuneError):
    """A cluster that a search cannot run on; the message names the address or the node."""


class RayDiedError(ClusterError):
    """The Ray that this process is connected to is no more, and nothing can be trained on it."""


#: The processes of the Ray that was started here, without which it cannot be.
_own: list[psutil.Process] = []

_VITAL = ("raylet", "gcs_server")

#: What Ray puts behind the path of its folder for a socket, and how long that may be (sockaddr_un; macOS's).
_SOCKET, _SOCKET_BYTES = "/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store.999", 103

#: How often it is tried to start Ray on this machine.
_STARTS = 3

#: Seconds between two questions whether Ray is still there, and after which a process that waits for a Ray
#: that is not is ended: Ray's C++ code does so after 60 without a word.
_ASK_EVERY, _PATIENCE_WITH_RAY = 5.0, 30.0

_DIED = "Ray on this machine has died, or was killed"


def prepare(address: str | None) -> list[str]:
    """Set the environment that Ray reads when it is imported; the names of variables that were set otherwise,
    or would change what is started (search.base.foreign_variables), and are ignored."""
    ignored = ignore_foreign(os.environ, local=not address)
    # Ray's own table of trials, its log files and its record of their states would only repeat what is in
    # the results.
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = "inf"
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # signals are ours to answer
    os.environ["RAY_DISABLE_FAILURE_SIGNAL_HANDLER"] = "1"
    # All free places of a cluster are filled at once, not one after another; `TrialCapacity` counts
    # them.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = "100000"
    if not address:
        # Ray's name for: this machine alone. Without it every port of Ray's is open to the network, and the
        # address 127.0.0.1 is taken for a wish to be reached from outside.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    if not address and "RAY_AUTH_MODE" not in os.environ:
        # A token of our own, for this process and its workers. Left to itself Ray writes one to the
        # home folder, which changes what a later `ray start` does.
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    return [name for name in ignored if name not in os.environ]


def connect(address: str | None, workers: int = 0, gpus: float = 0) -> None:
    """Join the cluster at `address`, or start a Ray of its own on this machine, dashboard off, for `workers`;
    nothing happens if that was done. Raises ClusterError."""
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        return
    prepare(address)

    ray_internals.keep_keys_here()
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address:
        _join(address, quiet)
    else:
        # Ray puts the path of this Python, which may have blanks in it, into a shell's line as it is.
        quiet["runtime_env"] = {"py_executable": shlex.quote(sys.executable)}
        # "local": also where the environment or a file in /tmp/ray names a Ray that is or was there.
        _start({"address": "local", "num_cpus": workers, "num_gpus": gpus or None,
                "include_dashboard": False, **quiet})  # fmt: skip
    # What Ray logs goes where all libraries' logs go, not to the terminal.
    logging.getLogger("ray").handlers.clear()
    logging.getLogger("ray").propagate = True
    ray_internals.on_worker_output(_log_lines)


def _join(address: str, options: dict[str, Any]) -> None:
    import ray

    try:
        with ray_internals.signals_are_ours():
            ray.init(address=address, **options)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise ClusterError(
            f"there is no Ray cluster to join at {address}, or its token is not that of RAY_AUTH_TOKEN or "
            f"RAY_AUTH_TOKEN_PATH ({last_line(error)})"
        ) from error


def _start(options: dict[str, Any]) -> None:
    """Start Ray on this machine. It gives its processes 30 seconds, and a machine that does much else can
    need more; what else goes wrong is not tried again."""
    import ray

    options = {**ray_internals.starting_options(_short_folder()), **options}
    before = set(psutil.Process().children(recursive=True))
    for tries_left in reversed(range(_STARTS)):
        try:
            with ray_internals.signals_are_ours():
                ray.init(**options)
            break
        except Exception as error:
            if type(error) is not Exception:  # Ray raises it bare when the time is over
                raise
            ray.shutdown()
            _kill(set(psutil.Process().children(recursive=True)) - before)
            if not tries_left:
                raise ClusterError(
                    f"Ray did not start on this machine in {_STARTS} tries ({last_line(error)}); try again "
                    "when the machine does less"
                ) from error
    _own[:] = [child for child in psutil.Process().children() if child.name() in _VITAL]
    threading.Thread(target=_watch, args=(list(_own),), name="Ray", daemon=True).start()


def _watch(processes: list[psutil.Process]) -> None:
    """End this process if it does not leave a Ray that has died: its calls to Ray would not return."""
    while not any(map(_has_ended, processes)):
        time.sleep(1.0)
        if not processes or _own != processes:
            return
    time.sleep(_PATIENCE_WITH_RAY)
    if _own == processes:
        end_process(_DIED, USER_ERROR)


def _has_ended(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _short_folder() -> str | None:
    """Where Ray is to keep its sockets and logs, if its own choice (TMPDIR) is too long for a socket."""
    longest = ray_internals.default_temp_dir() + _SOCKET
    return None if len(os.fsencode(longest)) <= _SOCKET_BYTES else "/tmp/ray"


def _kill(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _log_lines(said: dict[str, Any], **_options: Any) -> None:
    """In place of Ray's own, which prints the last words of its processes on the terminal."""
    logging.getLogger("ray").warning("\n".join(said["lines"]))


def disconnect() -> None:
    """Leave the cluster; a Ray started here ends with all its processes."""
    import ray

    ray.shutdown()
    _own.clear()


class RayHealthCheck:
    """Sees whether Ray is still there: Ray Tune would wait for it for ever. Raises RayDiedError if not."""

    def __init__(self) -> None:
        self._next = 0.0

    def __call__(self, at_once: bool = False) -> None:
        if time.monotonic() < self._next and not at_once:
            return
        self._next = time.monotonic() + _ASK_EVERY
        import ray

        if any(map(_has_ended, _own)):
            raise RayDiedError(_DIED)
        if not _own:
            here = ray.get_runtime_context().get_node_id()
            if not any(node["Alive"] for node in ray.nodes() if node["NodeID"] == here):
                raise RayDiedError("the node of the cluster that this process is on has died; start it again")


def resource(name: str) -> float:
    """How much of a resource ('CPU', 'GPU') all nodes have together. Ray must be connected."""
    import ray

    return float(ray.cluster_resources().get(name, 0))


@functools.cache
def gpus(address: str | None) -> int:
    """GPUs of the cluster at `address`, or of this machine."""
    if address:
        connect(address)
        return int(resource("GPU"))
    return devices.count()


class TrialCapacity:
    """How many trials the cluster has room for at the moment, as its nodes come and go, but `most` at the
    most. Ray must be connected."""

    def __init__(self, gpus_per_trial: float, most: int | None) -> None:
        self._share, self._most = gpus_per_trial, most
        self._room, self._until = 0, 0.0

    def __call__(self) -> int:
        now = time.monotonic()
        if now >= self._until:
            self._until = now + 1.0  # Ray's loop asks much more often
            room = resource("CPU")
            if self._share:
                room = min(room, resource("GPU") / self._share)
            self._room = int(room) if self._most is None else min(int(room), self._most)
        return self._room


def check_nodes(place: Checkpoints, setting: str, needed: Iterable[Path]) -> None:
    """Make sure that every node has this package, sees what is `needed`, and can read from and write to the
    place that all must share, which `setting` names. Raises ClusterError, which names the node and the place;
    OSError if this process cannot write there."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    token = f".probe-{secrets.token_hex(8)}"
    place.write(token, token)
    visits, seen = {}, [str(path.resolve()) for path in needed]
    visit = ray.remote(num_cpus=0, max_retries=0)(_visit)
    try:
        for node in ray.nodes():
            if node["Alive"] and node["Resources"].get("CPU"):
                here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
                name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
                task = visit.options(scheduling_strategy=here)
                visits[name] = task.remote(place, setting, token, seen, version("lictune"))
        if not visits:
            raise ClusterError("no node of the cluster has a CPU for a trial; start one with ray start")
        for name, answer in visits.items():
            try:
                trouble = ray.get(answer, timeout=_PATIENCE)
            except Exception as error:  # whatever keeps a node from running a task
                trouble = f"cannot run a task of this package ({last_line(error)}); install it there"
            if trouble:
                raise ClusterError(f"the node {name} {trouble}")
    finally:
        place.remove(token)


def _visit(place: Checkpoints, setting: str, token: str, needed: list[str], expected: str) -> str:
    """Runs on a node: why it cannot take part; empty if it can."""
    from lic.errors import StorageError
    from search.store.checkpoints import refusal

    fix = f"{setting} must be on storage that every node mounts there"
    if not place.is_local:
        fix = "every node needs the network, the credentials and the endpoint that the driver has"
    try:
        if place.read(token) != token:
            return f"does not see {place}; {fix}"
    except FileNotFoundError:
        return f"does not see {place}; {fix}"
    except OSError as error:
        return f"cannot read {place} ({refusal(place.storage, error)}); {fix}"
    except StorageError as error:
        return f"says: {error}; {fix}"
    try:
        place.write(f"{token}-{socket.gethostname()}-{os.getpid()}", "")
    except OSError as error:
        why = refusal(place.storage, error)
        return f"cannot write to {place} ({why}); trials keep their checkpoints there"
    for name in needed:
        if not Path(name).exists():
            return f"does not see {name}; put it at the same path on every node"
    if version("lictune") != expected:
        return f"has lictune {version('lictune')}, not {expected}; install the same version on every node"
    return ""


def last_line(error: BaseException) -> str:
    """What went wrong, by the last line of what Ray says."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1][:200]
