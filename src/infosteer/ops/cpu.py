"""Rows on the CPU: edit and entropy gradient by native code where it is to be had, else in PyTorch.

The native code takes float32 and bfloat16. Float16, float64, chosen places, tensors of other classes, and rows whose
entropy float32 does not carry go to PyTorch.

Shape letters: R rows, M memories, m overwritten entries.
"""

from __future__ import annotations

from torch import Tensor

from infosteer.ops import cpu_rows
from infosteer.ops.chunks import row_chunks
from infosteer.ops.cpu_rows import add_gradient
from infosteer.ops.masked_rows import by_mask
from infosteer.ops.native import rows as native
from infosteer.ops.native.trial import takes
from infosteer.ops.rows import Edit, mean_of, statistics_dtype

__all__ = [
    "add_entropy_gradient",
    "add_gradient",
    "edit_gradient",
    "edit_packed",
    "edit_rows",
    "joint_gradient",
    "packed_gradient",
]


def edit_rows(rows: Tensor, m: int, choice: str | Tensor, alpha: float, reference: str, strength: float) -> Edit:
    """Overwrites m entries of every row (R, M): the smallest in the order named, or those at given places (R, m)."""
    width = rows.shape[1]
    if isinstance(choice, str) and m < width and takes(rows):
        means = _means(rows, reference)
        named = "mask" if by_mask(m, width) else "places"
        return native.edit_rows(rows, means, m, choice, alpha, reference, strength, named)
    return cpu_rows.edit_rows(rows, m, choice, alpha, reference, strength)


def edit_packed(rows: Tensor, m: int, order: str, alpha: float, reference: str, strength: float) -> Edit | None:
    """``edit_rows``, 0 < m, that says where by packed entries however many there are; None where nothing does that."""
    if m >= rows.shape[1] or not takes(rows):
        return None
    return native.edit_rows(rows, _means(rows, reference), m, order, alpha, reference, strength, "packed")


def packed_gradient(
    grad: Tensor,
    y: Tensor,
    entries: Tensor,
    factor: Tensor | None,
    spread: float | None,
    strength: float,
    signed: bool,
) -> Tensor | None:
    """``joint_gradient``, or without a factor ``edit_gradient``, of edited rows y with packed entries (R, m), perhaps
    none; None where nothing does that."""
    if not takes(grad, y):
        return None
    edit = Edit(y, entries, None) if entries.shape[1] else None
    return native.gradient_rows(grad, y, edit, factor, spread, strength, signed and spread is not None)


def _means(rows: Tensor, reference: str) -> Tensor:
    """``mean_of`` rows, a chunk at a time."""
    means = rows.new_empty(rows.shape[0], 1, dtype=statistics_dtype(rows.dtype))
    for here in row_chunks(rows):
        means[here] = mean_of(rows[here], reference)
    return means


def edit_gradient(grad: Tensor, edit: Edit, spread: float | None, strength: float, signed: bool) -> Tensor:
    """The gradient (R, M) of the rows from that of the edited rows.

    Args:
        grad: (R, M).
        edit: what ``edit_rows`` gave; ``out`` is read only where ``signed``.
        spread: alpha / M, None where the mean is detached.
        strength: as in ``intervene``.
        signed: whether the mean is that of magnitudes.
    """
    signed = signed and spread is not None
    if takes(grad, *[edit.out] * signed):
        found = native.gradient_rows(grad, edit.out if signed else None, edit, None, spread, strength, signed)
        assert found is not None, "without entropy every row can be done"
        return found
    return cpu_rows.edit_gradient(grad, edit, spread, strength, signed)


def add_entropy_gradient(k: Tensor, grad: Tensor, factor: Tensor) -> Tensor | None:
    """``grad + factor dH/dk`` (R, M) for the magnitude normalization, factor (R,); rows whose factor is 0 are left
    alone. None for rows that need more care (``entropy_rows.magnitude_line``)."""
    if takes(grad, k):
        return native.gradient_rows(grad, k, None, factor, None, 1.0, False) if bool(factor.any()) else grad
    return cpu_rows.add_entropy_gradient(k, grad, factor)


def joint_gradient(
    grad: Tensor, edit: Edit, factor: Tensor, spread: float | None, strength: float, signed: bool
) -> Tensor | None:
    """``edit_gradient`` of ``add_entropy_gradient(edit.out, grad, factor)``, where it can be in one pass over both."""
    if takes(grad, edit.out):
        return native.gradient_rows(grad, edit.out, edit, factor, spread, strength, signed and spread is not None)
    return cpu_rows.joint_gradient(grad, edit, factor, spread, strength, signed)
