"""Plain maths of the entropy of rows: its moments and its gradient; formulas in ``ops.entropy``.

Shape letters: R rows, M memories.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from infosteer.ops.chunks import eager_on_cpu
from infosteer.ops.rows import statistics_dtype

# Sums of magnitudes for which ln |k| loses nothing that matters in float32 and no rescaling is needed.
EASY_SUM = (1e-3, 1e7)
_BELOW_ALL_LOGS = -1000.0  # ln of the smallest float64 is -744.4


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
    if normalization == "magnitude" and eager_on_cpu(k):
        line = magnitude_line(k)
        if line is not None:
            return torch.addcmul(line.offset, line.log, line.slope).mul_(torch.sign(k))
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


@dataclass(frozen=True, slots=True)
class Line:
    """``dH/dk = sgn(k) (offset + slope ln|k|)`` of rows (R, M), for the magnitude normalization.

    Attributes:
        log: (R, M) ln |k|, some finite number where k is 0.
        slope: (R, 1) -1 / S.
        offset: (R, 1) Q / S^2.
    """

    log: Tensor
    slope: Tensor
    offset: Tensor


def magnitude_line(k: Tensor) -> Line | None:
    """The gradient in few passes, for rows (R, M) of ordinary size; None when a row has an infinity, a NaN, or a sum
    that float32 does not carry well."""
    wide = statistics_dtype(k.dtype)
    size = k.abs().to(wide)
    total = size.sum(dim=1, keepdim=True)
    if not bool(((total > EASY_SUM[0]) & (total < EASY_SUM[1])).all()):
        return None
    log = size.log()
    weighted = torch.mul(size, log).sum(dim=1, keepdim=True)
    if not bool(weighted.isfinite().all()):  # there are zeros, and 0 * -inf is NaN
        weighted = size.mul_(log.clamp_min_(_BELOW_ALL_LOGS)).sum(dim=1, keepdim=True)
    slope = -1 / total
    return Line(log, slope, weighted * slope * slope)


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
