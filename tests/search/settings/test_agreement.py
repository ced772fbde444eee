"""What follows from the settings that were given: which defaults give way, and which stay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lic.models.architectures import STARTERS, ModelError
from lic.models.build import build
from lic.training.weights import save_weights
from search.settings.agreement import worked_out
from search.settings.config import Settings

#: The settings that the defaults leave open, and what they are on a CPU.
ON_CPU: dict[str, Any] = {
    "strategies": ("y", "z", "y+z"), "lr": 1e-3, "trials_per_gpu": 0, "precision": "fp32",
    "channels_last": False, "compile": False, "resident_images": False, "graph": False,
}  # fmt: skip


def resolved(gpus: int = 0, **given: Any) -> dict[str, Any]:
    return worked_out(Settings(**given), given, lambda: gpus)


def resolved_by_preset(given: tuple[str, ...] = (), **values: Any) -> dict[str, Any]:
    """With values that a preset set, of which the user gave these."""
    return worked_out(Settings(**values), given, lambda: 0)


def test_only_what_is_open_is_worked_out() -> None:
    assert resolved() == ON_CPU
    assert resolved_by_preset(**ON_CPU) == {}


def test_the_fastest_options_are_those_of_the_device() -> None:
    on_gpu = resolved(gpus=2)
    assert {key: on_gpu[key] for key in ON_CPU if key not in ("strategies", "lr")} == {
        "trials_per_gpu": 1, "precision": "tf32", "channels_last": True, "compile": True,
        "resident_images": True, "graph": True,
    }  # fmt: skip
    assert resolved(gpus=2, trials_per_gpu=0).keys() == ON_CPU.keys() - {"trials_per_gpu"}


def test_an_automatic_number_of_trials_needs_a_gpu_to_be_measured_on() -> None:
    assert resolved(trials_per_gpu="auto")["trials_per_gpu"] == 0
    assert "trials_per_gpu" not in resolved(gpus=1, trials_per_gpu="auto")


def test_gpus_are_not_counted_where_their_number_does_not_matter() -> None:
    """Counting them joins the cluster."""

    def counted() -> int:
        raise AssertionError("the GPUs were counted")

    for trials in (0, 2):
        worked_out(Settings(trials_per_gpu=trials), {"trials_per_gpu"}, counted)


def test_a_precision_of_a_preset_is_meant_for_gpus() -> None:
    assert resolved_by_preset(precision="bf16")["precision"] == "fp32"
    assert "precision" not in resolved_by_preset(("precision",), precision="bf16")


def test_a_graph_needs_fused_adam() -> None:
    assert resolved(gpus=1, fused_adam=False)["graph"] is False
    assert "graph" not in resolved(gpus=1, fused_adam=False, graph=True)  # refused later


def test_several_gpus_per_trial_do_without_a_graph_and_divide_the_batch() -> None:
    several = resolved(gpus=4, gpus_per_trial=3)
    assert (several["trials_per_gpu"], several["graph"], several["batch"]) == (1, False, 15)
    assert resolved(gpus=4, gpus_per_trial=3, accumulate=4)["batch"] == 12
    assert "batch" not in resolved(gpus=4, gpus_per_trial=2)
    assert "graph" not in resolved(gpus=4, gpus_per_trial=3, graph=True)  # refused later
    assert "batch" not in resolved(gpus=4, gpus_per_trial=3, batch=16)  # refused later


def test_the_learning_rate_is_that_of_the_optimizer_and_of_the_start() -> None:
    assert resolved(optimizer="soap")["lr"] == 3e-3
    assert resolved(optimizer="soap", start="starter", width=32)["lr"] == 1e-3
    assert "lr" not in resolved(optimizer="soap", lr=2e-3)


def test_strategies_are_those_of_the_model_and_each_is_there_once() -> None:
    assert resolved(model="bmshj2018-factorized")["strategies"] == ("y",)
    assert resolved(strategies="z,y,z")["strategies"] == ("z", "y")
    with pytest.raises(ModelError, match="strategy 'z' needs the hyper-latent z"):
        resolved(model="bmshj2018-factorized", strategies="y,z")
    with pytest.raises(ModelError, match="unknown model 'nothing'"):
        resolved(model="nothing")


@pytest.mark.parametrize(
    ("given", "widths"),
    [
        ({"model": "cheng", "latent_width": 24}, (24, 24)),
        ({"model": "hyperprior", "latent_width": 24}, (128, 24)),
        ({"model": "elic2022-official", "width": 4}, (4, 8)),
        ({"model": "elic2022-official", "width": 8}, (8, None)),
        ({"model": "cheng", "start": "starter"}, (32, None)),  # the nearest to 128
        ({"model": "cheng", "start": "starter", "width": 32}, (32, None)),
        ({"model": "hyperprior", "start": "starter"}, (32, 96)),
        ({"model": "hyperprior", "start": "starter", "width": 32}, (32, 96)),
        ({"model": "cheng", "start": "auto", "width": 20}, (20, None)),
    ],
)
def test_widths_follow_each_other_and_the_starter(
    given: dict[str, Any], widths: tuple[int, int | None]
) -> None:
    settings = Settings(**given)
    found = settings.model_copy(update=worked_out(settings, given, lambda: 0))
    assert (found.width, found.latent_width) == widths


def test_a_latent_width_of_a_preset_gives_way_to_a_model_with_one_width() -> None:
    changes = resolved_by_preset(("model",), model="cheng", width=16, latent_width=96)
    assert "width" not in changes and changes["latent_width"] is None
    with pytest.raises(ModelError, match="has one width; omit latent_width 96"):
        resolved(model="cheng", width=16, latent_width=96)


def test_a_width_without_a_starter_is_refused_with_those_there_are() -> None:
    with pytest.raises(ModelError, match=r"no starter weights for cheng of width 20 \(.*: 32\)"):
        resolved(start="starter", width=20)
    with pytest.raises(ModelError, match="no starter weights for mbt2018"):
        resolved(model="mbt2018", start="starter")


def test_a_starter_is_taken_automatically_where_there_is_one() -> None:
    assert resolved(start="auto", width=32)["start"] == str(STARTERS / "cheng2020-anchor-32.safetensors")
    assert resolved(start="auto", width=20)["start"] == "scratch"


def test_weights_say_the_widths_that_were_not_given(tmp_path: Path) -> None:
    weights = tmp_path / "mine.safetensors"
    save_weights(build("hyperprior", 8, 12), weights)
    given: dict[str, Any] = {"model": "hyperprior", "start": str(weights)}
    assert {key: resolved(**given)[key] for key in ("width", "latent_width")} == {
        "width": 8,
        "latent_width": 12,
    }
    assert resolved(**given, width=16)["latent_width"] == 12  # which the search then compares
    assert resolved(**given, latent_width=16)["width"] == 8
    assert resolved(**given, width=16, latent_width=16).keys().isdisjoint({"width", "latent_width"})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"epochs": 4, "grace": 3}, {}),
        ({"epochs": 12, "fork_at": 0.75}, {}),
        ({"grace": 100}, {"epochs": 101}),
        ({"grace": 100, "stopping": False}, {}),
        ({"grace": 60, "fork_at": 0.5}, {"epochs": 121}),
        ({"fork_at": 0.004}, {"epochs": 126}),
    ],
)
def test_there_are_epochs_for_the_fork_and_the_rung_that_were_asked_for(
    given: dict[str, Any], expected: dict[str, int]
) -> None:
    changes = resolved(**given)
    assert {key: changes[key] for key in ("epochs", "grace") if key in changes} == expected


@pytest.mark.parametrize(
    ("epochs", "fork_at", "stopping", "grace"),
    [(4, 0.0, True, 3), (5, 0.0, True, 4), (4, 0.0, False, 4), (1, 0.0, True, 4), (8, 0.5, True, 3)],
)
def test_the_grace_of_a_preset_gives_way_to_fewer_epochs(
    epochs: int, fork_at: float, stopping: bool, grace: int
) -> None:
    values = {"epochs": epochs, "fork_at": fork_at, "stopping": stopping, "grace": 4}
    changes = resolved_by_preset(("epochs", "fork_at", "stopping"), **values)
    assert changes.get("grace", 4) == grace and "epochs" not in changes


def test_epochs_and_grace_that_were_both_given_stay() -> None:
    assert resolved(epochs=4, grace=9).keys().isdisjoint({"epochs", "grace"})  # refused later


def test_a_bound_of_alpha_moves_the_other() -> None:
    assert resolved(alpha_min=2e-4)["alpha_max"] == pytest.approx(0.2)
    assert resolved(alpha_max=1e-8)["alpha_min"] == pytest.approx(1e-11)
    assert resolved(alpha_min=1e-7).keys().isdisjoint({"alpha_min", "alpha_max"})


def test_a_folder_for_checkpoints_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolved(storage="kept")["storage"] == str(tmp_path / "kept")
    assert "storage" not in resolved(storage="s3://bucket/kept")
