# mypy: allow-untyped-defs, allow-incomplete-defs
"""Triton kernels for the gated activation with the edit and the entropy inside it, one pass each way.

Coefficients ``k = act(gate) * up`` are rounded as the plain graph rounds them. Nothing of width M is kept for the
backward pass but gate and up; the overwritten entries are found again from a threshold and a count a row.

Legend: R rows, M memories, m overwritten entries.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from infosteer.ops.kernels import device
from infosteer.ops.kernels.launch import ACTIVATIONS, NORMS, launch_options, on_device, piece_options, rows_of


@triton.jit
def gated_forward_kernel(
    gate_ptr, gate_stride, up_ptr, up_stride, strength_ptr, out_ptr, places_ptr, mean_ptr, entropy_ptr, moments_ptr,
    M, m, alpha, strength,
    ACTIVATION: tl.constexpr, LIFT: tl.constexpr, SIGNED: tl.constexpr, MAGNITUDE_MEAN: tl.constexpr,
    FULL: tl.constexpr, FROM_TENSOR: tl.constexpr, NORM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One row: reads gate and up, writes the edited coefficients, and a few numbers for the way back."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < M
    gate = tl.load(gate_ptr + row * gate_stride + column, mask=inside, other=0.0)
    up = tl.load(up_ptr + row * up_stride + column, mask=inside, other=0.0)
    active, _ = device.activation_of(device.widen(gate), ACTIVATION)
    y = device.narrow(device.rounded(active, gate.dtype) * device.widen(up), gate.dtype)
    if LIFT:
        keys = device.ordered_keys(y, inside, SIGNED)
        t = device.threshold_of(keys, m, y.dtype != tl.float32, SIGNED)
        ties = m - tl.sum((keys < t).to(tl.int32), axis=0)
        mean = device.mean_of(y, M, MAGNITUDE_MEAN)
        tl.store(places_ptr + row * 2, t)
        tl.store(places_ptr + row * 2 + 1, ties)
        tl.store(mean_ptr + row, mean)
        if FROM_TENSOR:
            strength = device.widen(tl.load(strength_ptr))
        written = device.overwritten(y, alpha * mean, strength, MAGNITUDE_MEAN, FULL, FROM_TENSOR)
        chosen, _ = device.chosen_by(keys, t, ties, 0)
        y = tl.where(chosen, written, y)
    tl.store(out_ptr + row * M + column, y, mask=inside)
    if NORM:
        x, log = device.logs_of(y, device.scale_of(y, inside, NORM), NORM)
        total, center = device.moments_of(x, log, inside, NORM)
        tl.store(entropy_ptr + row, tl.log(total) - center)
        tl.store(moments_ptr + row * 2, total)
        tl.store(moments_ptr + row * 2 + 1, center)


@triton.jit
def _piece(
    gate_row, up_row, start, M, t, ties, seen, target, strength,
    ACTIVATION: tl.constexpr, LIFT: tl.constexpr, SIGNED: tl.constexpr, MAGNITUDE_MEAN: tl.constexpr,
    FULL: tl.constexpr, FROM_TENSOR: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """A piece of a row again: up, act(gate) and its slope, k, its edited form y, which entries were chosen, and how
    many at the threshold lie in this piece and before it."""
    column = start + tl.arange(0, CHUNK)
    inside = column < M
    gate = tl.load(gate_row + column, mask=inside, other=0.0)
    up = device.widen(tl.load(up_row + column, mask=inside, other=0.0))
    active, slope = device.activation_of(device.widen(gate), ACTIVATION)
    active = device.rounded(active, gate.dtype)
    k = device.narrow(active * up, gate.dtype)
    y = k
    chosen = column < 0
    if LIFT:
        chosen, seen = device.chosen_by(device.ordered_keys(k, inside, SIGNED), t, ties, seen)
        y = tl.where(chosen, device.overwritten(k, target, strength, MAGNITUDE_MEAN, FULL, FROM_TENSOR), k)
    return up, active, slope, k, y, chosen, seen


@triton.jit
def _gradient(
    grad_row, start, M, y, factor, scale, total, center, HAS_GRAD: tl.constexpr, NORM: tl.constexpr,
    CHUNK: tl.constexpr,
):  # fmt: skip
    """The gradient of a piece of the edited row, with the entropy's part."""
    column = start + tl.arange(0, CHUNK)
    if HAS_GRAD:
        grad = device.widen(tl.load(grad_row + column, mask=column < M, other=0.0))
    else:
        grad = tl.zeros([CHUNK], dtype=tl.float32)
    if NORM:
        x, log = device.logs_of(y, scale, NORM)
        added = grad + factor * device.slope_of(x, log, scale, total, center, NORM)
        grad = tl.where(factor == 0, grad, added)  # left alone even where the slope is not finite
    return grad


@triton.jit
def gated_backward_kernel(
    grad_ptr, grad_stride, gate_ptr, gate_stride, up_ptr, up_stride, places_ptr, mean_ptr, moments_ptr, factor_ptr,
    strength_ptr, gate_grad_ptr, up_grad_ptr, M, alpha, strength, spread, keep,
    ACTIVATION: tl.constexpr, HAS_GRAD: tl.constexpr, LIFT: tl.constexpr, SIGNED: tl.constexpr,
    MAGNITUDE_MEAN: tl.constexpr, SPREAD: tl.constexpr, FULL: tl.constexpr, FROM_TENSOR: tl.constexpr,
    NORM: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """One row: reads gate, up and the gradient of the edited coefficients, writes the gradients of gate and up.

    The threshold is known, so that nothing needs the whole row at once: pieces of it are read up to three times, from
    the cache after the first, instead of filling more registers than there are."""
    row = tl.program_id(0).to(tl.int64)
    gate_row, up_row, grad_row = gate_ptr + row * gate_stride, up_ptr + row * up_stride, grad_ptr + row * grad_stride
    kind = gate_ptr.dtype.element_ty
    t, ties, target = 0, 0, 0.0
    if FROM_TENSOR:
        strength = device.widen(tl.load(strength_ptr))
        keep = 1 - strength
        spread = spread * strength
    if LIFT:
        t, ties = tl.load(places_ptr + row * 2), tl.load(places_ptr + row * 2 + 1)
        target = alpha * tl.load(mean_ptr + row)
    factor, scale, total, center = 0.0, 1.0, 1.0, 0.0
    if NORM:
        factor = tl.load(factor_ptr + row)
        total, center = tl.load(moments_ptr + row * 2), tl.load(moments_ptr + row * 2 + 1)
        largest = float("-inf")
        seen = 0
        for start in range(0, M, CHUNK):
            _, _, _, _, y, _, seen = _piece(
                gate_row, up_row, start, M, t, ties, seen, target, strength,
                ACTIVATION, LIFT, SIGNED, MAGNITUDE_MEAN, FULL, FROM_TENSOR, CHUNK,
            )  # fmt: skip
            inside = start + tl.arange(0, CHUNK) < M
            largest = tl.maximum(largest, device.largest_of(y, inside, NORM))
        scale = device.scale_from(largest, NORM)
    share = 0.0
    if LIFT and SPREAD:
        seen = 0
        for start in range(0, M, CHUNK):
            _, _, _, k, y, chosen, seen = _piece(
                gate_row, up_row, start, M, t, ties, seen, target, strength,
                ACTIVATION, LIFT, SIGNED, MAGNITUDE_MEAN, FULL, FROM_TENSOR, CHUNK,
            )  # fmt: skip
            grad = _gradient(grad_row, start, M, y, factor, scale, total, center, HAS_GRAD, NORM, CHUNK)
            at = tl.where(chosen, grad, 0.0)
            if MAGNITUDE_MEAN:
                at = tl.where(device.widen(k) < 0, -at, at)
            share += tl.sum(at, axis=0)
        share = share * spread
    seen = 0
    for start in range(0, M, CHUNK):
        up, active, slope, k, y, chosen, seen = _piece(
            gate_row, up_row, start, M, t, ties, seen, target, strength,
            ACTIVATION, LIFT, SIGNED, MAGNITUDE_MEAN, FULL, FROM_TENSOR, CHUNK,
        )  # fmt: skip
        grad = _gradient(grad_row, start, M, y, factor, scale, total, center, HAS_GRAD, NORM, CHUNK)
        if LIFT:
            grad = tl.where(chosen, 0.0 if FULL else keep * grad, grad)
            if SPREAD:
                grad += device.sign_of(device.widen(k)) * share if MAGNITUDE_MEAN else share
        grad = device.rounded(grad, kind)  # what the plain graph hands from node to node is of this type
        column = start + tl.arange(0, CHUNK)
        tl.store(up_grad_ptr + row * M + column, device.narrow(grad * active, kind), mask=column < M)
        active_grad = device.rounded(grad * up, kind)
        tl.store(gate_grad_ptr + row * M + column, device.narrow(active_grad * slope, kind), mask=column < M)


def gated_forward(
    gate: Tensor, up: Tensor, buffers: tuple[Tensor, ...], activation: str, m: int, alpha: float, order: str,
    reference: str, strength: float, strength_at: Tensor | None, normalization: str,
) -> None:  # fmt: skip
    """Fills the buffers ``out`` (R, M), ``places`` (R, 2) and ``mean`` (R,) where m > 0, ``entropy`` (R,) and
    ``moments`` (R, 2) where there is a normalization, from gate and up (R, M)."""
    out, places, mean, entropy, moments = buffers
    rows, width = gate.shape
    if rows == 0:
        return
    gate, up = rows_of(gate), rows_of(up)
    with on_device(gate):
        gated_forward_kernel[(rows,)](
            gate, gate.stride(0), up, up.stride(0), gate if strength_at is None else strength_at, out, places, mean,
            entropy, moments, width, m, alpha, strength,
            ACTIVATION=ACTIVATIONS[activation], LIFT=m > 0, SIGNED=order == "signed",
            MAGNITUDE_MEAN=reference == "magnitude_mean", FULL=strength_at is None and strength == 1.0,
            FROM_TENSOR=strength_at is not None, NORM=NORMS[normalization], **launch_options(width),
        )  # fmt: skip


def gated_backward(
    grad: Tensor | None, gate: Tensor, up: Tensor, saved: tuple[Tensor, Tensor, Tensor | None, Tensor | None],
    results: tuple[Tensor, Tensor], activation: str, m: int, alpha: float, order: str, reference: str,
    strength: float, strength_at: Tensor | None, detach_reference: bool, normalization: str,
) -> None:  # fmt: skip
    """Fills the gradients of gate and up (R, M); ``saved`` are places, means, moments and factors."""
    (places, mean, moments, factor), (gate_grad, up_grad) = saved, results
    rows, width = gate.shape
    if rows == 0:
        return
    gate, up = rows_of(gate), rows_of(up)
    grad = grad if grad is None else rows_of(grad)
    factor = factor if factor is None else factor.contiguous()  # that of a sum is one number, expanded
    spread = alpha / width
    with on_device(gate):
        gated_backward_kernel[(rows,)](
            gate if grad is None else grad, 0 if grad is None else grad.stride(0), gate, gate.stride(0), up,
            up.stride(0), places, mean, gate if moments is None else moments, gate if factor is None else factor,
            gate if strength_at is None else strength_at, gate_grad, up_grad, width, alpha, strength,
            spread if strength_at is not None else spread * strength, 1 - strength,
            ACTIVATION=ACTIVATIONS[activation], HAS_GRAD=grad is not None, LIFT=m > 0, SIGNED=order == "signed",
            MAGNITUDE_MEAN=reference == "magnitude_mean", SPREAD=not detach_reference,
            FULL=strength_at is None and strength == 1.0, FROM_TENSOR=strength_at is not None,
            NORM=NORMS[normalization] if factor is not None else 0, **piece_options(width),
        )  # fmt: skip
