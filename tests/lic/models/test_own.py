"""Models of a user's own: the check before a search, training, the zoo and the codec."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from lic import zoo
from lic.codec.__main__ import main as codec
from lic.codec.bitstream import BitstreamError, decode, encode, mark_of, pack, unpack
from lic.codec.verification import VerificationError, _loaded, verify
from lic.data.cache import PackedImages
from lic.data.crops import RandomCrops
from lic.evaluation.evaluate import evaluate, measure_image
from lic.evaluation.latents import examine
from lic.models.architectures import WEIGHTS, ModelError, OwnModel, architecture, strategies
from lic.models.build import LatentTap, build
from lic.models.own import can_code, check_own
from lic.recipe import TrainingConfig
from lic.training.trainer import Trainer
from lic.training.weights import load_weights
from lic.zoo import ModelConfig, ZooError
from tests.support.own_models import MeanScale

HERE = "tests.support.own_models"
FACTORIZED = OwnModel.of(f"{HERE}:Factorized", {"channels": 6}, {"y": "encoder"})
MEAN_SCALE = OwnModel.of(
    f"{HERE}:mean_scale", {"size": 6}, {"y": "transforms.analysis", "z": "hyper.analysis"}
)
PLAIN = OwnModel.of(f"{HERE}:Plain", {"channels": 5}, {"y": "g_a"})
ALL = pytest.mark.parametrize("own", [FACTORIZED, MEAN_SCALE, PLAIN], ids=str)


def test_the_check_finds_the_latents() -> None:
    for own, channels in ((FACTORIZED, 6), (MEAN_SCALE, 6), (PLAIN, 5)):
        checked = check_own(own)
        assert (checked.own, checked.channels) == (own, channels)
    unnamed = OwnModel.of(PLAIN.name, {"channels": 5}, {})
    assert check_own(unnamed).own == PLAIN
    assert strategies(FACTORIZED) == ("y",) and strategies(MEAN_SCALE) == ("y", "z", "y+z")
    assert architecture(PLAIN) == f"{HERE}.Plain"


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("flat", "as z, the output of h_a, a tensor of shape 2x128 for 2 images; latents are N x C x H x W"),
        ("twice", r"several modules that may compute y \(g_a and part.g_a\); give --latents"),
        ("silent", "does not call h_a, which should compute z"),
        ("unused", "no gradient in z, the output of h_a"),
        ("detached", "no gradient in y, the output of g_a"),
        ("no gradient", "no gradient: its loss does not depend on a parameter"),
        ("whole images only", "fails for 1x3x64x128 images in evaluation .ValueError: needs a square image"),
        ("tuple", "a tuple from forward, not a dict with x_hat and likelihoods"),
        ("cropped", "as x_hat 2x3x64x63 for 2x3x64x64 images"),
        ("logarithms", r"likelihoods of y outside \(0, 1\]"),
        ("other names", "as likelihoods latent; they must be a dict with y, or y and z"),
        ("steep", "a gradient that is not finite"),
        ("no loss of quantiles", "has parameters named quantiles, but aux_loss fails .TypeError"),
    ],
)
def test_a_model_that_cannot_be_searched_is_refused_in_a_sentence(fault: str, reason: str) -> None:
    own = OwnModel.of(f"{HERE}:Faulty", {"fault": fault}, {})
    with pytest.raises(ModelError, match=f"^model {HERE}:Faulty cannot be used: it .*{reason}") as refused:
        check_own(own)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "arguments", "latents", "reason"),
    [
        ("MeanScale", {}, {}, "has no module g_a; .* --latents y=PATH"),
        ("MeanScale", {}, {"y": "analysis"}, "has no module analysis, .*; it has transforms, hyper, prior_z"),
        ("MeanScale", {"K": 3}, {}, r"\(K=3\) cannot be built .TypeError"),
        ("Faulty", {"fault": "raises at once"}, {}, "cannot be built .RuntimeError: out of paper"),
        ("down", {"channels": 3, "out": 4, "steps": 0}, {}, "has no module g_a"),
        ("Missing", {}, {}, "cannot be imported: .*Missing"),
        ("pairwise", {}, {}, "cannot be built .TypeError"),
    ],
)
def test_one_that_cannot_be_built_is_refused_in_a_sentence(
    name: str, arguments: dict[str, Any], latents: dict[str, str], reason: str
) -> None:
    with pytest.raises(ModelError, match=f"^model {HERE}:{name}.*{reason}") as refused:
        check_own(OwnModel.of(f"{HERE}:{name}", arguments, latents))
    assert "\n" not in str(refused.value)


def trainer(own: OwnModel, leaves: PackedImages, **more: Any) -> Trainer:
    settings: dict[str, Any] = {"alpha": 1e-7, "strategy": strategies(own)[-1], **more}
    config = TrainingConfig(lmbda=0.01, batch=2, patch=64, epochs=2, steps_per_epoch=3, lr=1e-3, **settings)
    return Trainer(build(own, 0), config, RandomCrops(leaves, 64, 2, 0))


@ALL
def test_it_trains_and_resumes_to_the_bit(own: OwnModel, leaves: PackedImages, tmp_path: Path) -> None:
    whole, first, second = (trainer(own, leaves, ema=0.9) for _ in range(3))
    begun = {name: value.clone() for name, value in whole.model.state_dict().items()}
    whole.run_epoch()
    last = whole.run_epoch()
    assert last["decorrelation"] > 0 and last["skipped_steps"] == 0
    assert (last["rate_z"] > 0) == ("z" in own.paths)
    first.run_epoch()
    first.save(tmp_path / "state.pt")
    second.load(tmp_path / "state.pt")
    second.run_epoch()
    for name, value in second.model.state_dict().items():
        assert torch.equal(value, whole.model.state_dict()[name])
    moved = {name for name, value in whole.model.state_dict().items() if not torch.equal(value, begun[name])}
    assert {name for name in begun if name.endswith("quantiles")} < moved  # with and without an aux_loss
    again = build(own, 0, seed=1)
    load_weights(again, tmp_path / "state.pt")  # --start
    table = [evaluate(model, leaves, crop=64) for model in (again, first.final_model)]
    assert table[0]["bpp"].tolist() == table[1]["bpp"].tolist()


def test_the_latents_are_those_of_the_named_modules() -> None:
    model, images = build(MEAN_SCALE, 0), torch.rand(2, 3, 64, 64)
    assert isinstance(model, MeanScale)
    with LatentTap(model) as tap:
        model(images)
        latents = tap.take()
    y = model.transforms["analysis"](images)
    assert latents.z is not None and torch.equal(latents.y, y)
    assert torch.equal(latents.z, model.hyper["analysis"](y))
    found = examine(model.eval(), np.zeros((100, 70, 3), np.uint8))
    assert found.correlation.shape == (6, 6) and found.feature_map.shape == (8, 6)


def write_zoo(root: Path, own: OwnModel, leaves: PackedImages) -> Path:
    run = trainer(own, leaves)
    run.run_epoch()
    width = check_own(own).channels
    config = ModelConfig(
        architecture(own), width, None, 3, 0.01, 1e-7, "y", "reference", 0, "trial-000", own=own
    )
    zoo.write_model(root / "q3", zoo.prepare(run.model), config)
    about = {"role": zoo.TUNED, "figures": {}}
    (root / zoo.MANIFEST).write_text(json.dumps(zoo.manifest_of(root, {}, {"q3": about})))
    return root


@ALL
def test_a_zoo_imports_its_module_only_if_it_is_trusted(
    own: OwnModel, leaves: PackedImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_zoo(tmp_path / "zoo", own, leaves)
    monkeypatch.delitem(sys.modules, HERE)
    (entry,) = zoo.list_models(root)
    assert entry.config.own == own
    for refused in (entry.load, lambda: zoo.load(root, 3),
                    lambda: zoo.read_model(root / "q3" / WEIGHTS, root / "q3" / zoo.CONFIG)):  # fmt: skip
        with pytest.raises(ZooError, match=f"needs {own.name}, code outside of the zoo .*trust_module=True"):
            refused()
        assert HERE not in sys.modules
    model = zoo.load(root, 3, trust_module=True)
    assert type(model).__module__ == HERE and can_code(model) == (own != PLAIN)
    with torch.no_grad():
        assert model(torch.rand(1, 3, 64, 64))["x_hat"].shape == (1, 3, 64, 64)


def test_a_zoo_whose_module_is_missing_says_so(
    leaves: PackedImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "paper_model.py").write_text(f"from {HERE} import Factorized\n")
    monkeypatch.chdir(tmp_path)
    own = OwnModel.of("paper_model:Factorized", {}, {"y": "encoder"})
    root = write_zoo(tmp_path / "zoo", own, leaves)
    (tmp_path / "paper_model.py").unlink()
    monkeypatch.delitem(sys.modules, "paper_model")
    with pytest.raises(ZooError, match="paper_model:Factorized cannot be imported: No module named"):
        zoo.load(root, 3, trust_module=True)


@pytest.mark.parametrize(
    "forged",
    [
        {"model": "os.system", "args": {}, "latents": {"y": "g_a"}},
        {"model": "a:b", "args": [], "latents": {"y": "g_a"}},
        {"model": "a:b", "args": {}, "latents": {"y": "../g_a"}},
        {"model": "a:b", "args": {}, "latents": {}},
        {"model": "a:b", "args": {}, "latents": {"y": "g_a"}, "more": 1},
        "a:b",
    ],
)
def test_a_forged_description_is_refused(forged: Any) -> None:
    config = ModelConfig("a.b", 8, None, 1, 0.0018, 0.0, "", "paper", 0, "t", own=OwnModel.of("a:b", {}, {}))
    with pytest.raises(ValueError, match="its own cannot be"):
        ModelConfig.read({**config.document(), "own": forged})
    with pytest.raises(ValueError, match="its architecture cannot be 'cheng2020-anchor'"):
        fitting = {"model": "a:b", "args": {}, "latents": {"y": "g_a"}}
        ModelConfig.read({**config.document(), "own": fitting, "architecture": "cheng2020-anchor"})


@pytest.mark.parametrize("own", [FACTORIZED, MEAN_SCALE], ids=str)
def test_it_codes_images_of_any_size(own: OwnModel, leaves: PackedImages, tmp_path: Path) -> None:
    root = write_zoo(tmp_path / "zoo", own, leaves)
    model = zoo.load(root, 3, trust_module=True)
    pixels = leaves[0][:100, :150]
    coded = encode(model, pixels)
    assert np.array_equal(decode(model, unpack(pack(coded, mark_of("0" * 64)))), coded.reconstruction)
    assert 8 * sum(map(len, coded.streams)) == pytest.approx(coded.ideal_bits, rel=0.05, abs=512)
    assert np.abs(coded.reconstruction.astype(int) - pixels).mean() < 200
    mse = np.square(coded.reconstruction.astype(float) - pixels).mean()
    assert mse == pytest.approx(measure_image(model, pixels)["mse"], rel=1e-3)

    image, file, back = (tmp_path / name for name in ("a.png", "a.lic", "b.png"))
    Image.fromarray(pixels).save(image)
    coding = ["encode", str(image), str(file), "--zoo", str(root), "--quiet"]
    assert codec(coding) == 2 and not file.exists()
    assert codec([*coding, "--trust-module"]) == 0
    decoding = ["decode", str(file), str(back), "--zoo", str(root), "--quiet"]
    assert codec(decoding) == 2 and not back.exists()
    assert codec([*decoding, "--trust-module"]) == 0
    assert np.array_equal(np.array(Image.open(back)), coded.reconstruction)


def test_verification_finds_a_decoder_that_does_not_fit(
    leaves: PackedImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    root = write_zoo(tmp_path / "zoo", FACTORIZED, leaves)
    pixels = leaves[0][:64, :128] // 8  # an untrained model decodes black
    Image.fromarray(pixels).save(tmp_path / "a.png")
    monkeypatch.setattr("lic.codec.verification.ProcessPoolExecutor", lambda n, _: ThreadPoolExecutor(n))
    entry = zoo.find(root, 3, trust_module=True)
    _loaded.cache_clear()
    (row,) = verify([entry], [tmp_path / "a.png"], 1).to_dict("records")
    assert row["psnr"] == pytest.approx(row["estimated_psnr"], abs=0.01)
    model = _loaded(entry)
    white = {"x_hat": torch.ones(1, 3, 64, 128)}
    monkeypatch.setattr(model, "decompress", lambda *_: white)
    with pytest.raises(VerificationError, match="compress and decompress do not agree with forward"):
        verify([entry], [tmp_path / "a.png"], 1)
    _loaded.cache_clear()


def test_one_without_compress_codes_nothing(leaves: PackedImages, tmp_path: Path) -> None:
    model = zoo.load(write_zoo(tmp_path / "zoo", PLAIN, leaves), 3, trust_module=True)
    with pytest.raises(BitstreamError, match="codes no images: it is not one of CompressAI's"):
        encode(model, leaves[0])
    assert can_code(build("hyperprior", 4))
