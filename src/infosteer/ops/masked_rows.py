"""Overwritten rows where many entries are overwritten, on the CPU: a mask in place of indices.

Gathering and scattering cost time per index. With a mask everything is a pass over the row, whatever the fraction.
Values are chosen by bits (``a ^ ((a ^ b) & mask)``): exact beside infinities and NaN, and vectorised on a CPU, where
``torch.where`` is not.

What is kept of a row for the backward pass is one byte an entry: 0 where nothing was written, else minus (2 + the sign
of what was there), so that the byte's own sign is the mask.

Shape letters: R rows, M memories.
"""

from __future__ import annotations

import torch
from torch import Tensor

from infosteer.ops.rows import mean_of, statistics_dtype
from infosteer.ops.select_rows import bit_pattern, smallest_mask

# Below this share of a row indices are the cheaper way (measured: benchmarks/ops.py).
MASK_FROM = 1 / 32


def by_mask(m: int, width: int) -> bool:
    """Whether m of so many entries, 0 < m, are named by a mask."""
    return width * MASK_FROM < m < width


def write_masked(
    block: Tensor, m: int, order: str, alpha: float, reference: str, strength: float, out: Tensor, code: Tensor
) -> bool:
    """Edits one chunk of rows (R, M) into ``out`` of its type and says where, in ``code`` (R, M) int8.

    Returns whether a zero or a NaN is among the rows.
    """
    magnitude = block.abs()
    chosen = smallest_mask(block, m, order, magnitude).view(torch.int8).neg_()
    torch.bitwise_and(torch.sign(block).to(torch.int8).add_(2).neg_(), chosen, out=code)
    mean = mean_of(magnitude if reference == "magnitude_mean" else block, "mean")
    bits = bit_pattern(block)
    written = bit_pattern((alpha * mean).to(block.dtype))
    if reference == "magnitude_mean":
        sign = bit_pattern(block + 0.0).bitwise_and_(torch.iinfo(bits.dtype).min)  # adding 0 turns -0 into 0
        written = sign.bitwise_xor_(written)
    if strength != 1.0:
        wide = statistics_dtype(block.dtype)
        start = block.to(wide)
        goal = written.view(block.dtype).to(wide)
        written = bit_pattern((start + strength * (goal - start)).to(block.dtype))
    changed = torch.bitwise_xor(bits, written).bitwise_and_(chosen.to(bits.dtype))
    torch.bitwise_xor(bits, changed, out=bit_pattern(out))
    return not bool(magnitude.amin() > 0)


def gradient_masked(
    grad: Tensor,
    code: Tensor,
    out: Tensor | None,
    spread: float | None,
    strength: float,
    odd: bool,
    result: Tensor,
) -> None:
    """Gradient of one chunk (R, M) into ``result``; ``out`` is None for "mean", ``spread`` (alpha / M) when detached,
    ``odd`` whether there was a zero or a NaN in k."""
    wide = statistics_dtype(grad.dtype)
    full = grad.to(wide)
    chosen = code.bitwise_right_shift(7).to(bit_pattern(full).dtype)
    at = bit_pattern(full).bitwise_and(chosen)
    scale = None if spread is None else spread * strength
    if scale is not None and out is not None:
        sign = torch.sign(out).to(wide)
        share = (at.view(wide) * sign).sum(dim=1, keepdim=True) * scale
        if strength == 1.0 and scale * out.shape[1] > 0.99 and not odd:
            # With alpha >= 1 what was written has the sign of what was there, and one formula does for the whole row.
            rest = at.bitwise_xor_(bit_pattern(full)).view(wide)
            if grad.dtype == wide:
                torch.addcmul(rest, sign, share, out=result)
            else:
                result.copy_(rest.addcmul_(sign, share))
            return
    inside = at.view(wide) * (1 - strength) if strength != 1.0 else torch.zeros((), dtype=wide)
    if scale is not None and out is None:
        share = at.view(wide).sum(dim=1, keepdim=True) * scale
        inside, full = inside + share, full + share
    elif scale is not None:
        was = -2 - code  # the sign of what was there; 0 was overwritten as if it were positive
        share = (at.view(wide) * (1 - 2 * (was < 0).to(wide))).sum(dim=1, keepdim=True) * scale
        inside = torch.addcmul(inside, was.to(wide), share)
        full = torch.addcmul(full, sign, share)
    outside = bit_pattern(full.to(grad.dtype))
    within = bit_pattern(inside.to(grad.dtype).expand_as(grad))
    changed = torch.bitwise_xor(outside, within).bitwise_and_(chosen.to(outside.dtype))
    torch.bitwise_xor(outside, changed, out=bit_pattern(result))
