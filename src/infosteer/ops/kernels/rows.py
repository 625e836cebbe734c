# mypy: allow-untyped-defs, allow-incomplete-defs
"""Triton kernels for rows of coefficients: overwrite the smallest, take the entropy, or both, in one pass each way.

Legend: R rows, M memories, m overwritten entries.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from infosteer.ops.kernels import device
from infosteer.ops.kernels.launch import NORMS, launch_options, on_device, rows_of


@triton.jit
def rows_forward_kernel(
    k_ptr, k_stride, strength_ptr, out_ptr, entries_ptr, entropy_ptr, moments_ptr, M, m, alpha, strength,
    LIFT: tl.constexpr, SIGNED: tl.constexpr, MAGNITUDE_MEAN: tl.constexpr, FULL: tl.constexpr,
    FROM_TENSOR: tl.constexpr, NORM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One row: reads it once, writes the edited row, the entries that were overwritten, and the entropy of the edited
    row with its two moments."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < M
    y = tl.load(k_ptr + row * k_stride + column, mask=inside, other=0.0)
    if LIFT:
        keys = device.ordered_keys(y, inside, SIGNED)
        t = device.threshold_of(keys, m, y.dtype != tl.float32, SIGNED)
        below = (keys < t).to(tl.int32)
        equal = (keys == t).to(tl.int32)
        lower = tl.sum(below, axis=0)
        # Two running counts in one scan: rows have fewer than 2^16 entries.
        counts = tl.cumsum(below * 65536 + equal, axis=0)
        among_equal = counts & 65535
        chosen = (below + equal * (among_equal <= m - lower).to(tl.int32)) != 0
        place = tl.where(below != 0, (counts >> 16) - 1, lower + among_equal - 1)
        if FROM_TENSOR:
            strength = device.widen(tl.load(strength_ptr))
        target = alpha * device.mean_of(y, M, MAGNITUDE_MEAN)
        sign = device.sign_of(device.widen(y)).to(tl.int32)
        tl.store(entries_ptr + row * m + place, (column * 4 + sign + 1).to(entries_ptr.dtype.element_ty), mask=chosen)
        y = tl.where(chosen, device.overwritten(y, target, strength, MAGNITUDE_MEAN, FULL, FROM_TENSOR), y)
        tl.store(out_ptr + row * M + column, y, mask=inside)
    if NORM:
        x, log = device.logs_of(y, device.scale_of(y, inside, NORM), NORM)
        total, center = device.moments_of(x, log, inside, NORM)
        tl.store(entropy_ptr + row, tl.log(total) - center)
        tl.store(moments_ptr + row * 2, total)
        tl.store(moments_ptr + row * 2 + 1, center)


@triton.jit
def rows_backward_kernel(
    grad_ptr, grad_stride, y_ptr, y_stride, entries_ptr, moments_ptr, factor_ptr, strength_ptr, result_ptr, M, m,
    spread, keep,
    HAS_GRAD: tl.constexpr, LIFT: tl.constexpr, SPREAD: tl.constexpr, SIGNS: tl.constexpr, FULL: tl.constexpr,
    FROM_TENSOR: tl.constexpr, NORM: tl.constexpr, HAS_MOMENTS: tl.constexpr, BLOCK: tl.constexpr,
    ENTRIES: tl.constexpr,
):  # fmt: skip
    """One row: ``dk`` from ``dy`` and a multiple ``factor`` of the entropy's gradient; y is the edited row."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < M
    if HAS_GRAD:
        grad = device.widen(tl.load(grad_ptr + row * grad_stride + column, mask=inside, other=0.0))
    else:
        grad = tl.zeros([BLOCK], dtype=tl.float32)
    if NORM or SIGNS:
        y = tl.load(y_ptr + row * y_stride + column, mask=inside, other=0.0)
    if NORM:
        factor = tl.load(factor_ptr + row)
        scale = device.scale_of(y, inside, NORM)
        x, log = device.logs_of(y, scale, NORM)
        if HAS_MOMENTS:
            total = tl.load(moments_ptr + row * 2)
            center = tl.load(moments_ptr + row * 2 + 1)
        else:
            total, center = device.moments_of(x, log, inside, NORM)
        added = grad + factor * device.slope_of(x, log, scale, total, center, NORM)
        grad = tl.where(factor == 0, grad, added)  # left alone even where the slope is not finite
    if LIFT:
        slot = tl.arange(0, ENTRIES)
        used = slot < m
        entry = tl.load(entries_ptr + row * m + slot, mask=used, other=1).to(tl.int32)
        if entries_ptr.dtype.element_ty == tl.int16:
            entry = entry & 65535
        index = entry >> 2
        sign = ((entry & 3) - 1).to(tl.float32)
        if HAS_GRAD:
            at = device.widen(tl.load(grad_ptr + row * grad_stride + index, mask=used, other=0.0))
        else:
            at = tl.zeros([ENTRIES], dtype=tl.float32)
        if NORM:
            here, here_log = device.logs_of(tl.load(y_ptr + row * y_stride + index, mask=used, other=0.0), scale, NORM)
            added_at = at + factor * device.slope_of(here, here_log, scale, total, center, NORM)
            at = tl.where(factor == 0, at, tl.where(used, added_at, 0.0))
        if FROM_TENSOR:
            strength = device.widen(tl.load(strength_ptr))
            keep = 1 - strength
            spread = spread * strength
        written = tl.zeros([ENTRIES], dtype=tl.float32) if FULL else keep * at
        if SPREAD:
            if SIGNS:
                share = tl.sum(tl.where(sign < 0, -at, at), axis=0) * spread
                written += sign * share
                grad += device.sign_of(device.widen(y)) * share
            else:
                share = tl.sum(at, axis=0) * spread
                written += share
                grad += share
    kind = result_ptr.dtype.element_ty
    tl.store(result_ptr + row * M + column, device.narrow(grad, kind), mask=inside)
    if LIFT:
        tl.debug_barrier()  # the chosen entries are written over what other threads have just written
        tl.store(result_ptr + row * M + index, device.narrow(written, kind), mask=used)


def rows_forward(
    k: Tensor, buffers: tuple[Tensor, ...], alpha: float, order: str, reference: str, strength: float,
    strength_at: Tensor | None, normalization: str,
) -> None:  # fmt: skip
    """Fills the buffers ``out`` (R, M) and ``entries`` (R, m) where m > 0, ``entropy`` (R,) and ``moments`` (R, 2)
    where there is a normalization, from rows k (R, M); settings as in :func:`infosteer.ops.steered.steer_rows`."""
    out, entries, entropy, moments = buffers
    rows, width = k.shape
    if rows == 0:
        return
    k = rows_of(k)
    with on_device(k):
        rows_forward_kernel[(rows,)](
            k, k.stride(0), k if strength_at is None else strength_at, out, entries, entropy, moments, width,
            entries.shape[1], alpha, strength,
            LIFT=entries.shape[1] > 0, SIGNED=order == "signed", MAGNITUDE_MEAN=reference == "magnitude_mean",
            FULL=strength_at is None and strength == 1.0, FROM_TENSOR=strength_at is not None,
            NORM=NORMS[normalization], **launch_options(width),
        )  # fmt: skip


def rows_backward(
    grad: Tensor | None, y: Tensor, entries: Tensor, moments: Tensor | None, factor: Tensor | None, result: Tensor,
    alpha: float, reference: str, strength: float, strength_at: Tensor | None, detach_reference: bool,
    normalization: str,
) -> None:  # fmt: skip
    """Fills ``result`` (R, M), the gradient for k; arguments as in
    :func:`infosteer.ops.steered.steer_rows_backward`."""
    rows, width = result.shape
    if rows == 0:
        return
    y = rows_of(y)
    grad = grad if grad is None else rows_of(grad)
    factor = factor if factor is None else factor.contiguous()  # that of a sum is one number, expanded
    m = entries.shape[1]
    spread = alpha / width
    with on_device(result):
        rows_backward_kernel[(rows,)](
            y if grad is None else grad, 0 if grad is None else grad.stride(0), y, y.stride(0), entries,
            y if moments is None else moments, y if factor is None else factor,
            y if strength_at is None else strength_at, result, width, m,
            spread if strength_at is not None else spread * strength, 1 - strength,
            HAS_GRAD=grad is not None, LIFT=m > 0, SPREAD=not detach_reference,
            SIGNS=m > 0 and not detach_reference and reference == "magnitude_mean",
            FULL=strength_at is None and strength == 1.0, FROM_TENSOR=strength_at is not None,
            NORM=NORMS[normalization] if factor is not None else 0, HAS_MOMENTS=moments is not None,
            ENTRIES=triton.next_power_of_2(max(1, m)), **launch_options(width),
        )  # fmt: skip
