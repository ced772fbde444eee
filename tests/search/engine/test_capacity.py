"""How many trials at once: as many as there are cores or GPU shares, and no more than the memory holds."""

from __future__ import annotations

import pytest

from search.engine import capacity
from search.engine.capacity import default_workers, trial_memory
from search.settings.config import resolve
from search.settings.plan import template_of

GIB = 2**30


def workers(
    monkeypatch: pytest.MonkeyPatch, cores: int, gib: float, gpus: int = 0, **given: str
) -> tuple[int, list[str]]:
    monkeypatch.setattr(capacity, "usable_cores", lambda: cores)
    monkeypatch.setattr(capacity, "usable_memory", lambda: int(gib * GIB))
    settings = resolve(given, {}, lambda _: gpus).settings
    said: list[str] = []
    return default_workers(settings, template_of(settings), gpus, said.append), said


def test_one_trial_for_each_core_or_share_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert workers(monkeypatch, 4, 24) == (4, [])
    assert workers(monkeypatch, 4, 24, gpus=1, trials_per_gpu="2") == (2, [])
    assert workers(monkeypatch, 16, 64, gpus=5, gpus_per_trial="2") == (2, [])


def test_no_more_than_the_memory_holds_and_a_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    count, said = workers(monkeypatch, 64, 8)
    assert count == 4  # (8 - 1.5) / (1.3 and a little)
    (line,) = said
    assert (
        "8.0 GiB limit the search to 4 concurrent trials of about 1.4 GiB each" in line
        and "--workers" in line
    )
    assert workers(monkeypatch, 64, 0.5)[0] == 1
    assert workers(monkeypatch, 16, 16, gpus=8)[0] == 6
    assert workers(monkeypatch, 16, 16, gpus=8, gpus_per_trial="2")[0] == 3


@pytest.mark.parametrize(
    ("model", "preset", "measured"),
    [
        ("hyperprior", "tiny", 1042),
        ("cheng", "tiny", 903),
        ("hyperprior", "paper", 3263),
        ("cheng", "paper", 4835),
    ],
)
def test_the_estimate_is_above_what_was_measured_and_not_far(model: str, preset: str, measured: int) -> None:
    """docs/benchmarks.md, Memory: MiB, the worker's Ray not counted."""
    settings = resolve({"model": model, "preset": preset}, {}, lambda _: 0).settings
    estimate = trial_memory(template_of(settings)) / 2**20
    assert measured + 300 <= estimate <= 1.8 * measured
