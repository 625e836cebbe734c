"""The operators of ``ops.steered`` in plain PyTorch, on any device: what the kernels must agree with.

Shape letters: R rows, M memories, m overwritten entries.
"""

from __future__ import annotations

import torch
from torch import Tensor

from infosteer.ops.entropy_rows import entropy_gradient_rows, entropy_moments
from infosteer.ops.rows import (
    entries_like,
    gradient_rows,
    mean_of,
    pack_entries,
    statistics_dtype,
    targets,
    unpack_entries,
)
from infosteer.ops.select import smallest


def rows_forward(
    k: Tensor,
    m: int,
    alpha: float,
    order: str,
    reference: str,
    strength: float,
    strength_at: Tensor | None,
    normalization: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``ops.steered.steer_rows``, which says what the arguments are."""
    wide = statistics_dtype(k.dtype)
    out, entries = k.new_empty(0), entries_like(k, m)
    if m:
        index = smallest(k, m, order)
        share = strength if strength_at is None else strength_at
        edited, signs = targets(k, index, mean_of(k, reference), alpha, reference, share)
        out = k.scatter(1, index, edited)
        entries = pack_entries(index, signs, k.shape[1])
    if not normalization:
        return out, entries, k.new_empty(0, dtype=wide), k.new_empty((0, 2), dtype=wide)
    total, center = entropy_moments(out if m else k, normalization)
    return out, entries, (total.log() - center).squeeze(1), torch.cat([total, center], dim=1)


def rows_backward(
    grad: Tensor | None,
    y: Tensor,
    entries: Tensor,
    moments: Tensor | None,
    factor: Tensor | None,
    alpha: float,
    reference: str,
    strength: float,
    strength_at: Tensor | None,
    detach_reference: bool,
    normalization: str,
) -> Tensor:
    """``ops.steered.steer_rows_backward``, which says what the arguments are."""
    full = torch.zeros_like(y) if grad is None else grad
    if factor is not None:
        full = with_entropy(full, y, moments, factor, normalization)
    m = entries.shape[1]
    if m == 0:
        return full.to(y.dtype, copy=full is grad)
    index, signs = unpack_entries(entries)
    signed = not detach_reference and reference == "magnitude_mean"
    spread = None if detach_reference else alpha / y.shape[1]
    share = strength if strength_at is None else strength_at
    result = gradient_rows(full, index, y if signed else None, signs if signed else None, spread, share)
    return result.to(y.dtype)


def with_entropy(grad: Tensor, y: Tensor, moments: Tensor | None, factor: Tensor, normalization: str) -> Tensor:
    """``grad + factor dH/dy`` in float32 (float64 stays), grad itself in rows whose factor is 0."""
    total, center = (None, None) if moments is None else moments.split(1, dim=1)
    slope = entropy_gradient_rows(y, normalization, total, center)
    wide = grad.to(slope.dtype)
    by_row = factor.to(slope.dtype).unsqueeze(1)
    return torch.where(by_row == 0, wide, torch.addcmul(wide, slope, by_row))
