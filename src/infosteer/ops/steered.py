"""Edit and entropy of rows as two operators that PyTorch knows, with several back ends: one forward, one backward.

``steer_rows`` overwrites the smallest entries of every row, or takes the entropy of every row, or both (the entropy is
that of the edited row). Registered with PyTorch, the operators are one node each in a compiled graph; which back end
runs is decided when they run.

What is kept a row for the backward pass: the overwritten entries, packed as ``4 * index + sign + 1`` into 16 bits (32
for rows of more than 16384), and two floats for the entropy. The edited row itself is kept by the down projection
anyway.

Shape letters: R rows, M memories, m overwritten entries.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from infosteer.ops import cpu
from infosteer.ops.backends import kernels_take
from infosteer.ops.chunks import eager_on_cpu
from infosteer.ops.reference import rows_backward, rows_forward
from infosteer.ops.rows import entries_like, statistics_dtype


def lift(
    k: Tensor,
    m: int,
    alpha: float,
    order: str,
    reference: str,
    detach_reference: bool,
    strength: float | Tensor,
    normalization: str = "",
) -> tuple[Tensor, Tensor]:
    """The edited coefficients (..., M), and their entropy (...) where there is a normalization; settings are checked.

    Differentiable once.
    """
    number, at = split_strength(strength, k)
    rows = k.reshape(-1, k.shape[-1])
    out, _, entropy, _ = steer_rows(rows, m, alpha, order, reference, number, at, detach_reference, normalization)
    return (out if m else rows).view(k.shape), entropy.view(k.shape[:-1]) if normalization else entropy


def split_strength(strength: float | Tensor, k: Tensor) -> tuple[float, Tensor | None]:
    """A strength as the two arguments of the operators: a number, or a tensor beside k that takes its place."""
    return (1.0, strength.to(k.device)) if isinstance(strength, Tensor) else (strength, None)


def steered_entropy(k: Tensor, normalization: str) -> Tensor:
    """The entropy (...) of coefficients (..., M); settings are checked. Differentiable once."""
    return lift(k, 0, 1.0, "magnitude", "mean", True, 1.0, normalization)[1]


def add_entropy_gradient(k: Tensor, grad: Tensor, factor: Tensor, normalization: str) -> Tensor | None:
    """``grad + factor dH/dk`` in one pass over rows, None where there is no such pass; rows whose factor is 0 are left
    alone.

    Args:
        k: (R, M) coefficients.
        grad: (R, M) gradient from above.
        factor: (R,) floating.
        normalization: as in ``key_entropy``.

    Returns:
        (R, M) of grad's dtype, a new tensor.
    """
    if not kernels_take(k) and not torch.compiler.is_compiling():  # one node in a compiled graph, on every device
        return cpu.add_entropy_gradient(k, grad, factor) if normalization == "magnitude" and eager_on_cpu(k) else None
    nothing = entries_like(k, 0)
    return steer_rows_backward(grad, k, nothing, None, factor, 1.0, "mean", 1.0, None, True, normalization)


@torch.library.custom_op(
    "infosteer::steer_rows",
    mutates_args=(),
    schema="(Tensor k, SymInt m, float alpha, str order, str reference, float strength, Tensor? strength_at, "
    "bool detach_reference, str normalization) -> (Tensor, Tensor, Tensor, Tensor)",
)
def steer_rows(
    k: Tensor,
    m: int,
    alpha: float,
    order: str,
    reference: str,
    strength: float,
    strength_at: Tensor | None,
    detach_reference: bool,
    normalization: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Edited rows (R, M), packed entries (R, m), entropy (R,) and its moments (R, 2); empty where not asked for.

    Args:
        k: (R, M) rows.
        m: entries to overwrite; 0 for none.
        alpha, order, reference, strength, detach_reference: as in ``intervene``; ``strength_at`` a 0-dim tensor that
            takes the place of ``strength``.
        normalization: as in ``key_entropy``, or empty for no entropy.
    """
    if kernels_take(k):
        from infosteer.ops.kernels import rows as kernels
        from infosteer.ops.trials import forward_agrees

        if forward_agrees(k, m, alpha, order, reference, strength, strength_at, normalization):
            buffers = _like(k, m, normalization)
            kernels.rows_forward(k, buffers, alpha, order, reference, strength, strength_at, normalization)
            return buffers
    if m and not normalization and k.device.type == "cpu":
        share = strength if strength_at is None else float(strength_at)
        edit = cpu.edit_packed(k, m, order, alpha, reference, share)
        if edit is not None:
            return edit.out, edit.where, *_like(k, 0, "")[2:]
    return rows_forward(k, m, alpha, order, reference, strength, strength_at, normalization)


def _like(k: Tensor, m: int, normalization: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows = k.shape[0]
    wide = statistics_dtype(k.dtype)
    asked = rows if normalization else 0
    return (
        k.new_empty(k.shape if m else (0,)),
        entries_like(k, m),
        k.new_empty(asked, dtype=wide),
        k.new_empty((asked, 2), dtype=wide),
    )


@steer_rows.register_fake
def _(
    k: Tensor,
    m: int,
    alpha: float,
    order: str,
    reference: str,
    strength: float,
    strength_at: Tensor | None,
    detach_reference: bool,
    normalization: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _like(k, m, normalization)


@torch.library.custom_op(
    "infosteer::steer_rows_backward",
    mutates_args=(),
    schema="(Tensor? grad, Tensor y, Tensor entries, Tensor? moments, Tensor? factor, float alpha, str reference, "
    "float strength, Tensor? strength_at, bool detach_reference, str normalization) -> Tensor",
)
def steer_rows_backward(
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
    """The gradient (R, M) for k.

    Args:
        grad: (R, M) gradient of the edited rows, None for zero.
        y: (R, M) the edited rows; their values are read where there is a factor, or where signs are needed.
        entries: (R, m) as ``steer_rows`` packed them.
        moments: (R, 2) from ``steer_rows``, None to take them again from y.
        factor: (R,) gradient of the entropy, None for zero.
        alpha, reference, strength, strength_at, detach_reference, normalization: as in ``steer_rows``.
    """
    if kernels_take(y):
        from infosteer.ops.kernels import rows as kernels
        from infosteer.ops.trials import backward_agrees

        settings = (alpha, reference, strength, strength_at, detach_reference, normalization)
        if backward_agrees(y, entries.shape[1], grad is not None, moments is not None, factor is not None, *settings):
            result = torch.empty(y.shape, dtype=y.dtype, device=y.device)
            kernels.rows_backward(grad, y, entries, moments, factor, result, *settings)
            return result
    easy = factor is None or (moments is None and normalization == "magnitude")
    if easy and grad is not None and y.device.type == "cpu":
        spread = None if detach_reference else alpha / y.shape[1]
        share = strength if strength_at is None else float(strength_at)
        found = cpu.packed_gradient(grad, y, entries, factor, spread, share, reference == "magnitude_mean")
        if found is not None:
            return found
    return rows_backward(
        grad, y, entries, moments, factor, alpha, reference, strength, strength_at, detach_reference, normalization
    )


@steer_rows_backward.register_fake
def _(
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
    return torch.empty(y.shape, dtype=y.dtype, device=y.device)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    k, m, alpha, _, reference, strength, strength_at, detach_reference, normalization = inputs
    out, entries, _, moments = output
    ctx.set_materialize_grads(False)
    ctx.settings = (alpha, reference, strength)
    ctx.flags = (detach_reference, normalization)
    ctx.asked = (m > 0, bool(normalization))
    reads_y = bool(normalization) or (not detach_reference and reference == "magnitude_mean")
    y = (out if m else k) if reads_y else None
    ctx.save_for_backward(y, entries, moments if normalization else None, strength_at)


def _backward(ctx: Any, grad: Tensor | None, _entries: None, factor: Tensor | None, _moments: None) -> tuple[Any, ...]:
    y, entries, moments, strength_at = ctx.saved_tensors
    grad = grad if ctx.asked[0] else None  # outputs that were not asked for are empty
    factor = factor if ctx.asked[1] else None
    result = None
    if grad is not None or factor is not None:
        y = grad if y is None else y
        result = steer_rows_backward(grad, y, entries, moments, factor, *ctx.settings, strength_at, *ctx.flags)
    return (result, *(None,) * 8)


steer_rows.register_autograd(_backward, setup_context=_setup_context)
