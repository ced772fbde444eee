"""Trials on several devices, on Ray's workers: the ranks of a worker take its next trial, and end with it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from lic.recipe import TrainingConfig
from lic.training.trial import ImagesConfig, TrialConfig
from search.base.space import TRIAL, Candidate, SearchPoint
from search.engine import cluster
from tests.search.decide.test_core import PLAN

TRAINING = TrainingConfig(lmbda=0.0067, batch=2, patch=64, epochs=2, steps_per_epoch=2)


def template(photographs: str) -> TrialConfig:
    images = ImagesConfig(photographs, None, photographs, 1, 1, 64, f"{photographs}/../cache")
    return TrialConfig("hyperprior", 8, None, None, TRAINING, images, (1, 2), (2,), devices=2)


class Stopped:
    """Two trials: the first is stopped after its first epoch; a rank of the second is killed after its
    first."""

    plan = PLAN

    def __init__(self) -> None:
        self.left = [Candidate(f"trial-00{n}", TRIAL, SearchPoint(1, "y", 1e-7), 0) for n in range(2)]
        self.heard: list[tuple[str, int]] = []
        self.failed: dict[str, str] = {}
        self.ranks: list[int] = []

    def unfinished(self) -> list[Candidate]:
        return []

    def suggest(self) -> Candidate | None:
        return self.left.pop(0) if self.left else None

    def observe(self, name: str, epoch: int, _figures: dict[str, float], _images: Any) -> None:
        self.heard.append((name, epoch))
        running = psutil.Process().children(recursive=True)
        (rank,) = [process for process in running if "lic.training.rank" in process.cmdline()]
        self.ranks.append(rank.pid)
        if self.heard == [("trial-000", 1), ("trial-001", 1)]:
            rank.kill()

    def decide(self, name: str, epoch: int) -> bool:
        return name == "trial-001" and epoch < TRAINING.epochs

    def waits(self) -> bool:
        return False

    def fail(self, name: str, reason: str) -> None:
        self.failed[name] = reason

    def end(self, name: str, reason: str) -> None:
        pass

    def close(self) -> None:
        pass


#: A process of its own: Ray reads its environment when it is imported.
SEARCH = """
import json, sys
import psutil
from search.engine import cluster
cluster.connect(None, 1)
from search.base.limits import Limits
from search.engine import tune as engine
from search.store.checkpoints import Checkpoints
from tests.search.engine.test_several_devices import Stopped, template
core = Stopped()
execution = engine.Execution(Checkpoints(sys.argv[1]), lambda: 1, 0, 1)
engine.run(core, lambda _: template(sys.argv[2]), lambda: None, Limits(None, None, 0), execution)
cluster.disconnect()
print(json.dumps([core.heard, core.failed, core.ranks]))
"""


@pytest.mark.smoke
def test_ranks_are_reused_replaced_and_ended(tmp_path: Path, photographs: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SEARCH, str(tmp_path / "search"), str(photographs)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    heard, failed, (first, second, third, fourth) = json.loads(done.stdout.splitlines()[-1])
    # The retry tells the first epoch again, from its checkpoint.
    assert heard == [["trial-000", 1], *[["trial-001", epoch] for epoch in (1, 1, 2)]] and failed == {}
    assert first == second != third == fourth
    for rank in (first, third):
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(rank).wait(60)


@pytest.mark.parametrize(("nodes", "trials"), [((4, 4), 4), ((3, 3), 2), ((1, 1, 1), 0), ((0, 8), 4)])
def test_the_gpus_of_a_trial_are_on_one_node(
    monkeypatch: pytest.MonkeyPatch, nodes: tuple[int, ...], trials: int
) -> None:
    monkeypatch.setattr(cluster, "_gpus_of_nodes", lambda: [float(count) for count in nodes])
    monkeypatch.setattr(cluster, "resource", lambda _name: 64.0)
    assert cluster.TrialCapacity(2.0, None)() == trials
    cluster.check_gpus(1)
    if not trials:
        with pytest.raises(cluster.ClusterError, match="no node of the cluster has more than 1 GPUs; use 1"):
            cluster.check_gpus(2)
