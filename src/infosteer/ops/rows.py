"""Plain maths of overwritten rows: what is written, and the gradient that comes back; the reference of every back end.

Shape letters: R rows, M memories, m overwritten entries.
"""

from __future__ import annotations

import torch
from torch import Tensor


def statistics_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def targets(
    block: Tensor, magnitude: Tensor, index: Tensor, alpha: float, reference: str, strength: float | Tensor
) -> tuple[Tensor, Tensor]:
    """What is written at ``index``: values (R, m) of block's dtype, and the signs (R, m) int8 of what was there."""
    original = block.gather(1, index)
    source = magnitude if reference == "magnitude_mean" else block
    target = alpha * source.mean(dim=1, keepdim=True, dtype=statistics_dtype(block.dtype))
    target = target.to(block.dtype).expand_as(original)
    return moved(original, target, reference, strength), torch.sign(original).to(torch.int8)


def moved(original: Tensor, target: Tensor, reference: str, strength: float | Tensor) -> Tensor:
    """What is written over ``original`` (R, m) where the multiple of the mean is ``target`` (R, m) of the same type."""
    if reference == "magnitude_mean":
        target = torch.where(original < 0, -target, target)
    if not isinstance(strength, Tensor) and strength == 1.0:
        return target
    wide = statistics_dtype(original.dtype)
    start = original.to(wide)
    result = (start + strength * (target.to(wide) - start)).to(original.dtype)
    if isinstance(strength, Tensor):  # the two ends hold exactly, whatever the rounding and even beside infinities
        result = torch.where(strength == 1, target, torch.where(strength == 0, original, result))
    return result


def gradient_rows(
    grad: Tensor,
    index: Tensor,
    out: Tensor | None,
    signs: Tensor | None,
    spread: float | None,
    strength: float | Tensor,
    result: Tensor | None,
) -> Tensor:
    """Gradient of one chunk; ``out`` and ``signs`` are None for "mean", ``spread`` (alpha / M) None when detached."""
    wide = statistics_dtype(grad.dtype)
    at = grad.gather(1, index).to(wide)
    here = (1 - strength) * at if isinstance(strength, Tensor) or strength != 1.0 else torch.zeros_like(at)
    full = grad
    if spread is not None:
        if signs is None or out is None:
            share = at.sum(dim=1, keepdim=True) * (spread * strength)
            here = here + share
            full = grad + share
        else:
            share = torch.where(signs < 0, -at, at).sum(dim=1, keepdim=True) * (spread * strength)
            here = here + signs * share
            if result is not None and grad.dtype == wide:
                full = torch.addcmul(grad, torch.sign(out), share, out=result)
            else:
                full = torch.addcmul(grad.to(wide), torch.sign(out).to(wide), share)
    here = here.to(grad.dtype)
    if result is None:
        return full.to(grad.dtype).scatter(1, index, here)
    if full is not result:
        result.copy_(full)
    return result.scatter_(1, index, here)


_SHORT = 1 << 14  # indices below this fit 16 bits beside a sign


def entries_like(k: Tensor, m: int) -> Tensor:
    """Room for m packed entries of each row of k (R, M)."""
    return k.new_empty((k.shape[0], m), dtype=torch.int16 if k.shape[1] <= _SHORT else torch.int32)


def pack_entries(index: Tensor, signs: Tensor, width: int) -> Tensor:
    """``4 * index + sign + 1`` of indices (R, m) into rows of M entries and signs in {-1, 0, 1}."""
    return (index * 4 + (signs + 1)).to(torch.int16 if width <= _SHORT else torch.int32)


def unpack_entries(entries: Tensor) -> tuple[Tensor, Tensor]:
    """Indices (R, m) int64 and signs (R, m) int8."""
    wide = entries.long()
    wide = wide & 0xFFFF if entries.dtype == torch.int16 else wide
    return wide >> 2, ((wide & 3) - 1).to(torch.int8)
