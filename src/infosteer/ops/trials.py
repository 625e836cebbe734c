"""Trials of the kernels on a few awkward rows against plain PyTorch, once for every variant that is about to be used.

Masks must be equal bit by bit; values, whose sums run in another order on chip, to within ``tolerance``.

Shape letters: R rows, M memories, m overwritten entries.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from infosteer.ops import backends, reference
from infosteer.ops.rows import entries_like, pack_entries, statistics_dtype, unpack_entries
from infosteer.ops.select import smallest

# Largest difference relative to the largest finite magnitude of a row: two steps of half precision, and in float32
# what sums of tens of thousands of terms and the GPU's fast logarithm leave.
TOLERANCES = {torch.float32: 2e-5, torch.bfloat16: 2**-7, torch.float16: 2**-10}


def awkward_rows(width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Rows (8, M): ordinary, sparse, all zero, all equal, many ties of both signs, tiny, with infinities, with NaN."""
    place = torch.arange(width, dtype=torch.float64)
    wave = torch.sin(place * 12.9898 + 1) * torch.cos(place * 78.233) * 3
    ties = torch.round(wave * 2) / 2
    rows = torch.stack([wave, wave * (place % 3 == 0), wave * 0, wave * 0 + 0.5, ties, wave * 1e-4, wave, wave])
    rows[6, 0], rows[6, width // 2] = math.inf, -math.inf
    rows[7, width // 3] = math.nan
    return rows.to(dtype).to(device)


def forward_agrees(
    k: Tensor,
    m: int,
    alpha: float,
    order: str,
    rule: str,
    strength: float,
    strength_at: Tensor | None,
    normalization: str,
) -> bool:
    """Whether the forward kernel of ``ops.steered`` may be used with these settings on tensors like k."""
    full = strength_at is None and strength == 1.0
    settings = (order, rule, full, strength_at is not None, normalization) if m else (normalization,)
    variant = ("rows forward", k.device, k.dtype, k.shape[1], m > 0, *settings)

    def trial() -> str | None:
        from infosteer.ops.kernels import rows as kernels

        rows = awkward_rows(k.shape[1], k.dtype, k.device)
        expected = reference.rows_forward(rows, m, alpha, order, rule, strength, strength_at, normalization)
        got = tuple(torch.empty_like(tensor) for tensor in expected)
        kernels.rows_forward(rows, got, alpha, order, rule, strength, strength_at, normalization)
        if not same_entries(expected[1], got[1]):
            return "it chooses other entries"
        names = ("edited rows", "", "entropy", "moments")
        return differences(names, expected, got, k.dtype)

    return _tried(variant, trial)


def backward_agrees(
    y: Tensor,
    m: int,
    has_grad: bool,
    has_moments: bool,
    has_factor: bool,
    alpha: float,
    rule: str,
    strength: float,
    strength_at: Tensor | None,
    detach_reference: bool,
    normalization: str,
) -> bool:
    """The same for the backward kernel."""
    full = strength_at is None and strength == 1.0
    settings = (rule, full, strength_at is not None, detach_reference) if m else ()
    parts = (has_grad, has_moments, normalization if has_factor else "")
    variant = ("rows backward", y.device, y.dtype, y.shape[1], m, *settings, *parts)

    def trial() -> str | None:
        from infosteer.ops.kernels import rows as kernels

        rows = awkward_rows(y.shape[1], y.dtype, y.device)
        index = smallest(rows, m)
        signs = torch.sign(rows.gather(1, index)).nan_to_num().to(torch.int8)
        entries = pack_entries(index, signs, y.shape[1]) if m else entries_like(rows, 0)
        moments = factor = None
        if has_factor:
            factor = torch.linspace(-1, 1, len(rows), dtype=statistics_dtype(y.dtype), device=y.device)
            if has_moments:
                moments = reference.rows_forward(rows, 0, alpha, "magnitude", rule, 1.0, None, normalization)[3]
        grad = rows.flip(0) if has_grad else None
        last = (alpha, rule, strength, strength_at, detach_reference, normalization)
        expected = reference.rows_backward(grad, rows, entries, moments, factor, *last)
        got = torch.empty_like(rows)
        kernels.rows_backward(grad, rows, entries, moments, factor, got, *last)
        return differences(("gradient",), (expected,), (got,), y.dtype)

    return _tried(variant, trial)


def same_entries(expected: Tensor, got: Tensor) -> bool:
    """Whether two sets of packed entries (R, m) are the same row by row, with the same signs."""
    codes = [index * 4 + signs + 1 for index, signs in map(unpack_entries, (expected, got))]
    return torch.equal(codes[0].sort(dim=1).values, codes[1].sort(dim=1).values)


def differences(
    names: tuple[str, ...], expected: tuple[Tensor, ...], got: tuple[Tensor, ...], dtype: torch.dtype
) -> str | None:
    """The first named tensor that differs by more than ``TOLERANCES``, as a sentence; None where all agree."""
    for name, left, right in zip(names, expected, got, strict=True):
        if name and not close(left, right, TOLERANCES[dtype]):
            return f"its {name} differ from the reference"
    return None


def close(expected: Tensor, got: Tensor, tolerance: float) -> bool:
    """Whether every entry is within ``tolerance`` of its row's largest finite one; NaN and infinities agree."""
    left, right = expected.double(), got.double()
    if left.numel() == 0:
        return left.shape == right.shape
    finite = left.isfinite()
    if not torch.equal(finite, right.isfinite()) or not torch.equal(left.isnan(), right.isnan()):
        return False
    infinite = ~finite & ~left.isnan()
    if not torch.equal(left[infinite], right[infinite]):
        return False
    left, right = (torch.where(finite, x, torch.zeros_like(x)) for x in (left, right))
    bound = tolerance * (left.abs().amax(dim=-1, keepdim=True) if left.dim() > 1 else left.abs().clamp_min(1e-3))
    return bool(((left - right).abs() <= bound).all())


def _tried(variant: tuple[object, ...], trial: Callable[[], str | None]) -> bool:
    if backends.INTERPRETED:  # the tests compare; a trial takes seconds there
        return True
    with torch.no_grad():
        return backends.tried(variant, str(variant[0]), trial)
