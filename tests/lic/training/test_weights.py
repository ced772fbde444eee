"""Weights files that people have: read, compared with the model, and what does not fit named."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lic import zoo
from lic.data.crops import RandomCrops
from lic.data.deadleaves import pack_dead_leaves
from lic.models.architectures import ARCHITECTURES, ModelError, starting_weights
from lic.models.build import build
from lic.recipe import TrainingConfig
from lic.training.trainer import Trainer
from lic.training.weights import _BUFFERS, load_weights, read_weights, save_weights, widths_of
from lic.zoo import ModelConfig


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return build("hyperprior", 8, 12, seed=1)


def fits(path: Path, model: nn.Module) -> bool:
    """Whether another model has the same parameters once the file is loaded."""
    other = build("hyperprior", 8, 12, seed=2)
    load_weights(other, path)
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    return all(torch.equal(mine, theirs) for mine, theirs in pairs)


def as_older_versions_wrote_it(state: dict[str, Tensor], before: str) -> dict[str, Tensor]:
    """The entropy bottleneck's names in CompressAI before 1.2.7, and before 1.1."""
    names = {"matrices": "_matrix", "biases": "_bias", "factors": "_factor"}
    if before == "1.1":
        names = {"matrices": "_matrices.", "biases": "_biases.", "factors": "_factors."}
    pattern = re.compile(r"entropy_bottleneck\.(matrices|biases|factors)\.")
    return {pattern.sub(lambda m: f"entropy_bottleneck.{names[m[1]]}", k): v for k, v in state.items()}


@pytest.mark.parametrize(
    "how", ["bare", "state_dict", "model", "DataParallel", "compiled", "1.2.7", "1.1", "with tables", "1.5"]
)
def test_the_checkpoints_of_compressai_are_read(how: str, model: nn.Module, tmp_path: Path) -> None:
    state: dict[str, Any] = dict(model.state_dict())
    if how == "with tables":  # as it publishes models; a table's size depends on the weights
        state = dict(zoo.prepare(build("hyperprior", 8, 12, seed=1)).state_dict())
        assert state["entropy_bottleneck._quantized_cdf"].numel() > 0
    ways: dict[str, dict[str, Any]] = {
        "state_dict": {
            "epoch": 3,
            "state_dict": state,
            "loss": torch.tensor(1.0),
            "optimizer": {"state": {}},
        },
        "model": {"model": state, "args": {"lr": 1e-4}},
        "DataParallel": {"state_dict": {f"module.{key}": value for key, value in state.items()}},
        "compiled": {f"_orig_mod.{key}": value for key, value in state.items()},
        "1.2.7": as_older_versions_wrote_it(state, "1.2.7"),
        "1.1": as_older_versions_wrote_it(state, "1.1"),
        # Constants that a version does not keep.
        "1.5": {key: value for key, value in state.items() if not key.endswith(("bound", "target"))},
    }
    wrapped = ways.get(how, state)
    path = tmp_path / "checkpoint_best_loss.pth.tar"
    torch.save(wrapped, path, _use_new_zipfile_serialization=how != "state_dict")
    assert fits(path, model)


def test_what_this_program_writes_is_read(model: nn.Module, tmp_path: Path, cache: Path) -> None:
    images = pack_dead_leaves(0, 2, cache)
    config = TrainingConfig(lmbda=0.01, batch=2, patch=64, epochs=1, steps_per_epoch=1)
    trained = build("hyperprior", 8, 12, seed=1)
    trainer = Trainer(trained, config, RandomCrops(images, 64, 2, 0))
    trainer.run_epoch()
    trainer.save(tmp_path / "q3.pt")
    assert fits(tmp_path / "q3.pt", trained)
    damaged = bytearray((tmp_path / "q3.pt").read_bytes())
    damaged[len(damaged) // 2] ^= 1  # torch itself does not see it
    (tmp_path / "q3.pt").write_bytes(damaged)
    with pytest.raises(ModelError, match="checksum mismatch"):
        read_weights(tmp_path / "q3.pt")

    save_weights(model, tmp_path / "w.safetensors")
    assert fits(tmp_path / "w.safetensors", model)
    root, name = tmp_path / "zoo", "bmshj2018-hyperprior"
    for quality in (2, 5):
        about = ModelConfig(name, 8, 12, quality, 0.01, 1e-6, "y", "paper", 0, "trial-000")
        prepared = zoo.prepare(build("hyperprior", 8, 12, seed=quality))
        zoo.write_model(root / f"q{quality}", prepared, about)
    for start, quality in ((root, 5), (root / "q2", 2), (root / "q2" / "model.safetensors", 2)):
        found = Path(starting_weights(str(start), "hyperprior", 8, 12))
        assert found == root / f"q{quality}" / "model.safetensors"
        assert fits(found, build("hyperprior", 8, 12, seed=quality))
    with pytest.raises(ModelError, match="neither a zoo"):
        starting_weights(str(tmp_path), "hyperprior", 8, 12)


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_all_that_a_model_learns_is_in_its_file(name: str, tmp_path: Path) -> None:
    model = build(name, 16)
    parameters = {key for key, _ in model.named_parameters()}
    assert {key for key in model.state_dict() if not key.endswith(_BUFFERS)} == parameters
    save_weights(model, tmp_path / "w.safetensors")
    assert read_weights(tmp_path / "w.safetensors").keys() == parameters
    assert widths_of(read_weights(tmp_path / "w.safetensors")) == (16, 16)
    load_weights(build(name, 16, seed=1), tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("of", "into", "expected"),
    [
        (("hyperprior", 8, 12), ("hyperprior", 8, 8), r"'g_a\.6\.weight' is 12x8x5x5 in the file and "
         r"8x8x5x5 in the model; they seem to belong to bmshj2018-hyperprior, width 8 and latent width 12$"),
        (("cheng", 8, None), ("cheng", 10, None), "seem to belong to cheng2020-anchor, width 8$"),
        (("cheng", 8, None), ("hyperprior", 8, 8), r"'g_a\.6\.weight' is 8x8x3x3 in .*cheng2020-anchor,"),
        (("bmshj2018-factorized", 8, 8), ("hyperprior", 8, 8), "'h_a.* is missing; .*-factorized, wi"),
        (("mbt2018-mean", 8, 12), ("hyperprior", 8, 12), r"'h_s\..* seem to belong to mbt2018-mean, width "),
        (("hyperprior", 8, 8), ("bmshj2018-factorized", 8, 8), r"'h_a.* is not in the model; they seem to "
         "belong to bmshj2018-hyperprior"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(
    of: tuple[Any, ...], into: tuple[Any, ...], expected: str, tmp_path: Path
) -> None:
    save_weights(build(*of), tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match="have another architecture or width: .*" + expected) as caught:
        load_weights(build(*into), tmp_path / "w.safetensors")
    assert "\n" not in str(caught.value)


def test_what_is_no_weights_file_is_refused_in_a_sentence(tmp_path: Path, model: nn.Module) -> None:
    path = tmp_path / "w"

    def refused() -> str:
        with pytest.raises(ModelError) as caught:
            load_weights(build("hyperprior", 8, 12), path)
        assert "\n" not in str(caught.value) and str(path) in str(caught.value)
        return str(caught.value)

    assert "no weights at" in refused()
    for content in (b"", b"{}", b"not weights at all", b"PK\3\4", b"\x80\x02}", b"\x80\x02." * 5):
        path.write_bytes(content)
        assert "is not a" in refused()
    not_weights: list[Any] = [
        [1, 2], {"epoch": 3}, {"state_dict": {}}, {"state_dict": {"a": 1}}, {1: torch.zeros(2)}, 5,
    ]  # fmt: skip
    for value in not_weights:
        torch.save(value, path)
        assert re.search("contains no weights|another architecture", refused())
    torch.save(model, path)  # a whole pickled model, which could run anything
    assert "is not a readable weights file" in refused()
    state = {key: value.detach().clone() for key, value in model.named_parameters()}
    state["g_a.0.weight"][0, 0, 0, 0] = float("nan")
    save_file(state, path)
    assert "'g_a.0.weight' has values that are not finite" in refused()
    path.unlink()
    path.mkdir()
    assert "cannot be read" in refused()
