"""Bases of a gradient's strongest directions; into their coordinates, and back.

Shape letters: a matrix is (m, n), stacks of matrices (experts) have further dimensions in front; r rank.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from infosteer.methods.params.galore.tucker import TuckerBasis, find_tucker, read_tucker

MODES = ("std", "reverse_std", "left", "right", "full")
SOLVERS = ("exact", "randomized")
_OVERSAMPLED, _POWER_ITERATIONS = 8, 2  # as torch.svd_lowrank advises


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Basis:
    """Orthonormal directions of the rows' or columns' space, or of both.

    Formula: ``project(G) = P^T G Q^T``, ``lift(N) = P N Q``, a side that is None being left out.

    Attributes:
        left: P (..., m, r), columns.
        right: Q (..., r, n), rows.
    """

    left: Tensor | None = None
    right: Tensor | None = None

    def project(self, gradient: Tensor) -> Tensor:
        """(..., m, n) -> (..., r, n), (..., m, r) or (..., r, r)."""
        found = gradient if self.left is None else self.left.mT @ gradient
        return found if self.right is None else found @ self.right.mT

    def lift(self, low: Tensor) -> Tensor:
        """Back to (..., m, n)."""
        found = low if self.left is None else self.left @ low
        return found if self.right is None else found @ self.right

    def turn(self, low: Tensor, older: Basis) -> Tensor:
        """Coordinates in an older basis, as far as this one can express them: ``project(older.lift(low))`` without the
        whole matrix in between."""
        if self.left is not None and older.left is not None:
            low = (self.left.mT @ older.left) @ low
        if self.right is not None and older.right is not None:
            low = low @ (older.right @ self.right.mT)
        return low

    def tensors(self) -> dict[str, Tensor]:
        """What an optimizer's state keeps, by name."""
        return {name: side for name, side in (("left", self.left), ("right", self.right)) if side is not None}

    def low_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of a projection by it, of a matrix or stack of this shape."""
        rows = shape[-2] if self.left is None else self.left.shape[-1]
        return (*shape[:-2], rows, shape[-1] if self.right is None else self.right.shape[-2])


def read_basis(held: Mapping[str, Tensor]) -> Basis | TuckerBasis | None:
    """The basis whose ``tensors`` these are; None where there are none."""
    if "left" in held or "right" in held:
        return Basis(left=held.get("left"), right=held.get("right"))
    return read_tucker(held)


def is_tensor(shape: Sequence[int]) -> bool:
    """Whether a parameter is projected along all of its dimensions: three are a stack of matrices (experts)."""
    return len(shape) > 3


def compresses(shape: Sequence[int], rank: int) -> bool:
    """Whether a rank leaves anything out."""
    return rank < (max(shape) if is_tensor(shape) else min(shape[-2:]))


def sides(shape: Sequence[int], mode: str) -> tuple[bool, bool]:
    """Whether a mode projects from the left, and from the right.

    ``std`` compresses the smaller dimension (m >= n: right), ``reverse_std`` the larger one.
    """
    tall = shape[-2] >= shape[-1]
    right = {"std": tall, "reverse_std": not tall, "left": False, "right": True, "full": True}[mode]
    return mode == "full" or not right, right


def projected_shape(shape: Sequence[int], rank: int, mode: str) -> tuple[int, ...]:
    """Shape of the projection of a matrix, and of each of the optimizer's moments."""
    if is_tensor(shape):
        return tuple(min(rank, n) for n in shape)
    left, right = sides(shape, mode)
    return (*shape[:-2], rank if left else shape[-2], rank if right else shape[-1])


def find_basis(
    gradient: Tensor, rank: int, mode: str = "std", solver: str = "exact", seed: int = 0
) -> Basis | TuckerBasis | None:
    """The first ``rank`` singular directions of a gradient; None for one that is zero or not finite. One of more than
    three dimensions has them along each, whatever the mode and solver.

    They are computed in fp32 (fp64 for fp64) and rounded to the gradient's type. ``randomized`` finds them in a random
    sketch of rank + 8 directions after two power iterations (Halko et al., arXiv 0909.4061), drawn from ``seed`` and
    from nothing else.
    """
    matrix = gradient if gradient.dtype == torch.float64 else gradient.float()
    if not bool(matrix.isfinite().all()) or not bool(matrix.any()):
        return None
    if is_tensor(matrix.shape):
        found = find_tucker(matrix, rank)
        return TuckerBasis(factors=tuple(factor.to(gradient.dtype) for factor in found.factors))
    if solver == "exact":
        u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    else:
        u, v = _sketched(matrix, rank, seed)
    left, right = sides(gradient.shape, mode)
    return Basis(
        left=u[..., :rank].to(gradient.dtype).contiguous() if left else None,
        right=v[..., :rank, :].to(gradient.dtype).contiguous() if right else None,
    )


def _sketched(matrix: Tensor, rank: int, seed: int) -> tuple[Tensor, Tensor]:
    *stack, m, n = matrix.shape
    width = min(rank + _OVERSAMPLED, m, n)
    drawn = torch.randn((*stack, n, width), generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
    q = torch.linalg.qr(matrix @ drawn.to(matrix))[0]
    for _ in range(_POWER_ITERATIONS):
        q = torch.linalg.qr(matrix.mT @ q)[0]
        q = torch.linalg.qr(matrix @ q)[0]
    u, _, v = torch.linalg.svd(q.mT @ matrix, full_matrices=False)
    return q @ u, v
