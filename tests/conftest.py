"""Small real images for every test, the project's photographs where they are, and one real search."""

from __future__ import annotations

import contextlib
import functools
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from xdist.scheduler import LoadScopeScheduling

from lic.data.cache import PackedImages
from lic.data.deadleaves import pack_dead_leaves
from lic.training.trial import Trial, TrialConfig
from search.base.space import Candidate, SearchPoint
from search.engine.tune import training_config_of
from search.records.search_records import TrialRecord
from tests.support import objects
from tests.support.database import MISSING, Database, temporary_database

# As trials are trained; and several threads of small tensors wait for each other where cores are busy.
torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"
HAVE_DATA = (SHARED / "kodak").is_dir() and (SHARED / "bsds500").is_dir()

#: The test set of the real search: the paper's two example images, kodim07 and kodim08, are in it.
TEST_SET = "kodak_first8" if HAVE_DATA else "deadleaves"


class ByFile(LoadScopeScheduling):  # type: ignore[misc]  # it has no types
    """Of several processes (`make test`) one runs all files with tests on the real search, so that it is run
    once; the tests of any other file share its fixtures."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "real" if _on_the_real_search(ROOT / file) else file


@functools.cache
def _on_the_real_search(file: Path) -> bool:
    return re.search(r"\breal: ", file.read_text()) is not None


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    """In place of pytest-xdist's own groups: those of its version 3.8 have no effect with pytest 9.2."""
    return ByFile(config, log)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def leaves(cache: Path) -> PackedImages:
    """Four dead-leaves pictures of 256 x 384."""
    return pack_dead_leaves(500, 4, cache)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A folder of six small PNG images in two subfolders."""
    draw = np.random.default_rng(1)
    for number in range(6):
        folder = tmp_path / "photographs" / f"part{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(0, 256, (80 + number, 96, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "photographs"


@pytest.fixture(scope="session")
def database() -> Iterator[Database]:
    """A PostgreSQL server with a database that is used and one that stays empty."""
    if MISSING:
        pytest.skip(MISSING)
    with temporary_database("lictune", "empty") as made:
        yield made


@pytest.fixture(scope="session")
def object_server() -> Iterator[objects.ObjectStore]:
    if objects.MISSING:
        pytest.skip(objects.MISSING)
    with objects.object_store() as made:
        yield made


@pytest.fixture
def store(object_server: objects.ObjectStore, monkeypatch: pytest.MonkeyPatch) -> objects.ObjectStore:
    """An object store, with an account for it in the environment."""
    for key, value in objects.ACCOUNT.items():
        monkeypatch.setenv(key, value)
    return object_server


@pytest.fixture(scope="session")
def kodak_folder() -> Path:
    if not (SHARED / "kodak").is_dir():
        pytest.skip("the Kodak images are not at ../shared/data/kodak")
    return SHARED / "kodak"


def assert_as_trained_alone(record: TrialRecord, template: TrialConfig) -> None:
    """Trained again, outside Ray: the same figures to the last bit."""
    point = Candidate(record.name, record.role, record.point, record.seed)
    trial = Trial(training_config_of(point, template))
    if record.fork:
        baseline = Trial(training_config_of(replace(point, point=SearchPoint(record.quality)), template))
        for _ in range(record.fork):
            baseline.run_epoch()
        with TemporaryDirectory() as folder:
            baseline.save(Path(folder) / "fork.pt")
            trial.fork(Path(folder) / "fork.pt")
    for epoch in range(record.fork + 1, record.last_epoch + 1):
        again = trial.run_epoch().figures
        for name, value in record.readings[epoch].items():
            if not name.startswith(("time/", "memory/")):
                assert again[name] == value, (record.name, epoch, name)


@contextlib.contextmanager
def meanwhile(action: Callable[[], None], every: float) -> Iterator[None]:
    """Do something again and again, so many seconds apart, in a thread of its own."""
    over = threading.Event()

    def repeat() -> None:
        while not over.wait(every):
            action()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def search_command(results: Path, name: str | None) -> list[str]:
    named = [] if name is None else ["--name", name]
    return [sys.executable, "-m", "search.run", "--results", str(results), *named]


def run_search(results: Path, name: str | None, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*search_command(results, name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)


def interrupted_at(line: str, command: list[str], by: signal.Signals = signal.SIGINT) -> str:
    """Run a search's command, with a Ctrl-C or another signal at the line of its output that starts so; what
    it printed."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        printed = ""
        for text in process.stdout:
            printed += text
            if text.startswith(line):
                process.send_signal(by)
        assert process.wait() == {signal.SIGINT: 130}.get(by, -by), printed
    return printed


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A search of the tiny preset on two workers, shortened; on the photographs if they are there."""
    results = tmp_path_factory.mktemp("results")
    images = ["--test", "deadleaves"]
    if HAVE_DATA:
        images = ["--data", str(SHARED / "bsds500"), "--kodak", str(SHARED / "kodak"), "--test-images", "8"]
    done = run_search(
        results, "real", "--model", "hyperprior", "--preset", "tiny", "--budget", "8", "--epochs", "3",
        "--steps-per-epoch", "30", "--val-images", "8", "--workers", "2", "--cadence", "dense",
        "--log-to", "tensorboard",
        "--alpha-max", "1e-7", *images,  # small enough for some trials to be better than their baseline
    )  # fmt: skip
    return results, done
