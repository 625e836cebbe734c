"""Rows on the CPU in PyTorch: edit and entropy gradient in as few passes over memory as its operators allow.

Passes over whole rows go chunk by chunk, so that temporaries stay in cache; what has one number for each overwritten
entry is done for all rows at once. Results are those of ``ops.reference``: the same entries, and values that differ in
the last bits at most.

Shape letters: R rows, M memories, m overwritten entries.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from infosteer.ops.chunks import row_chunks
from infosteer.ops.entropy_rows import magnitude_line
from infosteer.ops.masked_rows import by_mask, gradient_masked, write_masked
from infosteer.ops.rows import Edit, gradient_at, kept, mean_of, statistics_dtype, targets
from infosteer.ops.select_rows import smallest_rows


def edit_rows(rows: Tensor, m: int, choice: str | Tensor, alpha: float, reference: str, strength: float) -> Edit:
    """Overwrites m entries of every row (R, M): the smallest in the order named, or those at given places (R, m)."""
    width = rows.shape[1]
    if isinstance(choice, str) and by_mask(m, width):
        out, code = torch.empty(rows.shape, dtype=rows.dtype), torch.empty(rows.shape, dtype=torch.int8)
        odd = [
            write_masked(rows[here], m, choice, alpha, reference, strength, out[here], code[here])
            for here in row_chunks(rows)
        ]
        return Edit(out, code, None, any(odd))
    if isinstance(choice, str) and m < width:
        mean = torch.empty(rows.shape[0], 1, dtype=statistics_dtype(rows.dtype))
        index = smallest_rows(rows, m, choice, mean if reference == "magnitude_mean" else None)
        mean = mean if reference == "magnitude_mean" else mean_of(rows, reference)
    else:
        index = torch.arange(m).expand(rows.shape[0], m) if isinstance(choice, str) else choice
        mean = mean_of(rows, reference)
    edited, signs = targets(rows, index, mean, alpha, reference, strength)
    out = rows.clone(memory_format=torch.contiguous_format).scatter_(1, index, edited)
    return Edit(out, index.to(torch.int32), signs)


def edit_gradient(grad: Tensor, edit: Edit, spread: float | None, strength: float, signed: bool) -> Tensor:
    """``ops.cpu.edit_gradient``, which says what the arguments are."""
    signed = signed and spread is not None
    result = torch.empty(grad.shape, dtype=grad.dtype)
    if edit.signs is None:
        for here in row_chunks(grad):
            out = edit.out[here] if signed else None
            gradient_masked(grad[here], edit.where[here], out, spread, strength, edit.odd, result[here])
        return result
    index = edit.where.long()
    at = grad.gather(1, index)
    if spread is None:
        return result.copy_(grad).scatter_(1, index, kept(at, strength).to(grad.dtype))
    at, share = gradient_at(at, edit.signs if signed else None, spread, strength)
    for here in row_chunks(grad):
        direction = torch.sign(edit.out[here]) if signed else torch.ones((), dtype=grad.dtype)
        _add_product(grad[here], direction, share[here], result[here])
    return result.scatter_(1, index, at.to(grad.dtype))


def add_gradient(k: Tensor, grad: Tensor, factor: Tensor, grad_rows: Callable[[Tensor], Tensor]) -> Tensor:
    """``grad + factor grad_rows(k)`` (R, M), factor (R,), for any function of rows that treats each on its own; rows
    whose factor is 0 are left alone, even where the slope is not finite."""

    def term(rows: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
        slope = grad_rows(rows)
        return slope, share.to(slope.dtype)

    result = _add_terms(k, grad, factor, term)
    assert result is not None, "this term has no rows that it cannot do"
    idle = (factor == 0).nonzero().squeeze(1)
    return result if result is grad else result.index_copy_(0, idle, grad[idle])


def add_entropy_gradient(k: Tensor, grad: Tensor, factor: Tensor) -> Tensor | None:
    """``ops.cpu.add_entropy_gradient``."""

    def term(rows: Tensor, share: Tensor) -> tuple[Tensor, Tensor] | None:
        line = magnitude_line(rows)
        if line is None:
            return None
        return torch.sign(rows), torch.addcmul(line.offset * share, line.log, line.slope * share)

    return _add_terms(k, grad, factor, term)


def _add_terms(
    k: Tensor, grad: Tensor, factor: Tensor, term: Callable[[Tensor, Tensor], tuple[Tensor, Tensor] | None]
) -> Tensor | None:
    """``grad + a * b`` with ``a, b = term(rows, factors (R, 1))`` in rows whose factor is not 0; None if a term is."""
    if not bool(factor.any()):
        return grad
    result = torch.empty(grad.shape, dtype=grad.dtype)
    for here, active in _spans(k, factor):
        if not active:
            result[here] = grad[here]
            continue
        found = term(k[here], factor[here].unsqueeze(1))
        if found is None:
            return None
        _add_product(grad[here], *found, result[here])
    return result


def joint_gradient(
    grad: Tensor, edit: Edit, factor: Tensor, spread: float | None, strength: float, signed: bool
) -> Tensor | None:
    """``ops.cpu.joint_gradient``."""
    if spread is None or not signed or edit.signs is None:
        total = add_entropy_gradient(edit.out, grad, factor)
        return None if total is None else edit_gradient(total, edit, spread, strength, signed)
    result = torch.empty(grad.shape, dtype=grad.dtype)
    for here, active in _spans(grad, factor):
        out, index = edit.out[here], edit.where[here].long()
        direction = torch.sign(out)
        at = grad[here].gather(1, index).to(factor.dtype)
        line = magnitude_line(out) if active else None
        if line is not None:
            by_row = factor[here].unsqueeze(1)
            slope, offset = line.slope * by_row, line.offset * by_row
            at = at + direction.gather(1, index) * (offset + slope * line.log.gather(1, index))
        elif active:
            return None
        written, share = gradient_at(at, edit.signs[here], spread, strength)
        through = share if line is None else torch.addcmul(offset + share, line.log, slope)
        _add_product(grad[here], direction, through, result[here])
        result[here].scatter_(1, index, written.to(grad.dtype))
    return result


def _spans(rows: Tensor, factor: Tensor) -> Iterator[tuple[slice, bool]]:
    """Chunks of rows, cut where rows whose factor is not 0 begin and end: slices, and whether they hold such rows."""
    places = factor.nonzero().squeeze(1).tolist()
    for chunk in row_chunks(rows):
        start, stop = chunk.start, min(chunk.stop, rows.shape[0])
        low, high = bisect.bisect_left(places, start), bisect.bisect_left(places, stop)
        first, last = (places[low], places[high - 1] + 1) if low < high else (stop, stop)
        for begin, end, active in ((start, first, False), (first, last, True), (last, stop, False)):
            if begin < end:
                yield slice(begin, end), active


def _add_product(grad: Tensor, direction: Tensor, share: Tensor, result: Tensor) -> None:
    """``grad + direction * share`` into ``result`` of grad's type, computed in share's."""
    if grad.dtype == share.dtype:
        torch.addcmul(grad, direction, share, out=result)
    else:
        result.copy_(torch.addcmul(grad.to(share.dtype), direction.to(share.dtype), share))
