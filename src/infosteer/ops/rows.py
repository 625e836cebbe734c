"""Plain maths of overwritten rows: what is written, and the gradient that comes back; the reference of every back end.

Shape letters: R rows, M memories, m overwritten entries.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Edit:
    """Edited rows, and what their backward pass needs.

    Attributes:
        out: (R, M) the edited rows.
        where: (R, m) int32 places of the overwritten entries; or (R, M) int8, see ``ops.masked_rows``.
        signs: (R, m) int8 signs of what was there; None beside a mask.
        odd: whether the rows have a zero or a NaN; only known beside a mask.
    """

    out: Tensor
    where: Tensor
    signs: Tensor | None
    odd: bool = True


def statistics_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def targets(
    k: Tensor, index: Tensor, mean: Tensor, alpha: float, reference: str, strength: float | Tensor
) -> tuple[Tensor, Tensor]:
    """What is written at ``index``: values (R, m) of k's dtype, and the signs (R, m) int8 of what was there; ``mean``
    as ``mean_of`` gives it."""
    original = k.gather(1, index)
    target = (alpha * mean).to(k.dtype).expand_as(original)
    return moved(original, target, reference, strength), torch.sign(original).to(torch.int8)


def mean_of(k: Tensor, reference: str) -> Tensor:
    """Each row's mean that the reference names, (R, 1) float32 (float64 stays)."""
    source = k.abs() if reference == "magnitude_mean" else k
    return source.mean(dim=1, keepdim=True, dtype=statistics_dtype(k.dtype))


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
) -> Tensor:
    """Gradient (R, M) of edited rows; ``out`` and ``signs`` None for "mean", ``spread`` (alpha / M) when detached."""
    at = grad.gather(1, index)
    if spread is None:
        return grad.scatter(1, index, kept(at, strength).to(grad.dtype))
    here, share = gradient_at(at, signs, spread, strength)
    wide = statistics_dtype(grad.dtype)
    direction = 1.0 if out is None else torch.sign(out).to(wide)
    full = grad.to(wide) + share * direction
    return full.to(grad.dtype).scatter(1, index, here.to(grad.dtype))


def kept(at: Tensor, strength: float | Tensor) -> Tensor:
    """The gradient (R, m) of overwritten entries from that of what was written, but for the mean's part; float32."""
    at = at.to(statistics_dtype(at.dtype))
    return (1 - strength) * at if isinstance(strength, Tensor) or strength != 1.0 else torch.zeros_like(at)


def gradient_at(at: Tensor, signs: Tensor | None, spread: float, strength: float | Tensor) -> tuple[Tensor, Tensor]:
    """The gradient (R, m) of overwritten entries from that of what was written, ``at`` (R, m), and the share (R, 1) of
    it that goes through the mean to every entry (times its sign, if there are ``signs``); float32 (float64 stays)."""
    here, at = kept(at, strength), at.to(statistics_dtype(at.dtype))
    through = at if signs is None else torch.where(signs < 0, -at, at)
    share = through.sum(dim=1, keepdim=True) * (spread * strength)
    return here + (share if signs is None else signs * share), share


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
