# mypy: allow-untyped-defs, allow-incomplete-defs
"""What the Triton kernels share: pieces that run on one row, which lies on chip as one block.

A row of M entries fills the first M lanes of a block of the next power of two; ``inside`` says which lanes these are.
Statistics are float32. The rules are those of ``ops.select``, ``ops.intervene`` and ``ops.entropy``.

Legend: M memories, m overwritten entries.
"""

from __future__ import annotations

import triton
import triton.language as tl

# How a row becomes a distribution; 0 stands for no entropy at all.
MAGNITUDE = tl.constexpr(1)
SQUARE = tl.constexpr(2)
SOFTMAX = tl.constexpr(3)

SILU = tl.constexpr(1)
GELU_TANH = tl.constexpr(2)

_OUTSIDE = tl.constexpr(0x7FFFFFFF)  # above every key, NaN's too
_LOWEST = tl.constexpr(-0x80000000)


@triton.jit
def widen(x):
    """float32 of x. bfloat16 by its bits, here and in ``narrow``: exact for every value, in the interpreter too."""
    if x.dtype == tl.bfloat16:
        return (x.to(tl.int16, bitcast=True).to(tl.int32) << 16).to(tl.float32, bitcast=True)
    return x.to(tl.float32)


@triton.jit
def narrow(x, KIND: tl.constexpr):
    """Float32 rounded to the nearest value of a type, ties to even; a NaN stays one."""
    if tl.bfloat16 == KIND:
        bits = x.to(tl.int32, bitcast=True)
        nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        return tl.where(x != x, 0x7FC0, nearest).to(tl.int16).to(tl.bfloat16, bitcast=True)
    return x.to(KIND)


@triton.jit
def rounded(x, KIND: tl.constexpr):
    """Float32 with the precision of a type."""
    return widen(narrow(x, KIND))


@triton.jit
def ordered_keys(x, inside, SIGNED: tl.constexpr):
    """int32 keys that compare as ``|x|`` or ``x`` do: -0 equals 0, every NaN is one step above infinity."""
    if x.dtype == tl.float32:
        bits = x.to(tl.int32, bitcast=True)
        size = bits & 0x7FFFFFFF
        infinity = 0x7F800000
    else:
        bits = x.to(tl.int16, bitcast=True).to(tl.int32)
        size = bits & 0x7FFF
        infinity = 0x7F80 if x.dtype == tl.bfloat16 else 0x7C00
    keys = tl.where(bits < 0, -size, size) if SIGNED else size
    keys = tl.where(size > infinity, infinity + 1, keys)
    return tl.where(inside, keys, _OUTSIDE)


@triton.jit
def threshold_of(keys, m, HALF: tl.constexpr, SIGNED: tl.constexpr):
    """The m-th smallest key: the largest t with fewer than m keys below it, found bit by bit from the top."""
    BITS: tl.constexpr = 15 if HALF else 31
    if SIGNED:
        lowest = -0x8000 if HALF else _LOWEST
        t = tl.where(tl.sum((keys < 0).to(tl.int32), axis=0) < m, 0, lowest)
    else:
        t = tl.sum(keys * 0, axis=0)  # a scalar zero of the right type
    for step in range(BITS):
        candidate = t + (1 << (BITS - 1 - step))
        count = tl.sum((keys < candidate).to(tl.int32), axis=0)
        t = tl.where(count < m, candidate, t)
    return t


@triton.jit
def chosen_by(keys, t, ties, seen):
    """Mask of the chosen entries: all below the threshold, and the first ``ties`` at it, ``seen`` of which lie in what
    came before; and how many have been seen now."""
    equal = (keys == t).to(tl.int32)
    chosen = ((keys < t).to(tl.int32) + equal * (seen + tl.cumsum(equal, axis=0) <= ties).to(tl.int32)) != 0
    return chosen, seen + tl.sum(equal, axis=0)


@triton.jit
def mean_of(x, M, MAGNITUDE_MEAN: tl.constexpr):
    """Row mean of ``|x|`` or ``x`` (lanes outside hold 0)."""
    wide = widen(x)
    return tl.sum(tl.abs(wide) if MAGNITUDE_MEAN else wide, axis=0) / M


@triton.jit
def overwritten(x, target, strength, MAGNITUDE_MEAN: tl.constexpr, FULL: tl.constexpr, FROM_TENSOR: tl.constexpr):
    """What is written where x was; ``target`` is the multiple of the mean in float32, not yet rounded to x's type."""
    start = widen(x)
    goal = tl.zeros_like(start) + rounded(target, x.dtype)
    if MAGNITUDE_MEAN:
        goal = tl.where(start < 0, -goal, goal)
    if FULL:
        return narrow(goal, x.dtype)
    moved = start + strength * (goal - start)
    if FROM_TENSOR:  # both ends hold exactly
        moved = tl.where(strength == 1, goal, tl.where(strength == 0, start, moved))
    return narrow(moved, x.dtype)


@triton.jit
def largest_of(y, inside, NORM: tl.constexpr):
    """Largest entry for the softmax, else largest magnitude."""
    wide = widen(y)
    if NORM == SOFTMAX:
        return tl.max(tl.where(inside, wide, float("-inf")), axis=0)
    return tl.max(tl.where(inside, tl.abs(wide), 0.0), axis=0)


@triton.jit
def scale_from(largest, NORM: tl.constexpr):
    """What a row is divided by (softmax: shifted by) before its weights are taken; 1 for an all-zero row."""
    if NORM == SOFTMAX:
        return largest
    return tl.where(largest == 0, 1.0, largest)


@triton.jit
def scale_of(y, inside, NORM: tl.constexpr):
    """``scale_from`` for a whole row."""
    return scale_from(largest_of(y, inside, NORM), NORM)


@triton.jit
def logs_of(y, scale, NORM: tl.constexpr):
    """Rescaled entries x and the logarithms of their weights b, 0 where x = 0."""
    wide = widen(y)
    if NORM == SOFTMAX:
        x = wide - scale
        log = x
    else:
        x = wide / scale
        log = tl.where(x == 0, 0.0, tl.log(tl.abs(x)))
        if NORM == SQUARE:
            log = 2 * log
    return x, log


@triton.jit
def weights_of(x, NORM: tl.constexpr):
    """Weights b of rescaled entries."""
    if NORM == SOFTMAX:
        return tl.exp(x)
    if NORM == SQUARE:
        return x * x
    return tl.abs(x)


@triton.jit
def moments_of(x, log, inside, NORM: tl.constexpr):
    """``S = sum b`` (1 for an all-zero row) and ``Q / S``."""
    weight = tl.where(inside, weights_of(x, NORM), 0.0)
    total = tl.sum(weight, axis=0)
    total = tl.where(total == 0, 1.0, total)
    center = tl.sum(weight * tl.where(inside, log, 0.0), axis=0) / total
    return total, center


@triton.jit
def slope_of(x, log, scale, total, center, NORM: tl.constexpr):
    """``dH/dy`` of entries with rescaled value x and logarithm ``log``."""
    slope = (log - center) / -total
    if NORM == SOFTMAX:
        return slope * tl.exp(x)
    if NORM == SQUARE:
        return slope * x * (2 / scale)
    return slope * sign_of(x) / scale


@triton.jit
def sign_of(x):
    """-1, 0 or 1 in float32; 0 for NaN."""
    return (x > 0).to(tl.float32) - (x < 0).to(tl.float32)


@triton.jit
def activation_of(gate, ACTIVATION: tl.constexpr):
    """``act(gate)`` and ``act'(gate)`` in float32."""
    if ACTIVATION == SILU:
        share = tl.sigmoid(gate)
        return gate * share, share * (1 + gate * (1 - share))
    inner = 0.7978845608028654 * (gate + 0.044715 * gate * gate * gate)
    tanh = 2 * tl.sigmoid(2 * inner) - 1
    slope = 0.7978845608028654 * (1 + 3 * 0.044715 * gate * gate)
    return 0.5 * gate * (1 + tanh), 0.5 * (1 + tanh) + 0.5 * gate * (1 - tanh * tanh) * slope
