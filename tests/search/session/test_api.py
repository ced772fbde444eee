"""The search from Python."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest
from matplotlib.figure import Figure

import search
from lic.evaluation.bdrate import CurveError
from search.session import api
from search.store.find import FolderError
from tests.support.made_up import made_up_search

#: A search of seconds: generated pictures, a narrow model, few steps.
SMALL: dict[str, Any] = {
    "model": "hyperprior", "preset": "tiny", "width": 8, "start": "scratch", "budget": 2, "epochs": 2,
    "grace": 1, "steps_per_epoch": 2, "rates": (1, 3), "data": "deadleaves",
    "test": "deadleaves", "test_images": 2, "val_images": 2, "workers": 1, "trials_per_gpu": 0,
}  # fmt: skip


def test_the_package_imports_nothing_heavy() -> None:
    code = "import search, sys; sys.exit('torch' in sys.modules or 'optuna' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert set(search.__all__) <= {*dir(search), *search.__all__}
    with pytest.raises(AttributeError, match="no attribute 'tuned'"):
        search.tuned  # noqa: B018


def test_a_search_in_a_thread_and_what_is_read_of_it(tmp_path: Path, cache: Path) -> None:
    """`tune` ends no process and prints nothing; its tables are those of the folder."""
    found: list[search.Search] = []

    def work() -> None:
        found.append(search.tune(**SMALL, results=tmp_path, cache=cache))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    (result,) = found
    assert set(result.best) == {1, 3}
    assert result.best[3].lmbda == pytest.approx(0.0067)
    for name in ("rates", "strategies", "trials"):
        expected = pd.read_csv(result.folder / "tables" / f"{name}.csv")
        assert list(result.table(name).columns) == list(expected.columns)
        assert len(result.table(name)) == len(expected)
    assert isinstance(result.plot(), Figure)
    zoo = result.export(tmp_path / "zoo")
    assert (zoo / "q3.safetensors").is_file() or list(zoo.rglob("*.safetensors"))
    with pytest.raises(search.SearchError, match="--overwrite"):
        result.export(tmp_path / "zoo")
    assert search.load("last", tmp_path).folder == result.folder
    assert search.resume(result.folder.name, results=tmp_path).table().equals(result.table())


@pytest.fixture
def interruptible() -> Iterator[None]:
    """As in a terminal: a job in the background and pytest-xdist's processes ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("stubborn", [False, True])
def test_an_interrupt_ends_what_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stubborn: bool
) -> None:
    """Twice, if the first has no effect; as a notebook's kernel does it."""
    handler = "signal.SIG_IGN" if stubborn else "signal.SIG_DFL"
    code = f"import os, signal, time\nsignal.signal(signal.SIGINT, {handler})\n"
    code += f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)\n"
    (tmp_path / "slow_command.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def interrupt() -> None:
        while not (tmp_path / "pid").is_file() or not (tmp_path / "pid").read_text():
            time.sleep(0.1)
        for _ in range(1 + stubborn):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        api._run("slow_command", [])
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


def test_a_wrong_setting_is_the_commands_sentence(tmp_path: Path) -> None:
    with pytest.raises(search.SearchError, match="did you mean 'budget'"):
        search.tune(budjet=3, results=tmp_path)
    with pytest.raises(search.SearchError, match=r"^lr .*cannot be used"):
        search.tune(lr=-1, results=tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FolderError):
        search.load("nothing", tmp_path)
    result = search.load(str(made_up_search(tmp_path / "made-up")))
    with pytest.raises(ValueError, match="choose rates, strategies or trials"):
        result.table("rate")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="choose from"):
        result.bd_rate("x")
    with pytest.raises(CurveError):
        search.load(str(made_up_search(tmp_path / "begun", count=1))).bd_rate()


def test_a_simulation_finds_what_there_is() -> None:
    outcome = search.Simulation(
        lambda alpha, strategy, lmbda, epoch, seed: 5.0 if alpha > 1e-6 else -2.0,  # noqa: ARG005
        budget=24, sampler="random", stopping=False,
    ).run()  # fmt: skip
    assert outcome.trials == 24
    assert all(0 < point.alpha <= 1e-6 for point in outcome.recommended)
