"""The decorrelation loss against a naive loop over equations (9) and (10)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from lic.losses.decorrelation import decorrelation, scale_factor
from lic.losses.regularizers import latent_penalty
from lic.models.architectures import ModelError
from lic.models.build import Latents


def naive(features: torch.Tensor) -> float:
    batch, channels, height, width = features.shape
    total = 0.0
    for h in range(height):
        for w in range(width):
            mean = [sum(float(features[i, c, h, w]) for i in range(batch)) / batch for c in range(channels)]
            for u in range(channels):
                for v in range(channels):
                    total += abs(
                        sum(
                            (float(features[i, u, h, w]) - mean[u]) * (float(features[i, v, h, w]) - mean[v])
                            for i in range(batch)
                        )
                    )
    return total


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 5), st.integers(1, 6), st.integers(1, 3), st.integers(1, 3), st.integers(0, 1000))
def test_equals_the_naive_loop(batch: int, channels: int, height: int, width: int, seed: int) -> None:
    features = torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(seed))
    assert float(decorrelation(features)) == pytest.approx(naive(features), rel=1e-5)


def test_gradient() -> None:
    features = torch.randn(4, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(decorrelation, features)


class LargestTensor(TorchDispatchMode):
    """Watches every operation, the backward pass's too, for the largest tensor it makes."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.largest = max(self.largest, result.numel())
        return result


def test_no_tensor_is_larger_than_positions_by_channels_squared() -> None:
    features = torch.randn(4, 32, 3, 5, requires_grad=True)
    with LargestTensor() as watch:  # type: ignore[no-untyped-call]
        decorrelation(features).backward()
    assert watch.largest == 3 * 5 * 32 * 32


def test_a_constant_per_position_costs_nothing() -> None:
    features = torch.randn(4, 5, 2, 3)
    shifted = features + torch.randn(1, 5, 2, 3)
    torch.testing.assert_close(decorrelation(shifted), decorrelation(features), rtol=1e-4, atol=1e-4)
    assert float(decorrelation(torch.ones(4, 5, 2, 3))) == 0


def test_orthogonal_channels_leave_the_diagonal() -> None:
    """Uncorrelated channels: only the variances remain, so decorrelating them more gains nothing."""
    signs = torch.tensor([[1.0, 1, -1, -1], [1, -1, 1, -1]]).T.reshape(4, 2, 1, 1)
    assert float(decorrelation(signs)) == pytest.approx(8.0)
    same = signs[:, :1].repeat(1, 2, 1, 1)
    assert float(decorrelation(same)) == pytest.approx(16.0)


def test_scales_agree_at_the_papers_geometry() -> None:
    assert scale_factor(16, 256 * 256, 128, "reference") == 1.0
    assert scale_factor(8, 64 * 64, 32, "paper") == 1.0
    assert scale_factor(8, 64 * 64, 32, "reference") == pytest.approx(2 * 16 * 16)


def test_reference_scale_keeps_the_order_over_geometries() -> None:
    """White latents of any geometry get an L of the same order in the reference scale."""
    torch.manual_seed(0)
    values = []
    for batch, side, channels in ((16, 256, 128), (8, 64, 32)):
        y = torch.randn(batch, channels, side // 16, side // 16)
        values.append(float(latent_penalty(Latents(y, None), "y", side * side, "reference")))
    assert 0.3 < values[1] / values[0] < 3


def test_both_latents_add_up_and_a_missing_one_is_named() -> None:
    latents = Latents(torch.randn(4, 8, 4, 4), torch.randn(4, 6, 1, 1))
    parts = [latent_penalty(latents, s, 4096, "reference") for s in ("y", "z", "y+z")]
    torch.testing.assert_close(parts[0] + parts[1], parts[2])
    with pytest.raises(ModelError, match="hyper-latent z"):
        latent_penalty(Latents(latents.y, None), "z", 4096, "paper")
