"""Bases of gradients with more than three dimensions (convolutions): strongest directions of each of them (Tucker).

Shape letters: a tensor is (n_1, ..., n_d); r_k = min(rank, n_k).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

_SWEEPS = 2  # rounds in which each dimension's directions are found behind the projection of all others
_NAME = "factor_"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class TuckerBasis:
    """Orthonormal directions of every dimension.

    Formula: ``project(G) = G x_1 U_1^T ... x_d U_d^T``, ``lift(N) = N x_1 U_1 ... x_d U_d``, x_k the product along
    dimension k.

    Attributes:
        factors: U_k (n_k, r_k).
    """

    factors: tuple[Tensor, ...]

    def project(self, gradient: Tensor) -> Tensor:
        """(n_1, ..., n_d) -> (r_1, ..., r_d)."""
        return _products(gradient, self.factors)

    def lift(self, low: Tensor) -> Tensor:
        """Back to (n_1, ..., n_d)."""
        return _products(low, [factor.mT for factor in self.factors])

    def turn(self, low: Tensor, older: TuckerBasis) -> Tensor:
        """``project(older.lift(low))`` without the whole tensor in between."""
        return _products(low, [old.mT @ new for old, new in zip(older.factors, self.factors, strict=True)])

    def tensors(self) -> dict[str, Tensor]:
        """What an optimizer's state keeps, by name."""
        return {f"{_NAME}{number}": factor for number, factor in enumerate(self.factors)}

    def low_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of a projection by it."""
        return tuple(factor.shape[-1] for factor in self.factors)


def read_tucker(held: Mapping[str, Tensor]) -> TuckerBasis | None:
    """The basis whose ``tensors`` these are; None where there are none."""
    factors = [held[f"{_NAME}{number}"] for number in range(len(held)) if f"{_NAME}{number}" in held]
    return TuckerBasis(factors=tuple(factors)) if factors else None


def find_tucker(gradient: Tensor, rank: int) -> TuckerBasis:
    """The first ``rank`` directions of every dimension, of a gradient that is finite and not zero.

    They are the left singular vectors of the tensor unfolded along that dimension; then, some rounds over, those of
    the tensor projected along all others (higher-order orthogonal iteration).

    Source: De Lathauwer et al. 2000.
    """
    shape = gradient.shape
    factors = [_directions(gradient, k, min(rank, n)) for k, n in enumerate(shape)]
    for k in list(range(len(shape))) * _SWEEPS:
        whole = [factor if j != k else torch.eye(shape[k]).to(factor) for j, factor in enumerate(factors)]
        factors[k] = _directions(_products(gradient, whole), k, factors[k].shape[-1])
    return TuckerBasis(factors=tuple(factors))


def _directions(tensor: Tensor, k: int, count: int) -> Tensor:
    unfolded = tensor.movedim(k, 0).flatten(1)
    if count == unfolded.shape[0]:
        return torch.eye(count).to(tensor)  # all of them: the dimension stays as it is
    # Where the other dimensions are fewer than this one, the thin factor has too few columns.
    u: Tensor = torch.linalg.svd(unfolded, full_matrices=unfolded.shape[1] < count)[0]
    return u[:, :count].contiguous()


def _products(tensor: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Each dimension of length n times a matrix (n, m), in order."""
    for matrix in matrices:  # the product takes the first dimension away and puts the new one at the end
        tensor = torch.tensordot(tensor, matrix, dims=([0], [0]))
    return tensor
