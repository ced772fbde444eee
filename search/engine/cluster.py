"""The Ray cluster of a search: a local Ray on this machine, or an existing cluster."""

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

#: Seconds to wait for a node's check.
_PATIENCE = 120.0


class ClusterError(LictuneError):
    """The search cannot run on the cluster; the message has the address or the node."""


class RayDiedError(ClusterError):
    """The Ray instance that this process is connected to has died."""


#: The vital processes of the local Ray.
_own: list[psutil.Process] = []

_VITAL = ("raylet", "gcs_server")

#: The path of a socket in Ray's folder, and the maximum length of a socket path (sockaddr_un on macOS).
_SOCKET, _SOCKET_BYTES = "/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store.999", 103

#: Number of attempts to start Ray on this machine.
_STARTS = 3

#: Seconds between checks whether Ray is alive, and until a process that waits for a dead Ray is ended (Ray's
#: C++ code does this after 60 s without a message).
_ASK_EVERY, _PATIENCE_WITH_RAY = 5.0, 30.0

_DIED = "Ray on this machine has died, or was killed"


def prepare(address: str | None) -> list[str]:
    """Set the environment that Ray reads on import. Returns the names of ignored variables
    (search.base.foreign_variables)."""
    ignored = ignore_foreign(os.environ, local=not address)
    # Turn off Ray Tune's progress table, log files and state files, which duplicate the search's own.
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = "inf"
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # the driver handles signals
    os.environ["RAY_DISABLE_FAILURE_SIGNAL_HANDLER"] = "1"
    # Fill all free slots of a cluster at once instead of one by one; `TrialCapacity` counts them.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = "100000"
    if not address:
        # Restricts Ray to this machine. Otherwise all its ports are open to the network, and Ray takes the
        # address 127.0.0.1 as a request to be reachable from outside.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    if not address and "RAY_AUTH_MODE" not in os.environ:
        # Use a token for this process and its workers. By default Ray writes one to the home folder, which
        # affects a later `ray start`.
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    return [name for name in ignored if name not in os.environ]


def connect(address: str | None, workers: int = 0, gpus: float = 0) -> None:
    """Join the cluster at `address`, or start a local Ray without dashboard for `workers`; does nothing if
    connected. Raises ClusterError."""
    if "ray" in sys.modules and sys.modules["ray"].is_initialized():
        return
    prepare(address)

    ray_internals.keep_keys_here()
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address:
        _join(address, quiet)
    else:
        # Ray does not quote the path of this Python, which may contain blanks, in a shell command.
        quiet["runtime_env"] = {"py_executable": shlex.quote(sys.executable)}
        # "local": ignore another Ray named in the environment or in /tmp/ray.
        _start({"address": "local", "num_cpus": workers, "num_gpus": gpus or None,
                "include_dashboard": False, **quiet})  # fmt: skip
    # Ray's log goes to the log file of all libraries, not to the terminal.
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
            f"cannot join a Ray cluster at {address}: it does not run, or needs another token in "
            f"RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH ({last_line(error)})"
        ) from error


def _start(options: dict[str, Any]) -> None:
    """Start Ray on this machine; retry if its processes do not start within Ray's 30 seconds, as on a busy
    machine."""
    import ray

    options = {**ray_internals.starting_options(_short_folder()), **options}
    before = set(psutil.Process().children(recursive=True))
    for tries_left in reversed(range(_STARTS)):
        try:
            with ray_internals.signals_are_ours():
                ray.init(**options)
            break
        except Exception as error:
            if type(error) is not Exception:  # Ray raises a bare Exception on a timeout
                raise
            ray.shutdown()
            _kill(set(psutil.Process().children(recursive=True)) - before)
            if not tries_left:
                raise ClusterError(
                    f"Ray did not start on this machine in {_STARTS} attempts ({last_line(error)}); try "
                    "again when the machine is less busy"
                ) from error
    _own[:] = [child for child in psutil.Process().children() if child.name() in _VITAL]
    threading.Thread(target=_watch, args=(list(_own),), name="Ray", daemon=True).start()


def _watch(processes: list[psutil.Process]) -> None:
    """End this process if Ray has died and the process does not disconnect: its calls to Ray would hang."""
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
    """The folder for Ray's sockets and logs if its default (TMPDIR) is too long for a socket, else None."""
    longest = ray_internals.default_temp_dir() + _SOCKET
    return None if len(os.fsencode(longest)) <= _SOCKET_BYTES else "/tmp/ray"


def _kill(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _log_lines(said: dict[str, Any], **_options: Any) -> None:
    """Replaces Ray's function that prints the output of its processes to the terminal."""
    logging.getLogger("ray").warning("\n".join(said["lines"]))


def disconnect() -> None:
    """Leave the cluster, or stop the local Ray."""
    import ray

    ray.shutdown()
    _own.clear()


class RayHealthCheck:
    """Checks that Ray is alive, since Ray Tune would wait for a dead Ray forever. Raises RayDiedError."""

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
                raise RayDiedError("the Ray node on this machine has died; restart it")


def resource(name: str) -> float:
    """The amount of a resource ('CPU', 'GPU') over all nodes. Ray must be connected."""
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
    """The number of trials that the cluster currently has room for, as nodes come and go, limited to `most`.
    Ray must be connected."""

    def __init__(self, gpus_per_trial: float, most: int | None) -> None:
        self._share, self._most = gpus_per_trial, most
        self._room, self._until = 0, 0.0

    def __call__(self) -> int:
        now = time.monotonic()
        if now >= self._until:
            self._until = now + 1.0  # Ray's loop calls this much more often
            room = resource("CPU")
            if self._share:
                room = min(room, self._of_gpus())
            self._room = int(room) if self._most is None else min(int(room), self._most)
        return self._room

    def _of_gpus(self) -> float:
        """Number of trials by GPUs; those of a trial are on one node."""
        if self._share <= 1:
            return resource("GPU") / self._share
        return sum(gpus // self._share for gpus in _gpus_of_nodes())


def _gpus_of_nodes() -> list[float]:
    """The number of GPUs of each node. Ray must be connected."""
    import ray

    return [node["Resources"].get("GPU", 0.0) for node in ray.nodes() if node["Alive"]]


def check_gpus(per_trial: int) -> None:
    """Check that a node has this number of GPUs. Ray must be connected. Raises ClusterError."""
    most = max(_gpus_of_nodes(), default=0.0)
    if per_trial > most:
        raise ClusterError(
            f"gpus_per_trial is {per_trial}, but no node of the cluster has more than {most:g} GPUs; use "
            f"{most:g} at most"
        )


def check_nodes(place: Checkpoints, setting: str, needed: Iterable[Path], code: Iterable[str]) -> None:
    """Check that every node has this package, sees the `needed` paths, can import the user's own `code`
    (MODULE:NAME), and can read and write the shared storage given by `setting`. Raises ClusterError, naming
    the node; OSError if this process cannot write to the storage."""
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
                visits[name] = task.remote(place, setting, token, seen, version("lictune"), list(code))
        if not visits:
            raise ClusterError("no node of the cluster has a CPU; start one with 'ray start'")
        for name, answer in visits.items():
            try:
                trouble = ray.get(answer, timeout=_PATIENCE)
            except Exception as error:  # whatever keeps a node from running a task
                trouble = f"cannot run a task of this package ({last_line(error)}); install it there"
            if trouble:
                raise ClusterError(f"the node {name} {trouble}")
    finally:
        place.remove(token)


def _visit(
    place: Checkpoints, setting: str, token: str, needed: list[str], expected: str, code: list[str]
) -> str:
    """Runs on a node; returns why it cannot be used, or an empty string."""
    from lic.errors import StorageError
    from lic.models.architectures import ModelError
    from lic.models.importing import imported
    from search.store.checkpoints import refusal

    fix = f"{setting} must be on storage that every node mounts at the same path"
    if not place.is_local:
        fix = "every node needs the same network access, credentials and endpoint as the driver"
    try:
        if place.read(token) != token:
            return f"does not see {place}; {fix}"
    except FileNotFoundError:
        return f"does not see {place}; {fix}"
    except OSError as error:
        return f"cannot read {place} ({refusal(place.storage, error)}); {fix}"
    except StorageError as error:
        return f"reports: {error}; {fix}"
    try:
        place.write(f"{token}-{socket.gethostname()}-{os.getpid()}", "")
    except OSError as error:
        why = refusal(place.storage, error)
        return f"cannot write to {place} ({why}); trials write their checkpoints there"
    for name in needed:
        if not Path(name).exists():
            return f"does not see {name}; put it at the same path on every node"
    if version("lictune") != expected:
        return (
            f"has lictune {version('lictune')} instead of {expected}; install the same version on every node"
        )
    for name in code:
        try:
            imported(name, "module")
        except ModelError as error:
            return f"reports: {error}; install it on every node"
    return ""


def last_line(error: BaseException) -> str:
    """The last line of an error of Ray."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1][:200]
