"""What the ranks of a training run exchange: the processes that each compute a part of every batch, on a
device of their own (data parallelism). lic.training.parallel starts them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Ranks:
    """This process among the `count` that train together; alone, it exchanges nothing.

    All ranks have the same weights and take the same steps: what they average is the same on all of them to
    the bit. A method that exchanges something must be called on all ranks, in the same order.
    """

    rank: int = 0
    count: int = 1

    def rows(self, batch: int, parts: int) -> NDArray[np.int64]:
        """The rows of a batch that this rank computes: its share of each of the equal `parts` of the
        batch."""
        return np.arange(batch).reshape(parts, self.count, -1)[:, self.rank].ravel()

    def gather(self, features: Tensor) -> Tensor:
        """The features of all ranks, N x ..., in the order of the batch. Their gradient is the sum of those
        of all ranks, so if each rank has the same loss of them, `average` makes it that of one."""
        if self.count == 1:
            return features
        # Like `mean`, of those collectives that can be compiled.
        from torch.distributed import _functional_collectives as collectives

        gathered: Tensor = collectives.all_gather_single_autograd(features.contiguous(), 0, all_ranks())
        return gathered

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a tensor over the ranks, without gradient."""
        if self.count == 1:
            return value
        from torch.distributed import _functional_collectives as collectives

        total: Tensor = collectives.all_reduce(value.detach(), "sum", all_ranks())
        return total / self.count

    @torch.no_grad()
    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their means over the ranks, in one exchange."""
        if self.count > 1:
            flat = _joined(tensors)
            dist.all_reduce(flat)
            _split(flat.div_(self.count), tensors)

    @torch.no_grad()
    def align(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by those of rank 0. They only differ where a device's kernels do not give the same
        result twice."""
        if self.count > 1:
            flat = _joined(tensors)
            dist.broadcast(flat, src=0)
            _split(flat, tensors)

    def noise(self, like: Tensor, dim: int) -> Tensor:
        """Uniform noise of width 1: the part of this rank, along the dimension of the samples, of the noise
        that one device would draw for the whole batch. All ranks must have the same generator."""
        whole = torch.empty_like(torch.cat([like.detach()] * self.count, dim)).uniform_(-0.5, 0.5)
        return whole.chunk(self.count, dim)[self.rank]


#: A training run on one device.
ALONE = Ranks()


def all_ranks() -> dist.ProcessGroup:
    """The group of all ranks, which must have joined."""
    group = dist.group.WORLD
    assert group is not None
    return group


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def _split(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    """Write the parts of `_joined` back."""
    parts = flat.split([tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(part.view(tensor.shape))
