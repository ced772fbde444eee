"""SOAP's refresh: one step of orthogonal iteration for all eigenbases of a model, batched.

Each side of a weight has a symmetric statistic S of its gradients and a basis Q that follows the eigenvectors
of S, the largest eigenvalue first: Q becomes the orthogonal factor of S Q (Vyas et al. 2024, arXiv
2409.11321, algorithm 4). The library decomposes one matrix after the other by QR, which on a GPU is mostly
latency: 160 ms for all of the hyperprior's. Here matrices of equal size are one batch, and the
orthogonal factor comes from two Cholesky factors (CholeskyQR2; Yamamoto et al. 2015, Electronic Transactions
on Numerical Analysis 44), in fp64: as Q is nearly a basis of eigenvectors, the columns of S Q are nearly
orthogonal and, normalized, well-conditioned. A basis for which this fails is kept unchanged.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


@torch.no_grad()
def refresh(states: Iterable[dict[str, Any]]) -> None:
    """Refresh in place the bases ('Q') of SOAP's states from their statistics ('GG'), and reorder the second
    moments ('exp_avg_sq') like the columns."""
    by_size: dict[int, list[tuple[dict[str, Any], int]]] = defaultdict(list)
    for state in states:
        for side, basis in enumerate(state["Q"]):
            if len(basis) > 1:
                by_size[len(basis)].append((state, side))
    for members in by_size.values():
        bases = torch.stack([state["Q"][side] for state, side in members])
        product = torch.stack([state["GG"][side] for state, side in members]) @ bases
        order = (bases * product).sum(1).argsort(1, descending=True)
        columns = order[:, None].expand_as(bases)
        found = orthogonal(product.gather(2, columns), otherwise=bases.gather(2, columns))
        for (state, side), basis, own in zip(members, found, order, strict=True):
            state["Q"][side].copy_(basis)
            state["exp_avg_sq"].copy_(state["exp_avg_sq"].index_select(side, own))


def orthogonal(matrices: Tensor, otherwise: Tensor) -> Tensor:
    """The orthogonal factor Q of each matrix = Q R, with a positive diagonal of R; batches of B x n x n.
    Returns `otherwise` for matrices with nearly dependent columns; a zero column is replaced by that of
    `otherwise`."""
    wide = matrices.double()
    lengths = torch.linalg.vector_norm(wide, dim=1, keepdim=True)
    found = torch.where(lengths > 0, wide / lengths, otherwise.double())
    for _ in range(2):
        lower, _ = torch.linalg.cholesky_ex(found.mT @ found)
        found = torch.linalg.solve_triangular(lower.mT, found, upper=True, left=False)
    error = (found.mT @ found - torch.eye(found.shape[-1], device=found.device)).abs().amax((1, 2))
    return torch.where((error < 1e-6)[:, None, None], found.to(matrices.dtype), otherwise)
