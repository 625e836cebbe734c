"""Plain maths of the entropy of rows: its moments and its gradient; formulas in ``ops.entropy``.

Shape letters: R rows, M memories.
"""

from __future__ import annotations

import torch
from torch import Tensor

from infosteer.ops.rows import statistics_dtype

# Sums of magnitudes for which ln |k| loses nothing that matters in float32 and no rescaling is needed.
EASY_SUM = (1e-3, 1e7)


def entropy_gradient_rows(
    k: Tensor, normalization: str = "magnitude", total: Tensor | None = None, center: Tensor | None = None
) -> Tensor:
    """``dH/dk`` of rows (R, M): a pure function, float32 statistics (float64 stays).

    Args:
        k: (R, M) rows.
        normalization: as in ``key_entropy``.
        total: (R, 1) S of the rescaled weights, where known.
        center: (R, 1) Q / S of the rescaled weights, where known.

    Returns:
        (R, M) float32 (float64 for float64 input), a new tensor.
    """
    if normalization == "magnitude" and not torch.compiler.is_compiling() and k.device.type == "cpu":
        easy = _easy_magnitude_gradient(k)
        if easy is not None:
            return easy
    x, weight, log = _weights(k, normalization)
    if total is None or center is None:
        total, center = _moments(weight, log)
    slope = (log - center) / -total
    if normalization == "softmax":
        return slope * weight
    size = _largest(k)
    if normalization == "square":
        return slope * x * (2 / size)
    return slope * torch.sign(x) / size


def entropy_moments(k: Tensor, normalization: str) -> tuple[Tensor, Tensor]:
    """``S`` and ``Q / S`` of the rescaled weights of rows k (R, M), each (R, 1) float32 (float64 for float64); the
    entropy is ``ln S - Q / S``."""
    _, weight, log = _weights(k, normalization)
    return _moments(weight, log)


def _easy_magnitude_gradient(k: Tensor) -> Tensor | None:
    """The same in fewer passes for rows of ordinary size without zeros, infinities, NaN; None when a row is not so."""
    size = k.abs().to(statistics_dtype(k.dtype))
    total = size.sum(dim=1, keepdim=True)
    log = size.log()
    weighted = size.mul_(log).sum(dim=1, keepdim=True)  # a zero gives 0 * -inf = NaN here
    if not bool((weighted.isfinite() & (total > EASY_SUM[0]) & (total < EASY_SUM[1])).all()):
        return None
    inverse = -1 / total
    slope = torch.mul(log.sub_(weighted / total), inverse, out=size)
    return slope.mul_(torch.sign(k))


def _largest(k: Tensor) -> Tensor:
    """(R, 1) largest magnitude of each row, 1 for an all-zero row."""
    size = k.abs().amax(dim=1, keepdim=True).to(statistics_dtype(k.dtype))
    return torch.where(size == 0, torch.ones_like(size), size)


def _weights(k: Tensor, normalization: str) -> tuple[Tensor, Tensor, Tensor]:
    """Rescaled coefficients x, weights b and ln b (0 where x = 0), each (R, M)."""
    wide = k.to(statistics_dtype(k.dtype))
    if normalization == "softmax":
        x = wide - wide.amax(dim=1, keepdim=True)
        return x, x.exp(), x
    x = wide / _largest(k)
    size = x.abs()
    log = size.log().masked_fill(x == 0, 0.0)
    if normalization == "square":
        return x, size * size, 2 * log
    return x, size, log


def _moments(weight: Tensor, log: Tensor) -> tuple[Tensor, Tensor]:
    """S and Q / S, each (R, 1); S = 1 for an all-zero row, which makes H = 0."""
    total = weight.sum(dim=1, keepdim=True)
    total = torch.where(total == 0, torch.ones_like(total), total)
    return total, (weight * log).sum(dim=1, keepdim=True) / total
