"""The intervention: overwrite the smallest key coefficients of every row by a multiple of the row's mean.

Formula, per row ``k`` in R^M with ``I`` the m smallest entries:

    t_i   = alpha * mean_j |k_j| * s_i      reference "magnitude_mean", s_i = -1 if k_i < 0 else +1
    t_i   = alpha * mean_j k_j              reference "mean"
    k'_i  = k_i + strength * (t_i - k_i)    for i in I, k'_j = k_j elsewhere

Gradient, with ``c = strength * alpha / M * sum_{i in I} s_i dk'_i`` (``s_i = 1`` and ``sgn = 1`` for "mean"):

    dk_j = dk'_j + c sgn(k_j)                        j not in I
    dk_i = (1 - strength) dk'_i + c sgn(k_i)         i in I, sgn(0) = 0

and ``c = 0`` when the reference is detached. Outside I the sign of k is that of k', so the backward pass needs the
output (which the down projection keeps anyway), m indices and m signs, and never k.

Source: arXiv 2507.05158, section 4.1 ("mean" with order "signed"); magnitude variants are ours, see the design notes.
Shape letters: R rows, M memories, m overwritten entries.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from infosteer.errors import ConfigError
from infosteer.ops import cpu
from infosteer.ops.backends import kernels_take
from infosteer.ops.chunks import eager_on_cpu
from infosteer.ops.rows import Edit, gradient_rows, mean_of, targets
from infosteer.ops.select import (
    ORDERS,
    check_choice,
    check_floating,
    count_smallest,
    smallest,
)
from infosteer.ops.steered import lift

REFERENCES = ("magnitude_mean", "mean")


def intervene(
    k: Tensor,
    fraction: float = 0.01,
    alpha: float = 1.0,
    order: str = "magnitude",
    reference: str = "magnitude_mean",
    detach_reference: bool = False,
    strength: float | Tensor = 1.0,
) -> Tensor:
    """Overwrite the smallest key coefficients of every row by ``alpha`` times the row's mean.

    ``k'_i = k_i + strength * (alpha * ref(k) * s_i - k_i)`` for the m smallest entries, ``k'_j = k_j`` elsewhere; the
    mean is ``torch.mean`` in float32 (float64 stays) and the target is cast back to k's dtype. With strength 1 it is
    exactly the overwrite; with strength 0 or fraction 0, ``k`` itself is returned. ``k`` is never written to.

    Args:
        k: (..., M) key coefficients, float32, bfloat16, float16 or float64.
        fraction: share of entries, m = max(1, round(fraction * M)), 0 when fraction is 0.
        alpha: multiple of the mean that is written.
        order: ``"magnitude"`` overwrites the smallest ``|k|``, ``"signed"`` the smallest ``k``; ties by index.
        reference: ``"magnitude_mean"`` writes the mean of ``|k|`` with the sign of the entry (+ for 0), ``"mean"`` the
            mean of ``k``.
        detach_reference: treat the mean as a constant in the backward pass.
        strength: share of the way from k to the overwritten row; a number or a 0-dim tensor without gradient. A tensor
            on an accelerator, or under a compiler, is never read on the host: strength 0 then gives an equal copy.

    Returns:
        (..., M) of k's dtype. Differentiable once; saves its own output, and a row's m int32 indices and m int8
        signs, or on a CPU one byte an entry where more than a thirty-second is overwritten.

    Raises:
        ConfigError: a setting out of range, an unknown choice, or ``k`` not floating.

    Source: arXiv 2507.05158, section 4.1; order "signed" with reference "mean" is its formula.
    """
    check_choice("order", order, ORDERS)
    check_choice("reference", reference, REFERENCES)
    check_floating("k", k)
    check_finite("alpha", alpha)
    m = count_smallest(fraction, k.shape[-1])
    factor = read_strength(strength)
    if m == 0 or (not isinstance(factor, Tensor) and factor == 0.0):
        return k
    if kernels_take(k) or torch.compiler.is_compiling():  # one node in a compiled graph, on every device
        return lift(k, m, float(alpha), order, reference, bool(detach_reference), factor)[0]
    out: Tensor = _Intervene.apply(k, m, float(alpha), order, reference, bool(detach_reference), factor)
    return out


def overwrite(
    k: Tensor,
    index: Tensor,
    alpha: float = 1.0,
    reference: str = "magnitude_mean",
    detach_reference: bool = False,
    strength: float | Tensor = 1.0,
) -> Tensor:
    """Overwrite chosen key coefficients of every row by ``alpha`` times the row's mean: ``intervene`` with I given.

    Args:
        k: (..., M) key coefficients, float32, bfloat16, float16 or float64.
        index: (..., m) int64, the entries of each row, none of them twice.
        alpha: as in ``intervene``, like all that follow.

    Returns:
        (..., M) of k's dtype; ``k`` itself with strength 0 or m = 0. Differentiable once in k.

    Raises:
        ConfigError: a setting out of range, ``k`` not floating, or an index that does not fit its rows.
    """
    check_choice("reference", reference, REFERENCES)
    check_floating("k", k)
    check_finite("alpha", alpha)
    if index.dtype != torch.int64 or index.shape[:-1] != k.shape[:-1] or index.shape[-1] > k.shape[-1]:
        raise ConfigError(
            "The index does not fit the rows of k.",
            where="index",
            got=f"{index.dtype} with shape {tuple(index.shape)}",
            expected=f"int64 with shape {(*k.shape[:-1], 'm')}, m <= {k.shape[-1]}",
        )
    m = index.shape[-1]
    factor = read_strength(strength)
    if m == 0 or (not isinstance(factor, Tensor) and factor == 0.0):
        return k
    chosen = index.reshape(-1, m)
    out: Tensor = _Intervene.apply(k, m, float(alpha), chosen, reference, bool(detach_reference), factor)
    return out


def check_finite(name: str, value: object) -> None:
    """Raise ``ConfigError`` unless ``value`` is a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"{name} is not a finite number.", where=name, got=repr(value), expected="a finite number")


def read_strength(strength: float | Tensor) -> float | Tensor:
    """``strength`` as a number, or as the tensor it is where reading it would wait for an accelerator.

    Raises:
        ConfigError: not finite, or no plain scalar.
    """
    if not isinstance(strength, Tensor):
        check_finite("strength", strength)
        return float(strength)
    if strength.dim() != 0 or strength.requires_grad:
        raise ConfigError(
            "strength is not a plain scalar.",
            where="strength",
            got=f"tensor of shape {tuple(strength.shape)}, requires_grad={strength.requires_grad}",
            expected="a number or a 0-dim tensor without gradient",
        )
    if torch.compiler.is_compiling() or strength.device.type != "cpu":
        return strength
    return float(strength)


class _Intervene(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        k: Tensor,
        m: int,
        alpha: float,
        choice: str | Tensor,  # the order that says which entries, or their indices (R, m)
        reference: str,
        detach_reference: bool,
        strength: float | Tensor,
    ) -> Tensor:
        rows = k.reshape(-1, k.shape[-1])
        ctx.cpu = eager_on_cpu(k)
        if ctx.cpu:
            edit = cpu.edit_rows(rows, m, choice, alpha, reference, float(strength))
        else:
            index = smallest(rows, m, choice) if isinstance(choice, str) else choice
            edited, signs = targets(rows, index, mean_of(rows, reference), alpha, reference, strength)
            edit = Edit(rows.scatter(1, index, edited), index.to(torch.int32), signs)
        out = edit.out.view(k.shape)
        ctx.settings = (alpha, detach_reference)
        ctx.strength = None if isinstance(strength, Tensor) else strength
        # Without a mean of magnitudes the backward pass needs no more than the places.
        ctx.signed = not detach_reference and reference == "magnitude_mean"
        ctx.odd = edit.odd
        ctx.save_for_backward(
            edit.where,
            edit.signs,
            out if ctx.signed else None,
            strength if isinstance(strength, Tensor) else None,
        )
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        alpha, detach_reference = ctx.settings
        where, signs, out, strength = ctx.saved_tensors
        strength = strength if ctx.strength is None else ctx.strength
        width = grad.shape[-1]
        rows = grad.reshape(-1, width)
        spread = None if detach_reference else alpha / width
        out = rows if out is None else out.reshape(-1, width)
        if ctx.cpu:
            result = cpu.edit_gradient(rows, Edit(out, where, signs, ctx.odd), spread, strength, ctx.signed)
        elif ctx.signed:
            result = gradient_rows(rows, where.long(), out, signs, spread, strength)
        else:
            result = gradient_rows(rows, where.long(), None, None, spread, strength)
        return result.view(grad.shape), *((None,) * 6)
