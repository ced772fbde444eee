"""How many trials share a GPU: the choice, with given measurements, and the measuring itself, on the CPU."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from search.engine.cluster import ClusterError
from search.engine.sharing import Footprint, Sharing, choose
from search.settings.config import resolve

GIB = 2**30


def chosen(speeds: list[float], trial: float = 1.0, total: float = 80.0, cores: int = 64) -> Sharing:
    """The choice where so many images are trained in a second, by the number of trials at once; beyond those
    given the measurement fails."""

    def speed(count: int) -> float:
        if count > len(speeds):
            raise ClusterError("CUDA out of memory")
        return speeds[count - 1]

    return choose(Footprint(int(trial * GIB), int(total * GIB)), cores, speeds[0], speed)


def test_trials_are_added_while_they_add_a_tenth() -> None:
    found = chosen([100, 180, 200, 219, 500])
    assert (found.trials, found.speeds) == (3, (100, 180, 200, 219))
    assert "another trial adds less than 10 %" in found.why
    assert chosen([100, 111, 123, 136, 137]).trials == 4
    assert chosen([100, 109]).trials == 1
    assert chosen([100, 60]).trials == 1


def test_nine_tenths_of_the_memory_bound_the_number() -> None:
    fast = [100.0 * count for count in range(1, 40)]
    assert (chosen(fast, 30, 80).trials, chosen(fast, 24, 80).trials, chosen(fast, 23.9, 80).trials) == (
        2,
        3,
        3,
    )
    assert chosen(fast, 18.1, 80).trials == 3
    assert chosen(fast, 75, 80) == Sharing((100,), Footprint(75 * GIB, 80 * GIB), 1, "memory is full")


def test_every_trial_has_a_core_and_sixteen_are_enough() -> None:
    fast = [100.0 * 2**count for count in range(40)]
    assert (chosen(fast, cores=5).trials, chosen(fast, cores=5).why) == (5, "no CPU core left")
    assert chosen(fast, 0.1).trials == 16
    assert chosen(fast, cores=0).trials == 1


def test_a_number_that_fails_is_not_chosen() -> None:
    found = chosen([100, 190])
    assert found.trials == 2 and "another trial fails (CUDA out of memory)" in found.why


def test_the_first_lines_tell_what_was_measured() -> None:
    found = chosen([100, 180, 200, 205], trial=10.5)
    assert str(found) == (
        "3 trials per GPU: another trial adds less than 10 % (total images/s by number of trials 1: 100.0, "
        "2: 180.0, 3: 200.0, 4: 205.0; one trial needs 10.50 of 80.0 GiB)"
    )
    assert found.slowdown == pytest.approx(3 * 100 / 200)


def test_auto_is_the_default_without_a_gpu_and_left_to_the_measurement_with_one() -> None:
    without, with_one = (
        resolve({"trials_per_gpu": "auto"}, {}, lambda _: 0).settings,
        resolve({"trials_per_gpu": "auto"}, {}, lambda _: 1).settings,
    )
    assert (without.trials_per_gpu, without.trial_gpus) == (0, 0.0)
    assert (with_one.trials_per_gpu, with_one.trial_gpus) == ("auto", 1.0)


_MEASURE = """
import json
from search.engine import cluster
from search.settings.config import resolve
cluster.connect(None, 2)
from search.settings.plan import template_of
from search.engine.sharing import measure_sharing
given = {"preset": "tiny", "model": "hyperprior", "width": "8", "start": "scratch", "data": "deadleaves",
         "test": "deadleaves", "test_images": "1", "val_images": "1"}
found = measure_sharing(template_of(resolve(given, {}, lambda _: 0).settings), 2, seconds=2.0)
import ray, time
until = time.monotonic() + 30
while (free := ray.available_resources()["CPU"]) < 2 and time.monotonic() < until:
    time.sleep(0.1)
cluster.disconnect()
cluster.connect(None, 1)  # as a search does after it has measured
cluster.disconnect()
print(json.dumps([found.trials, found.speeds, found.footprint.trial, found.footprint.total, free]))
"""


@pytest.mark.smoke
def test_it_is_measured_on_a_device() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    trials, speeds, trial, total, free = json.loads(done.stdout.splitlines()[-1])
    assert 1 <= trials <= len(speeds) == 2
    assert all(1 < speed < 1e5 for speed in speeds)
    # Two processes that share two cores: not for nothing, and not as if they were alone by far.
    assert 0.3 < speeds[1] / speeds[0] < 3
    assert 100 * 2**20 < trial < total
    assert free == 2  # what was set aside for it is free again
