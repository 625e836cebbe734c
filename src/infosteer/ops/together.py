"""Both ways of steering at once: the edit in the forward pass, and in the backward pass edit and penalty in one pass.

Shape letters: R rows, M memories.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from infosteer.ops import cpu
from infosteer.ops.backends import kernels_take
from infosteer.ops.chunks import eager_on_cpu
from infosteer.ops.entropy import NORMALIZATIONS, entropy_gradient_rows, key_entropy
from infosteer.ops.inject import check_injection, inject, row_factors
from infosteer.ops.intervene import REFERENCES, check_finite, intervene, read_strength
from infosteer.ops.rows import Edit
from infosteer.ops.select import ORDERS, check_choice, check_floating, count_smallest
from infosteer.ops.steered import lift, split_strength, steer_rows, steer_rows_backward


def intervene_with_entropy(
    k: Tensor,
    fraction: float = 0.01,
    alpha: float = 1.0,
    order: str = "magnitude",
    reference: str = "magnitude_mean",
    detach_reference: bool = False,
    strength: float | Tensor = 1.0,
    normalization: str = "magnitude",
) -> tuple[Tensor, Tensor]:
    """``k' = intervene(k, ...)`` and ``key_entropy(k', normalization)``, in one pass each way where kernels run.

    Args and errors as ``intervene`` and ``key_entropy``.

    Returns:
        (..., M) of k's dtype and (...) float32 (float64 for float64), both differentiable once.
    """
    m, factor = _read(k, fraction, alpha, order, reference, strength, normalization)
    if kernels_take(k):
        edited, entropy = lift(k, m, float(alpha), order, reference, bool(detach_reference), factor, normalization)
        return (edited if m else k), entropy
    edited = intervene(k, fraction, alpha, order, reference, detach_reference, strength)
    return edited, key_entropy(edited, normalization)


def intervene_and_inject(
    k: Tensor,
    row_weight: Tensor | None,
    scale: Tensor,
    fraction: float = 0.01,
    alpha: float = 1.0,
    order: str = "magnitude",
    reference: str = "magnitude_mean",
    detach_reference: bool = False,
    strength: float | Tensor = 1.0,
    normalization: str = "magnitude",
) -> Tensor:
    """``intervene(k, ...)``, whose backward pass adds ``scale * row_weight * dH/dk'`` as ``inject`` does.

    Args and errors as ``intervene`` and ``inject``, which says how ``row_weight`` and ``scale`` are held.

    Returns:
        (..., M) of k's dtype. Differentiable once.
    """
    m, factor = _read(k, fraction, alpha, order, reference, strength, normalization)
    check_injection(k, row_weight, scale)
    settings = (m, float(alpha), order, reference, bool(detach_reference), factor, normalization)
    if m and kernels_take(k):
        out: Tensor = _InterveneAndInject.apply(k, row_weight, scale, *settings)
        return out
    if m and eager_on_cpu(k):
        joint: Tensor = _OnCpu.apply(k, row_weight, scale, *settings)
        return joint

    def slope(rows: Tensor) -> Tensor:
        return entropy_gradient_rows(rows, normalization)

    return inject(intervene(k, fraction, alpha, order, reference, detach_reference, strength), row_weight, scale, slope)


def _read(
    k: Tensor, fraction: float, alpha: float, order: str, reference: str, strength: float | Tensor, normalization: str
) -> tuple[int, float | Tensor]:
    """Checks the settings; how many entries are overwritten, and how far."""
    check_choice("order", order, ORDERS)
    check_choice("reference", reference, REFERENCES)
    check_choice("normalization", normalization, NORMALIZATIONS)
    check_floating("k", k)
    check_finite("alpha", alpha)
    m = count_smallest(fraction, k.shape[-1])
    factor = read_strength(strength)
    return (m if isinstance(factor, Tensor) or factor != 0.0 else 0), factor


class _InterveneAndInject(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        k: Tensor,
        row_weight: Tensor | None,
        scale: Tensor,
        m: int,
        alpha: float,
        order: str,
        reference: str,
        detach_reference: bool,
        strength: float | Tensor,
        normalization: str,
    ) -> Tensor:
        number, at = split_strength(strength, k)
        rows = k.reshape(-1, k.shape[-1])
        out, entries, _, _ = steer_rows(rows, m, alpha, order, reference, number, at, detach_reference, "")
        out = out.view(k.shape)
        ctx.row_weight, ctx.scale = row_weight, scale
        ctx.settings = (alpha, reference, number)
        ctx.flags = (detach_reference, normalization)
        ctx.save_for_backward(out, entries, at)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        out, entries, at = ctx.saved_tensors
        width = out.shape[-1]
        y = out.reshape(-1, width)
        factor = row_factors(ctx.scale, ctx.row_weight, y, grad)
        result = steer_rows_backward(grad.reshape(-1, width), y, entries, None, factor, *ctx.settings, at, *ctx.flags)
        return result.view(grad.shape), *((None,) * 9)


class _OnCpu(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        k: Tensor,
        row_weight: Tensor | None,
        scale: Tensor,
        m: int,
        alpha: float,
        order: str,
        reference: str,
        detach_reference: bool,
        strength: float,
        normalization: str,
    ) -> Tensor:
        edit = cpu.edit_rows(k.reshape(-1, k.shape[-1]), m, order, alpha, reference, strength)
        out = edit.out.view(k.shape)
        ctx.row_weight, ctx.scale, ctx.normalization = row_weight, scale, normalization
        ctx.spread = None if detach_reference else alpha / k.shape[-1]
        ctx.strength, ctx.odd = strength, edit.odd
        ctx.signed = not detach_reference and reference == "magnitude_mean"
        ctx.save_for_backward(out, edit.where, edit.signs)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        out, where, signs = ctx.saved_tensors
        rows, grads = out.reshape(-1, out.shape[-1]), grad.reshape(-1, out.shape[-1])
        edit = Edit(rows, where, signs, ctx.odd)
        settings = (ctx.spread, ctx.strength, ctx.signed)
        factors = row_factors(ctx.scale, ctx.row_weight, rows, grad)
        result = cpu.joint_gradient(grads, edit, factors, *settings) if ctx.normalization == "magnitude" else None
        if result is None:

            def slope(some: Tensor) -> Tensor:
                return entropy_gradient_rows(some, ctx.normalization)

            result = cpu.edit_gradient(cpu.add_gradient(rows, grads, factors, slope), edit, *settings)
        return result.view(grad.shape), *((None,) * 9)
