"""Two hosts on one machine: network namespaces with addresses of their own and nothing in common but a folder
that stands for shared storage; Ray across them, and PostgreSQL on the first.

Needs root, iproute2, util-linux and PostgreSQL's server; `MISSING` says what is not there.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.support import database
from tests.support.database import Database

_TOOLS = ("ip", "unshare", "nsenter", "mount")
LINK = "link0"
PORT, DATABASE_PORT, MLFLOW_PORT = 6379, 5432, 5000


def _missing() -> str:
    if os.geteuid() != 0:
        return "two hosts need root, for network namespaces"
    absent = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if absent:
        return f"two hosts need {', '.join(absent)}"
    if database.MISSING:
        return database.MISSING
    made = subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True, check=False)
    return "" if made.returncode == 0 else "two hosts need the right to make namespaces"


MISSING = _missing()


@dataclass
class Host:
    """A network namespace with its own address, and a mount namespace with its own /tmp/ray, home and
    `private` folder, where other hosts see an empty one."""

    name: str
    address: str
    private: Path
    token: str
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    pid: int = 0

    def command(self, *words: str) -> list[str]:
        return ["nsenter", "--target", str(self.pid), "--mount", "--net", "--", *words]

    def start(self, *words: str, log: Path | None = None, **environment: str) -> subprocess.Popen[bytes]:
        """Start a command on this host, as the head of a process group."""
        with (log or Path(os.devnull)).open("a") as said:
            process = subprocess.Popen(
                self.command(*words), stdout=said, stderr=said, stdin=subprocess.DEVNULL,
                env=self.environment(**environment), start_new_session=True,
            )  # fmt: skip
        self.processes.append(process)
        return process

    def run(self, *words: str, timeout: float, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words), capture_output=True, text=True, timeout=timeout, check=False,
            env=self.environment(**environment),
        )  # fmt: skip

    def environment(self, **more: str) -> dict[str, str]:
        own = {
            "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token, "HOME": str(self.private),
            "RAY_DISABLE_DOCKER_CPU_WARNING": "1", "RAY_USAGE_STATS_ENABLED": "0",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "PGPASSWORD": self.token,
        }  # fmt: skip
        return {**os.environ, **own, **more}

    def stop(self) -> None:
        for process in reversed(self.processes):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.processes.clear()


@dataclass
class TwoHosts:
    first: Host
    second: Host
    shared: Path
    logs: Path
    database: Database
    cpus: int = 1

    @property
    def study(self) -> str:
        return self.database.url("lictune")

    @property
    def head(self) -> str:
        return f"{self.first.address}:{PORT}"

    @property
    def mlflow(self) -> str:
        return f"http://{self.first.address}:{MLFLOW_PORT}"

    def start_ray(self, host: Host) -> subprocess.Popen[bytes]:
        """Ray on one host: the first is the head, the second joins it."""
        where = [f"--node-ip-address={host.address}", f"--num-cpus={self.cpus}", "--disable-usage-stats"]
        role = [f"--address={self.head}"]
        if host is self.first:
            role = ["--head", f"--port={PORT}", "--include-dashboard=false"]
        ray = str(Path(sys.executable).with_name("ray"))
        return host.start(ray, "start", *role, *where, "--block", log=self.logs / f"ray-{host.name}.log")

    def cut(self) -> None:
        """Take the link between the hosts away."""
        _ip("-n", self.first.name, "link", "set", LINK, "down")

    def restore(self) -> None:
        _ip("-n", self.first.name, "link", "set", LINK, "up")
        _ip("-n", self.first.name, "route", "replace", "default", "via", self.second.address)

    def start_mlflow(self) -> None:
        """An MLflow server on the first host, over PostgreSQL."""
        store = self.database.url("mlflow")
        words = ["--host", self.first.address, "--port", str(MLFLOW_PORT), "--workers", "1"]
        words += ["--backend-store-uri", store, "--artifacts-destination", str(self.shared / "artifacts")]
        words += ["--allowed-hosts", f"{self.first.address}:{MLFLOW_PORT}"]
        self.first.start(sys.executable, "-m", "mlflow", "server", *words, log=self.logs / "mlflow.log")
        self.wait_for(f"{self.mlflow}/health")

    def wait_for(self, address: str) -> None:
        probe = f"import urllib.request; urllib.request.urlopen({address!r}, timeout=2)"
        until = time.monotonic() + 90
        while self.first.run(sys.executable, "-c", probe, timeout=20).returncode != 0:
            if time.monotonic() > until:
                raise RuntimeError(f"{address} does not answer; see {self.logs}")
            time.sleep(1)

    def wait_for_nodes(self, count: int) -> None:
        """Until Ray counts so many nodes alive."""
        ask = "import ray; ray.init(address='auto', log_to_driver=False, logging_level=40)\n"
        ask += "print(sum(n['Alive'] for n in ray.nodes()))"
        until = time.monotonic() + 90
        while True:
            found = self.first.run(sys.executable, "-c", ask, timeout=180)
            if found.stdout.strip() == str(count):
                return
            if time.monotonic() > until:
                raise RuntimeError(f"Ray has {found.stdout.strip() or 0} nodes, not {count}: {found.stderr}")
            time.sleep(1)


@contextlib.contextmanager
def two_hosts() -> Iterator[TwoHosts]:
    """The hosts with Ray on both and PostgreSQL and MLflow on the first; all gone afterwards."""
    # Not below pytest's own folder: the database server's user must be able to enter.
    root = Path(tempfile.mkdtemp(prefix="lictune-hosts-"))
    root.chmod(0o755)
    for name in ("shared", "logs"):
        (root / name).mkdir()
    token, tag = secrets.token_hex(32), root.name[-6:]
    hosts = []
    try:
        for number in (1, 2):
            host = Host(f"lt{tag}{number}", f"10.213.77.{number}", root / "private", token)
            _ip("netns", "add", host.name)
            hosts.append(host)
        ends = [["name", LINK, "netns", host.name] for host in hosts]
        _ip("link", "add", *ends[0], "type", "veth", "peer", *ends[1])
        for host, other in (hosts, reversed(hosts)):
            _ip("-n", host.name, "link", "set", "lo", "up")
            _ip("-n", host.name, "addr", "add", f"{host.address}/24", "dev", LINK)
            _ip("-n", host.name, "link", "set", LINK, "up")
            _ip("-n", host.name, "route", "add", "default", "via", other.address)
            _own_mounts(host)
        first, logs = hosts[0], root / "logs"
        server = Database(logs, first.address, DATABASE_PORT, token, lambda words: first.command(*words))
        both = TwoHosts(first, hosts[1], root / "shared", logs, server)
        server.create("lictune", "mlflow")
        both.start_mlflow()
        for host in hosts:
            both.start_ray(host)
        both.wait_for_nodes(2)
        yield both
        server.stop()
    finally:
        for host in hosts:
            host.stop()
            if host.pid:
                os.kill(host.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.CalledProcessError):
                _kill_all(host.name)
                _ip("netns", "delete", host.name)
        shutil.rmtree(root, ignore_errors=True)


def _own_mounts(host: Host) -> None:
    """A process that keeps the host's mounts: everything as it is but /tmp/ray and the private folder."""
    host.private.mkdir(exist_ok=True)
    Path("/tmp/ray").mkdir(exist_ok=True)
    mounts = f"mount -t tmpfs tmpfs /tmp/ray && mount -t tmpfs tmpfs {host.private} && exec sleep infinity"
    inside = ["unshare", "--mount", "--propagation", "private", "sh", "-c", mounts]
    keeper = subprocess.Popen(["ip", "netns", "exec", host.name, *inside], start_new_session=True)
    host.pid = keeper.pid
    until = time.monotonic() + 10
    while Path(f"/proc/{keeper.pid}/comm").read_text().strip() != "sleep":
        if time.monotonic() > until or keeper.poll() is not None:
            raise RuntimeError(f"the mounts of {host.name} could not be made")
        time.sleep(0.05)


def _kill_all(namespace: str) -> None:
    found = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True, check=True)
    for pid in found.stdout.split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
