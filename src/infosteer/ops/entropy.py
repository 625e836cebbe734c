"""Entropy of the key coefficients of every row, with its gradient in closed form.

A row ``k`` in R^M becomes a distribution ``p`` by one of three normalizations, through weights ``b``:

    magnitude   b = |k|            p = |k| / sum |k|
    square      b = k^2            p = k^2 / sum k^2
    softmax     b = exp(k)         p = softmax(k)

With ``S = sum b`` and ``Q = sum b ln b`` (0 ln 0 = 0), in nats:

    H          = ln S - Q / S                  an all-zero row has H = 0 (magnitude, square)
    dH/db_i    = -(ln b_i - Q / S) / S
    dH/dk_i    = dH/db_i * db_i/dk_i           db/dk = sgn(k), 2 k, exp(k); 0 where k = 0 (magnitude, square)

H does not change when b is multiplied by a constant, so rows are first divided by their largest magnitude (softmax:
shifted by the maximum): nothing overflows or underflows. Statistics are float32 for half precision and float32 input,
float64 for float64. A row with an infinity or a NaN has entropy NaN and gradient NaN.

Source: arXiv 2507.05158, section 4.2; "magnitude" replaces its k / sum k, which is undefined for signed k.
Shape letters: R rows, M memories.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from infosteer.errors import ConfigError
from infosteer.ops.backends import kernels_take
from infosteer.ops.chunks import eager_on_cpu, row_chunks, rows_per_chunk
from infosteer.ops.entropy_rows import EASY_SUM, entropy_gradient_rows, entropy_moments
from infosteer.ops.once import differentiable_once
from infosteer.ops.rows import statistics_dtype
from infosteer.ops.select import check_choice, check_floating
from infosteer.ops.steered import steered_entropy

NORMALIZATIONS = ("magnitude", "square", "softmax")


def key_entropy(k: Tensor, normalization: str = "magnitude") -> Tensor:
    """Entropy of the coefficient distribution of every row, in nats.

    ``H = -sum_i p_i ln p_i`` with ``p = |k| / sum |k|`` ("magnitude"), ``k^2 / sum k^2`` ("square") or ``softmax(k)``.

    Args:
        k: (..., M) key coefficients, float32, bfloat16, float16 or float64.
        normalization: how a row becomes a distribution.

    Returns:
        (...,) float32 (float64 for float64 input), in [0, ln M]. Differentiable
        once; saves ``k`` and two numbers a row.

    Raises:
        ConfigError: unknown normalization, or ``k`` not a floating tensor with M >= 1.

    Source: arXiv 2507.05158, section 4.2.
    """
    check_choice("normalization", normalization, NORMALIZATIONS)
    check_floating("k", k)
    if k.shape[-1] == 0:
        raise ConfigError("Rows without coefficients have no entropy.", where="k", got=f"shape {tuple(k.shape)}")
    if kernels_take(k):
        return steered_entropy(k, normalization)
    recorded = k.requires_grad and torch.is_grad_enabled()
    if normalization == "magnitude" and not recorded and eager_on_cpu(k):
        return _magnitude_entropy(k.reshape(-1, k.shape[-1])).view(k.shape[:-1])
    out: Tensor = _KeyEntropy.apply(k, normalization)
    return out


def _magnitude_entropy(rows: Tensor) -> Tensor:
    """(R,) entropies without gradient: few passes over rows (R, M) of ordinary size, the careful way for others."""
    wide = statistics_dtype(rows.dtype)
    out = torch.empty(rows.shape[0], dtype=wide)
    buffers = torch.empty((2, min(rows_per_chunk(rows.shape[1]), rows.shape[0]), rows.shape[1]), dtype=wide)
    for place in row_chunks(rows):
        chunk, here = rows[place], out[place]
        size, log = buffers[:, : chunk.shape[0]]
        torch.abs(chunk.detach().to(wide), out=size)
        total = size.sum(dim=1)
        torch.clamp_min(size, torch.finfo(wide).tiny, out=log).log_()  # 0 ln 0 = 0
        torch.sub(total.log(), log.mul_(size).sum(dim=1) / total, out=here)
        if not bool(((total > EASY_SUM[0]) & (total < EASY_SUM[1])).all()):
            here.copy_(_KeyEntropy.apply(chunk.detach(), "magnitude"))
    return out


def _chunks(rows: Tensor) -> list[slice]:
    if eager_on_cpu(rows):
        return list(row_chunks(rows))
    return [slice(0, rows.shape[0])] if rows.shape[0] else []


class _KeyEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, k: Tensor, normalization: str) -> Tensor:
        rows = k.reshape(-1, k.shape[-1])
        totals, centers = [], []
        for here in _chunks(rows):
            total, center = entropy_moments(rows[here], normalization)
            totals.append(total)
            centers.append(center)
        total = torch.cat(totals) if totals else rows.new_empty(0, 1, dtype=statistics_dtype(k.dtype))
        center = torch.cat(centers) if centers else total
        ctx.normalization = normalization
        ctx.save_for_backward(k, total, center)
        return (total.log() - center).view(k.shape[:-1])

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        k, total, center = ctx.saved_tensors
        rows = k.reshape(-1, k.shape[-1])
        result = torch.empty(rows.shape, dtype=k.dtype, device=k.device)
        factor = grad.reshape(-1, 1)
        for here in _chunks(rows):
            slope = entropy_gradient_rows(rows[here], ctx.normalization, total[here], center[here])
            result[here] = slope.mul_(factor[here])
        return result.view(k.shape), None
