"""Searches that something is done to while they run (tests.bench.kills, tests.bench.signals): the place of
one, the moments, and what is to be seen for a moment to have come."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from dashboards.servers import usable_port
from search.decide.core import open_studies
from search.records.search_records import RUNNING, RecordReader, SearchRecords, TrialRecord
from search.settings.config import Settings, recorded_settings
from search.settings.plan import plan_of
from tests.support.database import Database

VICTIMS = ("driver", "worker", "raylet", "mlflow", "database")

#: What happens to a disk: that of the results runs full, or that of the checkpoints can only be read.
DISKS = ("full", "readonly")

_DISK = "400m"

RUNG, EPOCHS, BUDGET = 2, 4, 8
SEARCH = (
    *("--model", "hyperprior", "--preset", "tiny", "--width", "8", "--start", "scratch", "--seed", "3"),
    *("--epochs", str(EPOCHS), "--grace", str(RUNG), "--steps-per-epoch", "25", "--rates", "1,2"),
    *("--data", "deadleaves", "--test", "deadleaves", "--test-images", "2", "--val-images", "2"),
    *("--budget", str(BUDGET), "--no-reuse-baselines"),
)

#: Seconds that a moment is waited for, and that a search has to end.
PATIENCE = 300


@dataclass
class Scene:
    """A search in a folder of its own, and what it needs; `kill` and `mend` what is killed."""

    victim: str
    workers: int
    folder: Path
    cache: Path
    draw: random.Random
    database: Database | None = None
    server: subprocess.Popen[bytes] | None = None
    driver: subprocess.Popen[bytes] | None = None
    port: int = 0
    starts: int = 0
    reader: RecordReader | None = None
    #: Every file of a checkpoint that was seen, by training and epoch.
    written: dict[tuple[str, str], set[int]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.victim}-{self.workers}"

    @property
    def search(self) -> Path:
        return self.folder / "results" / self.name

    @property
    def mlflow(self) -> str:
        return f"http://127.0.0.1:{self.port}" if self.port else f"sqlite:///{self.folder}/results/mlflow.db"

    @property
    def study(self) -> str:
        return self.database.url("lictune") if self.database else f"sqlite:///{self.search}/study.db"

    def start(self, *words: str) -> None:
        command = [sys.executable, "-m", "search.run", "--results", str(self.folder / "results"), *words]
        with (self.folder / "driver.log").open("a") as log:
            self.driver = subprocess.Popen(
                command, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"},
                start_new_session=True,
            )  # fmt: skip
        self.starts += 1

    def start_mlflow(self) -> None:
        store = f"sqlite:///{self.folder}/results/mlflow.db"
        with (self.folder / "mlflow.log").open("a") as log:
            self.server = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store, "--workers", "1",
                 "--host", "127.0.0.1", "--port", str(self.port), "--artifacts-destination",
                 str(self.folder / "artifacts")],
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def children(self, *names: str) -> list[psutil.Process]:
        assert self.driver is not None
        found = psutil.Process(self.driver.pid).children(recursive=True)
        return [process for process in found if process.name().startswith(names)]

    def kill(self) -> str:
        """kill -9 for the victim; how it went on."""
        if self.victim == "driver":
            assert self.driver is not None
            self.driver.kill()
            self.driver.wait()
            return "killed"
        if self.victim == "worker":
            training = self.children("ray::RayTrial", "ray::Resource")
            if not training:
                return ""
            self.draw.choice(training).kill()
            return "went on"
        if self.victim == "raylet":
            for raylet in self.children("raylet"):
                raylet.kill()
            return "went on"
        if self.victim in DISKS:
            return self._spoil_the_disk()
        if self.victim == "mlflow":
            assert self.server is not None
            os.killpg(self.server.pid, signal.SIGKILL)
            self.server.wait()
            time.sleep(self.draw.uniform(0, 4))
            self.start_mlflow()
            return "went on"
        assert self.database is not None
        data = self.database.folder / "postgres"
        os.kill(int((data / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)
        time.sleep(self.draw.uniform(1, 4))
        for attempt in itertools.count():
            try:
                self.database.start()
                return "went on"
            except RuntimeError:  # its memory is still in use by what it left
                if attempt == 20:
                    raise
                time.sleep(1)
        raise AssertionError

    def _spoil_the_disk(self) -> str:
        """Until the search has ended by itself, which it must say in one sentence; how it did."""
        assert self.driver is not None
        if self.victim == "readonly":
            while _mount("-o", "remount,ro", str(self.folder / "storage")):  # while a file is being written
                time.sleep(0.01)
        else:
            with contextlib.suppress(OSError), (self.folder / "results" / "ballast").open("wb") as ballast:
                for size in (1 << 20, 1 << 12, 1 << 9):
                    with contextlib.suppress(OSError):
                        while True:
                            ballast.write(bytes(size))
                            ballast.flush()
        status = self.driver.wait(PATIENCE)
        if self.victim == "readonly":
            assert not _mount("-o", "remount,rw", str(self.folder / "storage"))
        else:
            (self.folder / "results" / "ballast").unlink()
        said = (self.folder / "driver.log").read_text()
        assert "Traceback" not in said, said[-3000:]
        last = said.strip().splitlines()[-1]
        if status == 0:  # all was done but a copy
            return "went on"
        # Before anything was trained, it says what cannot be written; else how to go on, too.
        assert status == 2, (status, said[-2000:])
        assert f"--resume {self.search}" in last or "Read-only file system; " in last, last
        return "ended with 2"

    def records(self) -> SearchRecords:
        if self.reader is None:
            plan = plan_of(Settings(**recorded_settings(self.search)))
            self.reader = RecordReader(open_studies(self.study, self.name), plan, "deadleaves")
        return self.reader.read()

    def look(self) -> None:
        """Note the checkpoints that are there."""
        for path in self.folder.glob("*/*/trials/*/epoch-*.pt"):
            with contextlib.suppress(FileNotFoundError):
                seen = self.written.setdefault((path.parent.name, path.name), set())
                seen.add(path.stat().st_mtime_ns)


#: What is to be seen for a moment to have come: a function of the records when the waiting began and now.
Seen = Callable[[list[TrialRecord], list[TrialRecord]], bool]


def _running(records: list[TrialRecord], epochs: set[int]) -> bool:
    return any(r.role == "trial" and r.state == RUNNING and r.last_epoch in epochs for r in records)


def _reached(records: list[TrialRecord], epoch: int) -> int:
    return sum(r.role == "trial" and epoch in r.readings for r in records)


def _ended(records: list[TrialRecord]) -> int:
    return sum(r.role == "trial" and r.state != RUNNING for r in records)


def wait_for(scene: Scene, seen: Callable[[], bool], pause: float = 0.02) -> bool:
    """Whether it was seen before the search ended."""
    assert scene.driver is not None
    until = time.monotonic() + PATIENCE
    while not seen():
        if scene.driver.poll() is not None:
            return False
        assert time.monotonic() < until, (scene.folder / "driver.log").read_text()[-3000:]
        time.sleep(pause)
    return True


def _of_records(scene: Scene, seen: Seen) -> Callable[[], bool]:
    first: list[list[TrialRecord]] = []

    def look() -> bool:
        try:
            now = scene.records().everything()
        except Exception:  # it has not begun, or its database is away
            return False
        if not first:
            first.append(now)
        return seen(first[0], now)

    return look


def _of_files(scene: Scene, pattern: str) -> Callable[[], bool]:
    return lambda: any(scene.folder.glob(pattern))


#: By moment: what is waited for, and the most seconds that pass then.
MOMENTS: dict[str, tuple[Callable[[Scene], Callable[[], bool]], float, float]] = {
    "during baselines": (lambda s: _of_records(s, lambda _, now: bool(now)), 1.5, 0.2),
    "while a checkpoint is written": (lambda s: _of_files(s, "*/*/trials/*/.*.partial*"), 0.0, 0.003),
    "before a rung": (lambda s: _of_records(s, lambda _, now: _running(now, {RUNG - 1})), 0.3, 0.1),
    "after a rung": (
        lambda s: _of_records(s, lambda old, now: _reached(now, RUNG) > _reached(old, RUNG)), 0.3, 0.1,
    ),
    "while tracking flushes": (lambda s: _of_files(s, "results/mlflow.db-journal"), 0.0, 0.003),
    "at the very end": (lambda s: _of_records(s, lambda _, now: _ended(now) >= BUDGET), 4.0, 0.2),
}  # fmt: skip

#: What trains, and Ray, are gone once all has ended.
LAST = (
    lambda s: _of_records(s, lambda _, now: len(now) == BUDGET + 2 and _ended(now) >= BUDGET - 1),
    0.5,
    0.2,
)


def _mount(*words: str) -> int:
    return subprocess.run(["mount", *words], capture_output=True, check=False).returncode


@contextlib.contextmanager
def scene_of(victim: str, workers: int, cache: Path, seed: int) -> Iterator[Scene]:
    """A place for a search, with a database or an MLflow server if that is the victim."""
    folder = Path(tempfile.mkdtemp(prefix="lictune-kills-"))
    folder.chmod(0o755)
    (folder / "results").mkdir()
    draw = random.Random(f"{victim} {workers} {seed}")
    scene = Scene(victim, workers, folder, cache, draw)
    ports = (port for port in draw.sample(range(15000, 30000), 100) if usable_port(port) == port)
    os.environ["SCENE"] = scene.name
    try:
        if victim == "database":
            scene.database = Database(folder, "127.0.0.1", next(ports), secrets.token_hex(16))
            os.environ["PGPASSWORD"] = scene.database.password
            scene.database.create("lictune")
        if victim in DISKS:
            disk = folder / {"full": "results", "readonly": "storage"}[victim]
            disk.mkdir(exist_ok=True)
            if _mount("-t", "tmpfs", "-o", f"size={_DISK}", "tmpfs", str(disk)):
                raise SystemExit(f"{victim} needs root, to mount a small disk")
        if victim == "mlflow":
            scene.port = next(ports)
            scene.start_mlflow()
        yield scene
    finally:
        for process in (scene.driver, scene.server):
            if process is not None and process.poll() is None:
                process.kill() if process is scene.driver else os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if scene.database is not None:
            with contextlib.suppress(RuntimeError):
                scene.database.stop()
        if victim in DISKS:
            subprocess.run(["umount", "-l", str(disk)], check=False)
        shutil.rmtree(folder, ignore_errors=True)


def undisturbed_search(folder: Path, cache: Path) -> Path:
    """The folder of the same search with one worker, left alone."""
    command = [sys.executable, "-m", "search.run", "--results", str(folder), "--name", "undisturbed", *SEARCH]
    done = subprocess.run(
        [*command, "--workers", "1", "--cache", str(cache)], capture_output=True, text=True, check=False,
        timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "undisturbed"
