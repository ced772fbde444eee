"""The regularizers of the latents: their values, invariances and gradients, and a user's own."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lic.losses.criterion import Criterion
from lic.losses.decorrelation import decorrelation
from lic.losses.regularizers import check_regularizer, latent_penalty, regularizer_of
from lic.models.architectures import ModelError
from lic.models.build import Latents
from lic.recipe import REGULARIZERS, Scale, TrainingConfig

NAMES = list(REGULARIZERS)


def loss(name: str, features: Tensor) -> float:
    return float(regularizer_of(name).loss(features))


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uncorrelated() -> Tensor:
    """Two channels of unit variance that are orthogonal at each of two positions: 4 x 2 x 1 x 2."""
    signs = torch.tensor([[1.0, 1, -1, -1], [1, -1, 1, -1]]).T.reshape(4, 2, 1, 1)
    return signs.repeat(1, 1, 1, 2)


@pytest.mark.parametrize("name", NAMES)
def test_gradient(name: str) -> None:
    features = 0.5 * gaussian(4, 3, 2, 2)  # so that VICReg's hinge has a gradient, too
    assert torch.autograd.gradcheck(regularizer_of(name).loss, features.requires_grad_())


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_channels_images_and_positions_does_not_matter(name: str) -> None:
    features = gaussian(4, 5, 2, 3)
    for changed in (
        features[:, [3, 1, 4, 0, 2]], features[[2, 0, 3, 1]], features.flip(2, 3), features + 7,
    ):  # fmt: skip
        assert loss(name, changed) == pytest.approx(loss(name, features), rel=1e-9)


def test_the_default_is_equation_9() -> None:
    features = gaussian(4, 5, 2, 3).float()
    assert TrainingConfig.regularizer == "covariance"
    assert torch.equal(regularizer_of("covariance").loss(features), decorrelation(features))
    latents = Latents(features, gaussian(4, 3, 1, 1).float())
    assert torch.equal(
        latent_penalty(latents, "y", 4096, "paper", regularizer_of("covariance")), decorrelation(features)
    )


def test_each_regularizer_against_its_formula() -> None:
    features = gaussian(4, 5, 2, 3)
    centred = features - features.mean(0)
    cross = torch.einsum("nuhw,nvhw->hwuv", centred, centred)
    expected = cross.abs().sum() - torch.einsum("nuhw->", centred**2)
    assert loss("off-diagonal", features) == pytest.approx(float(expected), rel=1e-9)

    samples = features.transpose(0, 1).flatten(1)
    covariance = torch.cov(samples)
    apart = ~torch.eye(5, dtype=torch.bool)
    count = samples.shape[1]
    pooled = (count - 1) * covariance[apart].abs().sum()
    assert loss("pooled", features) == pytest.approx(float(pooled), rel=1e-9)
    squares = torch.corrcoef(samples)[apart].square().sum()
    assert loss("correlation", features) == pytest.approx(float(squares), rel=1e-9)
    hinge = (1 - (samples.var(1) + 1e-4).sqrt()).clamp(min=0).mean()
    expected = 25 * hinge + covariance[apart].square().sum() / 5
    assert loss("vicreg", features) == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_uncorrelated_channels_cost_nothing_but_their_variance(name: str) -> None:
    diagonal = {"covariance": 16.0}  # 2 channels, 2 positions, 4 images
    assert loss(name, uncorrelated()) == pytest.approx(diagonal.get(name, 0.0), abs=1e-6)
    same = uncorrelated()[:, :1].repeat(1, 2, 1, 1)
    assert loss(name, same) > 1 + diagonal.get(name, 0.0)


def test_how_each_follows_the_scale_of_the_latents() -> None:
    """Correlation does not; the paper's term falls with the square; VICReg's rises where they vanish."""
    features = gaussian(4, 5, 2, 3)
    scales = torch.tensor([0.1, 1.0, 3.0, 10.0, 0.5], dtype=torch.float64)[:, None, None]
    assert loss("correlation", scales * features) == pytest.approx(loss("correlation", features), rel=1e-9)
    for name in ("covariance", "off-diagonal", "pooled"):
        assert loss(name, features / 2) == pytest.approx(loss(name, features) / 4, rel=1e-9)
    assert loss("vicreg", features / 100) > 20 > loss("vicreg", features)


def test_a_constant_channel_has_a_finite_gradient() -> None:
    features = torch.cat([gaussian(4, 2, 2, 2), torch.zeros(4, 1, 2, 2)], 1).requires_grad_()
    for name in NAMES:
        (gradient,) = torch.autograd.grad(regularizer_of(name).loss(features), features)
        assert gradient.isfinite().all(), name


def test_the_chance_level_of_independent_channels() -> None:
    """As the docstrings say, in expectation; 16 images, 32 channels, 64 positions."""
    batch, channels, positions = 16, 32, 64
    features = gaussian(batch, channels, 8, 8)
    pairs, samples = channels * (channels - 1), batch * positions
    expected = {
        "off-diagonal": positions * pairs * math.sqrt(2 * batch / math.pi),
        "pooled": pairs * math.sqrt(2 * samples / math.pi),
        "correlation": pairs / samples,
    }
    expected["covariance"] = expected["off-diagonal"] + positions * channels * batch
    for name, value in expected.items():
        assert loss(name, features) == pytest.approx(value, rel=0.1), name


@pytest.mark.parametrize("name", NAMES)
def test_strategies_and_scales(name: str) -> None:
    latents, chosen = Latents(gaussian(4, 8, 4, 4), gaussian(4, 6, 1, 1, seed=1)), regularizer_of(name)
    for scale in ("reference", "paper"):
        y, z, both = (latent_penalty(latents, s, 4096, scale, chosen) for s in ("y", "z", "y+z"))
        torch.testing.assert_close(y + z, both)
    with pytest.raises(ModelError, match="hyper-latent z"):
        latent_penalty(Latents(latents.y, None), "z", 4096, "reference", chosen)


def test_alpha_keeps_its_order_of_magnitude_in_the_reference_scale() -> None:
    """Equal channels of unit variance: every regularizer gives what equation (9) does."""
    features = torch.nn.functional.layer_norm(gaussian(16, 1, 4, 4).flatten(), (256,)).reshape(16, 1, 4, 4)
    equal = features.repeat(1, 8, 1, 1)

    def scaled(name: str, scale: Scale) -> float:
        return float(latent_penalty(Latents(equal, None), "y", 64 * 64, scale, regularizer_of(name)))

    for name in NAMES:
        assert scaled(name, "reference") == pytest.approx(scaled("covariance", "reference"), rel=0.3), name
    assert scaled("correlation", "paper") == pytest.approx(8 * 7)


def test_the_criterion_takes_the_configured_one() -> None:
    config = TrainingConfig(0.01, alpha=1e-6, strategy="y", regularizer="correlation")
    criterion = Criterion.of(config, torch.device("cpu"))
    latents, target = Latents(gaussian(2, 3, 4, 4).float(), None), torch.rand(2, 3, 64, 64)
    output: dict[str, Tensor | dict[str, Tensor]] = {"x_hat": target, "likelihoods": {"y": torch.ones(2)}}
    expected = latent_penalty(latents, "y", 64 * 64, "reference", regularizer_of("correlation"))
    assert torch.equal(criterion(output, latents, target)["decorrelation"], expected)


OWN = """
import torch

calls = []

def good(features):
    return features.square().mean()

def shaped(features):
    return features.sum(0)

def plain(features):
    return 1.0

def infinite(features):
    return features.sum() / 0

def constant(features):
    return torch.ones((), requires_grad=True)

def detached(features):
    return features.detach().sum()

def steep(features):
    return (features - features).abs().sqrt().sum()

def broken(features):
    raise RuntimeError("needs a GPU")

number = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the current folder."""
    (tmp_path / "own_losses.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    return "own_losses"


def test_a_users_own_is_used_as_it_is(own: str) -> None:
    check_regularizer(f"{own}:good")
    features = gaussian(4, 8, 4, 4)
    for scale in ("reference", "paper"):
        found = latent_penalty(Latents(features, None), "y", 4096, scale, regularizer_of(f"{own}:good"))
        assert float(found) == pytest.approx(float(features.square().mean()))


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("shaped", r"for 4x8x4x4 latents it returns a tensor of shape \(8, 4, 4\), not a scalar"),
        ("plain", "returns a float, not a scalar tensor"),
        ("infinite", "returns (-?inf), not a finite number"),
        ("constant", "returns a number that has no gradient"),
        ("detached", "returns a number that has no gradient"),
        ("steep", "has a gradient that is not finite"),
        ("broken", "fails .RuntimeError: needs a GPU"),
        ("number", "fails .TypeError"),
        ("missing", "cannot be imported: .*missing"),
    ],
)
def test_a_users_own_that_cannot_be_used_is_refused_in_a_sentence(
    own: str, function: str, reason: str
) -> None:
    with pytest.raises(ModelError, match=f"^regularizer {own}:{function} .*{reason}") as refused:
        check_regularizer(f"{own}:{function}")
    assert "\n" not in str(refused.value)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ModelError, match="unknown regularizer covarianse; choose from covariance, off-diag"):
        regularizer_of("covarianse")
    with pytest.raises(ModelError, match="regularizer nowhere:f cannot be imported: No module named"):
        check_regularizer("nowhere:f")
