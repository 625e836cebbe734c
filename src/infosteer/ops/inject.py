"""Penalties whose gradient is added in the backward pass, so that the trainer's loss code stays as it is.

``inject`` is the identity on the key coefficients; its backward pass adds the gradient of

    scale * sum_rows row_weight[row] * r(k[row])

to the gradient that comes from the layers above, for a function r of a row. ``scale`` is a 0-dim tensor that is read in
the backward pass: a hook on the loss runs before everything else there and writes into it the number by which the loss
was really multiplied (micro-batches, world size, an fp16 scaler), times the penalty's own coefficient.

Why it is right under activation checkpointing: the gradient depends on nothing but ``k``, which is saved in the usual
way and hence recomputed where the trainer recomputes. ``row_weight`` and ``scale`` are held by reference, not saved: a
non-reentrant recompute replaces saved tensors only, so those of the original call stay in force, and a write into
``scale`` between forward and backward is the purpose and no version conflict.

Shape letters: R rows, M memories.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from infosteer.errors import ConfigError
from infosteer.ops import cpu
from infosteer.ops.backends import kernels_take
from infosteer.ops.chunks import eager_on_cpu
from infosteer.ops.once import differentiable_once
from infosteer.ops.rows import statistics_dtype
from infosteer.ops.select import check_floating

GradRows = Callable[[Tensor], Tensor]
AddRows = Callable[[Tensor, Tensor, Tensor], Tensor | None]


def inject(
    k: Tensor, row_weight: Tensor | None, scale: Tensor, grad_rows: GradRows, add_rows: AddRows | None = None
) -> Tensor:
    """Identity on ``k`` whose backward pass adds ``scale * row_weight[row] * dr/dk``.

    Args:
        k: (..., M) key coefficients.
        row_weight: floating, one number a row of ``k`` in any shape of R entries (rows with weight 0 are left alone),
            or None for all ones.
        scale: 0-dim floating tensor, read in the backward pass.
        grad_rows: pure function from rows (R, M) of k's dtype to a new tensor (R, M) ``dr/dk`` in float32 (float64 for
            float64). Called in the backward pass, perhaps on chunks of rows; every row must be treated on its own.
        add_rows: the same in one pass, for back ends that have one: from rows (R, M), a gradient (R, M) and factors
            (R,), a new tensor ``gradient + factor * dr/dk`` of the gradient's dtype, rows of factor 0 left alone; None
            where there is no such pass for these rows.

    Returns:
        A view of ``k``. Differentiable once; saves ``k`` only.

    Raises:
        ConfigError: wrong number of row weights, or ``scale`` not a floating 0-dim tensor.
    """
    check_injection(k, row_weight, scale)
    out: Tensor = _Inject.apply(k, row_weight, scale, grad_rows, add_rows)
    return out


def inject_value(k: Tensor, value: Tensor, row_weight: Tensor | None, scale: Tensor) -> Tensor:
    """Identity on ``k`` whose backward pass gives ``value`` the gradient ``scale * row_weight``.

    The same penalty as with ``inject``, for a value of the rows of k that is at hand with its graph.

    Args:
        k: (..., M) key coefficients.
        value: (...) one number a row.
        row_weight: as in ``inject``.
        scale: as in ``inject``, read in the backward pass.

    Returns:
        A view of ``k``.

    Raises:
        ConfigError: as ``inject``.
    """
    check_floating("k", k)
    check_injection(k, row_weight, scale)
    out: Tensor = _InjectValue.apply(k, value, row_weight, scale)
    return out


def check_injection(k: Tensor, row_weight: Tensor | None, scale: Tensor) -> None:
    """Raise ``ConfigError`` unless row weights and scale fit the coefficients k."""
    check_floating("k", k)
    rows = k.numel() // max(1, k.shape[-1])
    if row_weight is not None and (row_weight.numel() != rows or not row_weight.is_floating_point()):
        raise ConfigError(
            "The row weights do not match the rows of k.",
            where="row_weight",
            got=f"{row_weight.dtype} with shape {tuple(row_weight.shape)}",
            expected=f"a floating tensor of {rows} entries",
        )
    if scale.dim() != 0 or not scale.is_floating_point():
        raise ConfigError(
            "The scale is not a scalar tensor.",
            where="scale",
            got=f"{scale.dtype} with shape {tuple(scale.shape)}",
            expected="a floating tensor of shape ()",
        )


@torch.library.custom_op("infosteer::read_scale", mutates_args=())
def _read_scale(scale: Tensor, grad: Tensor) -> Tensor:
    """A copy of ``scale`` that no compiler can take before ``grad`` exists, that is, before the backward pass."""
    return scale.clone()


@_read_scale.register_fake
def _(scale: Tensor, grad: Tensor) -> Tensor:
    return torch.empty_like(scale)


class _Inject(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        k: Tensor,
        row_weight: Tensor | None,
        scale: Tensor,
        grad_rows: GradRows,
        add_rows: AddRows | None,
    ) -> Tensor:
        ctx.save_for_backward(k)
        ctx.row_weight, ctx.scale, ctx.grad_rows, ctx.add_rows = row_weight, scale, grad_rows, add_rows
        return k.view_as(k)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        (k,) = ctx.saved_tensors
        width = k.shape[-1]
        k_rows, grad_rows = k.reshape(-1, width), grad.reshape(-1, width)
        on_cpu = eager_on_cpu(k)
        by_node = ctx.add_rows is not None and (kernels_take(k) or torch.compiler.is_compiling())
        if on_cpu or by_node:
            factors = row_factors(ctx.scale, ctx.row_weight, k_rows, grad)
            added = None if ctx.add_rows is None else ctx.add_rows(k_rows, grad_rows, factors)
            if added is None and on_cpu:
                added = cpu.add_gradient(k_rows, grad_rows, factors, ctx.grad_rows)
            if added is not None:
                return added.view(grad.shape), None, None, None, None
        scale = _read_scale(ctx.scale, grad)
        slope = ctx.grad_rows(k_rows)
        factor = scale.to(slope.dtype)
        if ctx.row_weight is not None:
            factor = factor * ctx.row_weight.reshape(-1, 1).to(slope.dtype)
        total = torch.addcmul(grad_rows.to(slope.dtype), slope, factor).to(grad.dtype)
        total = torch.where(factor == 0, grad_rows, total)  # left alone even where the slope is not finite
        return total.view(grad.shape), None, None, None, None


class _InjectValue(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, k: Tensor, value: Tensor, row_weight: Tensor | None, scale: Tensor) -> Tensor:
        ctx.row_weight, ctx.scale, ctx.like = row_weight, scale, (value.shape, value.dtype)
        return k.view_as(k)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        shape, dtype = ctx.like
        factor = row_factors(ctx.scale, ctx.row_weight, grad.reshape(-1, grad.shape[-1]), grad)
        return grad, factor.view(shape).to(dtype), None, None


def row_factors(scale: Tensor, row_weight: Tensor | None, k: Tensor, grad: Tensor) -> Tensor:
    """``scale * row_weight`` (R,) of rows k (R, M) in float32 (float64 stays), not read before ``grad`` exists."""
    wide = statistics_dtype(k.dtype)
    now = _read_scale(scale, grad).to(wide)
    return now.expand(k.shape[0]).contiguous() if row_weight is None else now * row_weight.reshape(-1).to(wide)
