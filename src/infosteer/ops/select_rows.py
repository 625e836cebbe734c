"""Selection on the CPU, without sorting: rows become integers that sort as their entries do.

For few entries their places are found. Rows are split into G interleaved groups; the m + 1 smallest values of a row
lie in the m + 1 groups with the smallest minima, so M / G minima (looked through in the same way) and (m + 1) * G
candidates are looked through instead of M. If value m + 1 equals value m the set is not unique; only such rows are done
again, with the index made part of the key. For many entries places would cost more than they say: then there is a mask,
of everything up to the m-th smallest.

Shape letters: R rows, M width, m chosen entries, G group size, W = M // G minima a row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from infosteer.ops.chunks import row_chunks
from infosteer.ops.partition import least_rows, neighbours

_GROUP = 4
_PLACE_BITS = 20  # beside a key of 32 bits; wider rows than 2^20 are sorted

# Bit patterns of +inf: anything above is a NaN.
INFINITY = {
    torch.float64: 0x7FF0000000000000,
    torch.float32: 0x7F800000,
    torch.bfloat16: 0x7F80,
    torch.float16: 0x7C00,
}
BITS = {
    torch.float64: torch.int64,
    torch.float32: torch.int32,
    torch.bfloat16: torch.int16,
    torch.float16: torch.int16,
}


def smallest_rows(k: Tensor, m: int, order: str, mean: Tensor | None = None) -> Tensor:
    """Places (R, m) of the m smallest entries of rows (R, M), 0 < m < M, as ``ops.select.smallest`` says.

    ``mean`` (R, 1), if given, is filled with the mean of ``|k|``: here the magnitudes are in cache anyway.
    """
    if not _fits_keys(k):
        _write_means(k.abs(), mean)
        return smallest_static(k, m, order)
    width = k.shape[1]
    columns = _columns(k) if _needs_columns(k) else None
    n = m + 1 if columns is None else m
    places = torch.empty(k.shape[0], m, dtype=torch.int64)
    if width < 2 * _GROUP * n:
        for here in row_chunks(k):
            magnitude = k[here].abs()
            _write_means(magnitude, None if mean is None else mean[here])
            values, found = _least(_keys(k[here], order, columns, magnitude), n)
            places[here] = _settled(k[here], values, found, m, order)
        return places
    minima = width // _GROUP
    lows = torch.empty(k.shape[0], minima, dtype=torch.int32)
    for here in row_chunks(k):
        magnitude = k[here].abs()
        _write_means(magnitude, None if mean is None else mean[here])
        keys = _keys(k[here], order, columns, magnitude)
        torch.amin(_grouped(keys, minima), dim=1, out=lows[here])
    for here in row_chunks(k, width=2 * _GROUP * n):
        members = _members(_least(lows[here], n)[1], minima, width)
        candidates = _keys(k[here].gather(1, members), order, None if columns is None else members)
        values, place = _least_with_places(candidates, n)
        places[here] = _settled(k[here], values, members.gather(1, place), m, order)
    return places


def smallest_mask(k: Tensor, m: int, order: str, magnitude: Tensor) -> Tensor:
    """The same entries of one chunk of rows (R, M), 0 < m < M, as a mask (R, M) bool; ``magnitude`` is ``|k|``."""
    if not _fits_keys(k):
        chosen = torch.zeros(k.shape, dtype=torch.bool)
        return chosen.scatter_(1, smallest_static(k, m, order), True)
    unique = _needs_columns(k)
    keys = _keys(k, order, _columns(k) if unique else None, magnitude)
    threshold, following = neighbours(keys, m)
    mask = keys <= threshold
    if unique:
        return mask
    infinity = INFINITY[k.dtype]
    unclear = (following == threshold) | (threshold > infinity)
    if bool(unclear.any()):
        rows = unclear.squeeze(1).nonzero().squeeze(1)
        some, at = keys[rows].clamp_max_(infinity + 1), threshold[rows].clamp_max(infinity + 1)  # all NaN equal
        below, equal = some < at, some == at
        missing = m - below.sum(dim=1, keepdim=True)
        mask[rows] = below | (equal & (equal.cumsum(dim=1, dtype=torch.int32) <= missing))
    return mask


def smallest_static(k: Tensor, m: int, order: str) -> Tensor:
    """Places (..., m) without any control flow on values: for compilers, accelerators, float64 and very wide rows."""
    if k.dtype == torch.float64:
        values = k.abs() if order == "magnitude" else k
        return torch.sort(values, dim=-1, stable=True).indices[..., :m]
    bits = ordered_bits(k, order).to(torch.int64).clamp_max(INFINITY[k.dtype] + 1)
    columns = torch.arange(k.shape[-1], device=k.device)
    return torch.topk(bits * (1 << 32) + columns, m, dim=-1, largest=False, sorted=True).indices


def ordered_bits(k: Tensor, order: str, magnitude: Tensor | None = None) -> Tensor:
    """Contiguous integers of k's size that compare as ``|k|`` or ``k`` do; every NaN lies above the pattern of +inf."""
    kind = BITS[k.dtype]
    if order == "magnitude":
        return (k.abs() if magnitude is None else magnitude).contiguous().view(kind)
    top = torch.iinfo(kind)
    bits = (k + 0.0).contiguous().view(kind)  # adding zero turns -0.0 into 0.0
    # Negative floats are sign and magnitude: flipping the magnitude makes more negative smaller.
    bits = bits ^ ((bits >> (top.bits - 1)) & top.max)
    return bits.masked_fill_(k.isnan(), INFINITY[k.dtype] + 1)


def bit_pattern(k: Tensor) -> Tensor:
    """The bits of k as integers of its size."""
    return k.contiguous().view(BITS[k.dtype])


def _fits_keys(k: Tensor) -> bool:
    """Whether an entry's key and its place fit 64 bits together."""
    return k.dtype != torch.float64 and k.shape[1] <= 1 << _PLACE_BITS


def _needs_columns(k: Tensor) -> bool:
    """Whether keys hold the column too: half precision has ties in many rows, and both fit 32 bits."""
    return k.dtype.itemsize == 2 and k.shape[1] <= 1 << 16


def _keys(k: Tensor, order: str, columns: Tensor | None, magnitude: Tensor | None = None) -> Tensor:
    """int32 (R, N) that compare as the entries k (R, N) do, and with ``columns`` as entry and column do."""
    bits = ordered_bits(k, order, magnitude)
    if k.dtype.itemsize == 2:
        bits = bits.to(torch.int32)
    if columns is None:
        return bits
    return bits.clamp_max_(INFINITY[k.dtype] + 1).mul_(1 << 16).add_(columns)


def _settled(k: Tensor, values: Tensor, places: Tensor, m: int, order: str) -> Tensor:
    """The places (R, m) of the m smallest entries of rows k, given those of the m (then keys are unique) or m + 1
    smallest keys, the largest last."""
    if places.shape[1] == m:
        return places
    infinity = INFINITY[k.dtype]
    threshold = values[:, :m].amax(dim=1)
    unclear = (threshold == values[:, m]) | (threshold > infinity)
    places = places[:, :m]
    if not bool(unclear.any()):
        return places
    # Equal entries at the boundary, or NaN among the chosen: rank by (below, at, above the threshold; index). Clamping
    # to the threshold's neighbours gives -1, 0, 1 without a comparison that might overflow, and makes all NaN equal.
    rows = unclear.nonzero().squeeze(1)
    threshold = threshold[rows].clamp_max(infinity + 1).unsqueeze(1)
    around = _keys(k[rows], order, None).clamp_(threshold - 1, (threshold + 1).clamp_max(infinity + 1)).sub_(threshold)
    ranks = around.mul_(k.shape[1]).add_(_columns(k))
    return places.index_copy(0, rows, _least(ranks, m)[1])


def _least(keys: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """The n smallest keys of each row (R, N), the largest of them last, and their columns; of equal keys any."""
    width = keys.shape[1]
    if width < 2 * _GROUP * n:
        return _least_with_places(keys, n)
    minima = width // _GROUP
    members = _members(_least(_grouped(keys, minima).amin(dim=1), n)[1], minima, width)
    values, place = _least_with_places(keys.gather(1, members), n)
    return values, members.gather(1, place)


def _grouped(keys: Tensor, minima: int) -> Tensor:
    """(R, G, W) of rows (R, N): group j holds columns j, j + W, j + 2 W, ...; the last N - G W columns are left out."""
    return keys[:, : _GROUP * minima].unflatten(1, (_GROUP, minima))


def _members(groups: Tensor, minima: int, width: int) -> Tensor:
    """Columns of the members of groups (R, n), and those that are in no group: (R, G n + N - G W)."""
    rows, n = groups.shape
    members = torch.empty(rows, _GROUP * n + width - _GROUP * minima, dtype=torch.int64)
    for member in range(_GROUP):
        torch.add(groups, member * minima, out=members[:, member * n : (member + 1) * n])
    members[:, _GROUP * n :] = torch.arange(_GROUP * minima, width)
    return members


def _least_with_places(keys: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """``_least`` for short rows: each key beside its place in one number, so that one partition gives both."""
    pairs = keys.to(torch.int64).bitwise_left_shift_(_PLACE_BITS).add_(_columns(keys))
    least = least_rows(pairs, n)
    return least >> _PLACE_BITS, least & ((1 << _PLACE_BITS) - 1)


def _columns(like: Tensor) -> Tensor:
    return torch.arange(like.shape[1], dtype=torch.int32)


def _write_means(magnitude: Tensor, mean: Tensor | None) -> None:
    if mean is not None:
        torch.mean(magnitude, dim=1, keepdim=True, dtype=mean.dtype, out=mean)
