"""Kernels for GPUs where torch's own operations take many times what the arithmetic does (Triton)."""

from __future__ import annotations

import torch
import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]
from torch import Tensor

#: Columns of the C x C cross products that one program makes.
_COLUMNS = 64


@triton.jit
def _signed_products(  # type: ignore[no-untyped-def]
    features, products, sums, fn, fc, fh, fw, pn, pc, ph, pw, width, count, channels,
    rows: tl.constexpr, padded: tl.constexpr, columns: tl.constexpr,
):  # fmt: skip
    """At one position and for some of its columns: X S, and the sum of X times it."""
    position, block = tl.program_id(0), tl.program_id(1)
    h, w = position // width, position % width
    n = tl.arange(0, rows)[:, None]
    c = tl.arange(0, padded)[None, :]
    column = block * columns + tl.arange(0, columns)[None, :]
    place = features + h * fh + w * fw
    every = tl.load(place + n * fn + c * fc, mask=(n < count) & (c < channels), other=0.0)
    some = tl.load(place + n * fn + column * fc, mask=(n < count) & (column < channels), other=0.0)
    every = tl.where(n < count, every - (tl.sum(every, 0) / count)[None, :], 0.0)
    some = tl.where(n < count, some - (tl.sum(some, 0) / count)[None, :], 0.0)
    # In full fp32: in TF32 products near zero would change their sign.
    crossed = tl.dot(tl.trans(every), some, input_precision="ieee")
    signs = tl.where(crossed > 0, 1.0, tl.where(crossed < 0, -1.0, 0.0))
    product = tl.dot(every, signs, input_precision="ieee")
    tl.store(sums + position * tl.num_programs(1) + block, tl.sum(tl.sum(product * some, 1), 0))
    place = products + h * ph + w * pw
    tl.store(place + n * pn + column * pc, product, mask=(n < count) & (column < channels))


@torch.library.custom_op("lictune::signed_products", mutates_args=())
def signed_products(features: Tensor) -> tuple[Tensor, Tensor]:
    """With X = Fc, N x C at a position, and S the signs of X'X: X S, and the sums of X times it, whose own
    sum is L (lic.decorrelation). `features` is N x C x H x W float32 on a GPU; returned are N x C x H x W,
    laid out alike, and H W x K. The C x C products stay in the multiprocessors' registers."""
    count, channels, height, width = features.shape
    products, sums = _results(features)
    _signed_products[(height * width, sums.shape[1])](
        features, products, sums, *features.stride(), *products.stride(), width, count, channels,
        rows=max(16, triton.next_power_of_2(count)), padded=max(16, triton.next_power_of_2(channels)),
        columns=_COLUMNS,
    )  # fmt: skip
    return products, sums


@signed_products.register_fake
def _results(features: Tensor) -> tuple[Tensor, Tensor]:
    channels, positions = features.shape[1], features.shape[2] * features.shape[3]
    return torch.empty_like(features), features.new_empty(positions, -(-channels // _COLUMNS))
