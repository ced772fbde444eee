"""Settings that are fine alone and not together, each refused by its name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from search.settings import complaints
from search.settings.complaints import disagreement, nearest, without_effect
from search.settings.config import SETTINGS, Settings, resolve, resolve_again

#: What a search on one GPU has; on a CPU it has 0 trials per GPU.
ON_GPU: dict[str, Any] = {"trials_per_gpu": 1, "precision": "fp32"}
ON_CPU: dict[str, Any] = {
    "trials_per_gpu": 0, "precision": "fp32", "channels_last": False, "compile": False, "graph": False,
    "autotune": False,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"alpha_min": 1e-5, "alpha_max": 1e-8}, ["alpha_min", "alpha_max"]),
        ({"epochs": 10, "fork_at": 0.01}, ["fork_at"]),
        ({"epochs": 4, "grace": 4}, ["grace", "--no-stopping"]),
        ({"epochs": 10, "fork_at": 0.5, "grace": 5}, ["grace", "fork"]),
        ({"epochs": 10, "fork_at": 0.5, "chain": True}, ["--chain", "--fork-at"]),
        ({"kodak": "/k", "test": "/t"}, ["--kodak", "--test"]),
        ({"select_on": "kodak", "test_images": 3}, ["--select-on", "--test-images"]),
        ({"max_gpu_hours": 2.0}, ["max_gpu_hours", "--max-hours"]),
        ({"precision": "tf32"}, ["tf32"]),
        ({"channels_last": True}, ["channels_last", "--no-channels-last"]),
        ({"compile": True}, ["compile", "--no-compile"]),
        ({"graph": True}, ["graph", "--no-graph"]),
        ({"autotune": True}, ["autotune", "--no-autotune"]),
        ({"patch": 100}, ["100", "64", "128"]),
    ],
)
def test_two_that_disagree_are_named_with_what_to_do(changes: dict[str, Any], names: list[str]) -> None:
    assert disagreement(Settings(**ON_CPU), lambda: 0) == ""
    told = disagreement(Settings(**{**ON_CPU, **changes}), lambda: 0)
    assert all(name in told for name in names), told
    assert "\n" not in told


def test_what_needs_a_gpu_needs_one_that_is_there() -> None:
    wanted = Settings(**ON_GPU, channels_last=True, compile=True, graph=True, fused_adam=True)
    assert disagreement(wanted, lambda: 1) == ""
    assert "no GPU" in disagreement(wanted, lambda: 0)
    assert "fused_adam" in disagreement(wanted.model_copy(update={"fused_adam": False}), lambda: 1)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, ""),
        ({"trials_per_gpu": 0}, "gpus_per_trial is 2 but no trial uses a GPU; use 1"),
        (
            {"trials_per_gpu": 2},
            "gpus_per_trial 2 gives a trial whole GPUs, but trials_per_gpu 2 a part of one",
        ),
        ({"trials_per_gpu": "auto"}, "but trials_per_gpu auto a part of one; omit one of them"),
        ({"gpus_per_trial": 8}, "gpus_per_trial is 8, but the number of GPUs is 4; use 4 at most"),
        ({"graph": True}, "graph cannot be used with gpus_per_trial 2; use --no-graph"),
        ({"batch": 15}, "batch is 15 but must be a multiple of gpus_per_trial 2; nearest: 14 and 16"),
        (
            {"batch": 10, "accumulate": 2},
            "a multiple of accumulate 2 times gpus_per_trial 2; nearest: 8 and 12",
        ),
        ({"batch": 2, "gpus_per_trial": 4}, "a multiple of gpus_per_trial 4; nearest: 4"),
        ({"batch": 4, "accumulate": 2}, ""),  # one image per part and GPU: L is that of the part
    ],
)
def test_several_gpus_of_a_trial_must_be_there_and_divide_the_batch(
    changes: dict[str, Any], told: str
) -> None:
    found = disagreement(Settings(**{**ON_GPU, "gpus_per_trial": 2, **changes}), lambda: 4)
    assert told in found and bool(told) == bool(found)


def test_a_folder_that_cannot_be_made_is_named_with_what_is_in_its_way(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for key in ("results", "cache"):
        told = disagreement(Settings(**{**ON_CPU, key: str(tmp_path / "file" / "below")}), lambda: 0)
        assert key in told and str(tmp_path / "file") in told
        assert disagreement(Settings(**{**ON_CPU, key: str(tmp_path / "new" / "below")}), lambda: 0) == ""


def test_a_logger_without_its_package_is_named_with_the_extra_that_has_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    both = Settings(**ON_CPU, log_to="tensorboard,wandb")  # type: ignore[arg-type]
    assert both.log_to == ("tensorboard", "wandb")
    monkeypatch.setattr(complaints, "find_spec", lambda name: None if name == "wandb" else name)
    told = disagreement(both, lambda: 0)
    assert "--log-to wandb" in told and "pip install 'lictune[wandb]'" in told
    assert disagreement(both.model_copy(update={"log_to": ("tensorboard",)}), lambda: 0) == ""


def test_a_given_value_that_changes_nothing_is_told() -> None:
    settings = Settings(seeds=3)
    assert [told for told in without_effect(settings, {"seeds"}) if "--confirm" in told]
    assert not list(without_effect(settings, set()))
    assert not list(without_effect(Settings(seeds=3, confirm=1), {"seeds"}))
    assert list(without_effect(Settings(chain=True, rates="3"), {"chain"})) == [  # type: ignore[arg-type]
        "chain has no effect with quality 3 alone"
    ]
    assert not list(without_effect(Settings(chain=True), {"chain"}))


@pytest.mark.parametrize("confirmed", [{"confirm": "2"}, {}])
def test_a_resumed_search_is_not_told_what_it_has_on_record(
    confirmed: dict[str, str], tmp_path: Path
) -> None:
    given = {**confirmed, "decay_at": "0.5", "schedule": "cosine", "width": "8", "start": "scratch"}
    recorded = resolve(given, {}, lambda _: 0)
    (tmp_path / SETTINGS).write_text(recorded.report())
    assert resolve_again({}, tmp_path, lambda _: 0).ignored == ()
    told = resolve_again({"seeds": "5"}, tmp_path, lambda _: 0).ignored
    assert told == (() if confirmed else ("seeds 5 has no effect without --confirm",))


def test_a_word_is_taken_for_the_nearest() -> None:
    assert "'budget'" in nearest("buget", ["budget", "epochs"])
    assert "'--epochs'" in nearest("epoch", ["budget", "epochs"], lambda word: f"--{word}")
    assert "did you mean" not in nearest("zzz", ["budget", "epochs"])
    assert nearest("x" * 10_000, ["budget"])  # in no time
