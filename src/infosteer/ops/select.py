"""Selection of the smallest entries of each row, under one tie rule.

The rule, shared by every back end: exactly ``m`` entries of a row are chosen, in the order of
``torch.sort(stable=True)``; equal entries are taken lowest index first, ``-0.0`` equals ``0.0``, and NaN is larger than
everything else.

How the CPU path gets there without sorting: rows are mapped to integers that sort in the same order, and split into G
interleaved groups. The m + 1 smallest values of a row lie in the m + 1 groups with the smallest minima, so a top-k over
M / G minima (found in the same way) and another over (m + 1) * G candidates replace one over M. If value m + 1 equals
value m the set is not unique; only such rows are done again, with the index made part of the key.

Shape letters: R rows, M width, m chosen entries, G group size, W = M // G minima a row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from infosteer.errors import ConfigError

ORDERS = ("magnitude", "signed")

# Elements of a chunk of rows: large enough that calls into torch cost nothing, small enough for a shared cache.
CHUNK_ELEMENTS = 1 << 20

_GROUP = 4

# Bit patterns of +inf: anything above is a NaN.
_INFINITY = {
    torch.float64: 0x7FF0000000000000,
    torch.float32: 0x7F800000,
    torch.bfloat16: 0x7F80,
    torch.float16: 0x7C00,
}
_BITS = {
    torch.float64: torch.int64,
    torch.float32: torch.int32,
    torch.bfloat16: torch.int16,
    torch.float16: torch.int16,
}


def check_fraction(fraction: float) -> None:
    """Raise ``ConfigError`` unless ``fraction`` is a number in [0, 1]."""
    if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0.0 <= fraction <= 1.0:
        raise ConfigError(
            "The fraction of coefficients to overwrite is not a share.",
            where="fraction",
            got=repr(fraction),
            expected="a number from 0 to 1 (0.01 is one percent)",
            fix="give the share, not a percentage",
        )


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise ``ConfigError`` unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ConfigError(
            f"Unknown {name}.", where=name, got=repr(value), expected=" or ".join(repr(choice) for choice in choices)
        )


def check_floating(name: str, k: Tensor) -> None:
    """Raise ``ConfigError`` unless ``k`` is a floating tensor with a last dimension."""
    if not isinstance(k, Tensor):
        raise ConfigError(
            f"{name} is not a tensor.", where=name, got=type(k).__name__, expected="a torch.Tensor (..., M)"
        )
    if k.dtype not in _BITS or k.dim() == 0:
        raise ConfigError(
            f"{name} is not a tensor of coefficients.",
            where=name,
            got=f"{k.dtype} with shape {tuple(k.shape)}",
            expected="float32, bfloat16, float16 or float64 with shape (..., M)",
        )


def count_smallest(fraction: float, width: int) -> int:
    """Number of entries that a fraction of a row stands for.

    ``m = 0`` when ``fraction == 0`` or the row is empty, else ``max(1, round(fraction * M))`` with Python's round.

    Args:
        fraction: share of the row, in [0, 1].
        width: M, entries of a row.

    Raises:
        ConfigError: ``fraction`` is not in [0, 1].
    """
    check_fraction(fraction)
    if fraction == 0 or width == 0:
        return 0
    return min(width, max(1, round(fraction * width)))


def rows_per_chunk(width: int) -> int:
    """Rows that are processed together so that the temporaries of width ``width`` stay in cache."""
    return max(1, CHUNK_ELEMENTS // max(1, width))


def smallest(k: Tensor, m: int, order: str = "magnitude") -> Tensor:
    """Indices of the m smallest entries of each row.

    Exactly m a row; equal entries lowest index first; NaN counts as largest; ``-0.0 == 0.0``. As a set the result is
    that of ``torch.sort(stable=True)``; the sequence within a row is deterministic but not sorted.

    Args:
        k: (..., M) floating tensor, any strides.
        m: entries to choose, 0 <= m <= M.
        order: ``"magnitude"`` compares ``|k|``, ``"signed"`` compares ``k``.

    Returns:
        (..., m) int64.

    Raises:
        ConfigError: m out of range, unknown order, or k not floating.
    """
    check_choice("order", order, ORDERS)
    check_floating("k", k)
    width = k.shape[-1]
    if not 0 <= m <= width:
        raise ConfigError("More entries asked for than a row holds.", where="m", got=m, expected=f"0 to {width}")
    k = k.detach()
    if m == 0 or m == width:
        return torch.arange(m, device=k.device).expand(*k.shape[:-1], m)
    if torch.compiler.is_compiling() or k.device.type != "cpu":
        return _smallest_static(k, m, order)
    rows = k.reshape(-1, width)
    out = torch.empty(rows.shape[0], m, dtype=torch.int64)
    step = rows_per_chunk(width)
    for start in range(0, rows.shape[0], step):
        out[start : start + step] = smallest_rows(rows[start : start + step], m, order)
    return out.view(*k.shape[:-1], m)


def smallest_rows(k: Tensor, m: int, order: str, magnitude: Tensor | None = None) -> Tensor:
    """``smallest`` for one chunk of rows (R, M) on the CPU, 0 < m < M; ``magnitude`` is ``|k|`` where already known."""
    bits = ordered_bits(k, order, magnitude)
    infinity = _INFINITY[k.dtype]
    if k.dtype.itemsize == 2 and k.shape[1] <= 1 << 16:
        # Half precision has ties in many rows; value and index fit one int32, so that no two keys are equal.
        keys = bits.to(torch.int32).clamp_max_(infinity + 1).mul_(1 << 16).add_(_columns(bits, torch.int32))
        return _top(keys, m)[1]
    values, index = _top(bits, m + 1)
    threshold = values[:, m - 1]
    unclear = (threshold == values[:, m]) | (threshold > infinity)
    index = index[:, :m]
    if not bool(unclear.any()):
        return index
    # Equal entries at the boundary, or NaN among the chosen: rank by (below, at, above the threshold; index). Clamping
    # to the threshold's neighbours gives -1, 0, 1 without a comparison that might overflow, and makes all NaN equal.
    rows = unclear.nonzero().squeeze(1)
    threshold = threshold[rows].clamp_max(infinity + 1).unsqueeze(1)
    around = bits[rows].clamp_(threshold - 1, (threshold + 1).clamp_max(infinity + 1)).sub_(threshold)
    around = around.to(torch.int32) if around.dtype == torch.int16 else around
    keys = around.mul_(k.shape[1]).add_(_columns(around, around.dtype))
    index = index.clone()
    index[rows] = _top(keys, m)[1]
    return index


def ordered_bits(k: Tensor, order: str, magnitude: Tensor | None = None) -> Tensor:
    """Contiguous integers of k's size that compare as ``|k|`` or ``k`` do; every NaN lies above the pattern of +inf."""
    kind = _BITS[k.dtype]
    if order == "magnitude":
        return (k.abs() if magnitude is None else magnitude).contiguous().view(kind)
    top = torch.iinfo(kind)
    bits = (k + 0.0).contiguous().view(kind)  # adding zero turns -0.0 into 0.0
    # Negative floats are sign and magnitude: flipping the magnitude makes more negative smaller.
    bits = bits ^ ((bits >> (top.bits - 1)) & top.max)
    return bits.masked_fill_(k.isnan(), _INFINITY[k.dtype] + 1)


def bit_pattern(k: Tensor) -> tuple[Tensor, int]:
    """The bits of k as integers of its size, and the pattern of +inf."""
    return k.contiguous().view(_BITS[k.dtype]), _INFINITY[k.dtype]


def _columns(like: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.arange(like.shape[-1], device=like.device, dtype=dtype)


def _top(keys: Tensor, n: int, ascending: bool = True) -> tuple[Tensor, Tensor]:
    """The n smallest keys of each row (R, M), and their columns; among equal keys any column."""
    rows, width = keys.shape
    if width < 2 * _GROUP * n:
        values, index = keys.topk(n, dim=1, largest=False, sorted=ascending)
        return values, index
    minima = width // _GROUP
    covered = _GROUP * minima
    grouped = keys[:, :covered].unflatten(1, (_GROUP, minima))  # group j holds columns j, j + W, j + 2 W, ...
    winners = _top(grouped.amin(dim=1), n, ascending=False)[1]
    candidates = grouped.gather(2, winners.unsqueeze(1).expand(rows, _GROUP, n)).view(rows, _GROUP * n)
    if covered < width:
        candidates = torch.cat([candidates, keys[:, covered:]], dim=1)
    values, place = candidates.topk(n, dim=1, largest=False, sorted=ascending)
    member = place // n
    index = winners.gather(1, place - member * n) + member * minima
    if covered < width:
        index = torch.where(place < _GROUP * n, index, place + (covered - _GROUP * n))
    return values, index


def _smallest_static(k: Tensor, m: int, order: str) -> Tensor:
    """``smallest`` without any control flow on values: for compilers and accelerators."""
    if k.dtype == torch.float64:
        values = k.abs() if order == "magnitude" else k
        return torch.sort(values, dim=-1, stable=True).indices[..., :m]
    bits = ordered_bits(k, order).to(torch.int64).clamp_max(_INFINITY[k.dtype] + 1)
    keys = bits * (1 << 32) + _columns(k, torch.int64)
    return torch.topk(keys, m, dim=-1, largest=False, sorted=True).indices
