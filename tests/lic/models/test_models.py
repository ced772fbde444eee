"""Every supported architecture, its latents and its weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lic.models.architectures import (
    ARCHITECTURES,
    STARTERS,
    ModelError,
    architecture,
    check_strategy,
    starter_path,
    strategies,
)
from lic.models.build import LatentTap, build, parameter_count
from lic.training.weights import load_weights, save_weights


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_latents_are_those_of_the_forward_pass(name: str) -> None:
    model = build(name, 16).eval()
    images = torch.rand(2, 3, 64, 64)
    with LatentTap(model) as tap:
        output = model(images)
        latents = tap.take()
    assert torch.equal(latents.y, model.get_submodule("g_a")(images))
    assert latents.y.shape == (2, 16, 4, 4)
    assert latents.y.requires_grad
    has_z = ARCHITECTURES[name][1]
    assert (latents.z is not None) == has_z == ("z" in output["likelihoods"])
    if latents.z is not None:
        assert latents.z.shape == (2, 16, 1, 1)
    # The tap is gone: the next pass captures nothing.
    model(images)
    with pytest.raises(ModelError, match="g_a"):
        tap.take()


def test_the_papers_models_have_the_papers_sizes() -> None:
    """The paper: the hyperprior has 'around 0.4' of Cheng's parameters at 128 channels."""
    sizes = [parameter_count(build(name, 128)) for name in ("cheng", "hyperprior")]
    assert [round(size / 1e6, 2) for size in sizes] == [11.83, 4.52]


def test_a_model_without_z_offers_y_alone() -> None:
    assert strategies("bmshj2018-factorized") == ("y",)
    assert strategies("cheng") == ("y", "z", "y+z")
    with pytest.raises(ModelError, match="bmshj2018-factorized lacks; use strategy 'y'"):
        check_strategy("bmshj2018-factorized", "y+z")


def test_unknown_names_and_widths_are_refused() -> None:
    with pytest.raises(ModelError, match="unknown model 'chang'"):
        architecture("chang")
    with pytest.raises(ModelError, match="one width"):
        build("cheng", 16, 24)
    with pytest.raises(ModelError, match="cannot have"):
        build("elic2022-official", 8, 4)


def test_weights_are_a_function_of_the_seed() -> None:
    built = (build("hyperprior", 8, seed=seed) for seed in (1, 1, 2))
    first, same, other = (model.get_parameter("g_a.0.weight") for model in built)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_weights_round_trip_and_are_checked(tmp_path: Path) -> None:
    model = build("cheng", 8, seed=1)
    save_weights(model, tmp_path / "w.safetensors")
    other = build("cheng", 8, seed=2)
    load_weights(other, tmp_path / "w.safetensors")
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(model.eval()(images)["x_hat"], other.eval()(images)["x_hat"])
    with pytest.raises(ModelError, match="another architecture or width"):
        load_weights(build("cheng", 10), tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match="no weights"):
        load_weights(other, tmp_path / "missing.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"not weights")
    with pytest.raises(ModelError, match="not a weights file"):
        load_weights(other, tmp_path / "bad.safetensors")


@pytest.mark.parametrize(("name", "width", "latent_width"), [("hyperprior", 32, 96), ("cheng", 32, None)])
def test_starters_ship_with_their_provenance(name: str, width: int, latent_width: int | None) -> None:
    path = starter_path(name, width, latent_width)
    assert path.parent == STARTERS
    assert path.stat().st_size <= 2 * 2**20
    load_weights(build(name, width, latent_width), path)
    told = json.loads(path.with_suffix(".json").read_text())
    assert told["data"] == "cid22/train" and told["data_fingerprint"]  # whose licence the README names
    assert (
        told["started_from"] is None and "Attribution-ShareAlike 4.0" in (STARTERS / "README.md").read_text()
    )
    assert told["training"]["patch"] >= 128  # on 64 z is one position
    assert told["training"]["epochs"] * told["training"]["steps_per_epoch"] >= 16_000
