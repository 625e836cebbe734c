"""Rows through ``rows.c``: what ``ops.cpu_rows`` does with float32 and bfloat16, in one pass over memory.

Shape letters: R rows, M memories, m overwritten entries.
"""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from torch import Tensor

from infosteer.ops.native.build import native_code
from infosteer.ops.rows import Edit, entries_like

TYPES = {torch.float32: 0, torch.bfloat16: 1}
_NO_MEMORY, _NEEDS_CARE = 1, 2
_ENTRIES_A_THREAD = 1 << 15


def fits(*rows: Tensor) -> bool:
    """Whether these rows (R, M), of one shape and type, lie where native code can read them: plain, dense tensors in
    the memory of the CPU, not too wide."""
    first = rows[0]
    return first.dtype in TYPES and all(
        type(some) in (Tensor, torch.nn.Parameter)
        and some.dtype == first.dtype
        and some.shape == first.shape
        and some.device.type == "cpu"
        and some.layout == torch.strided
        and not (some.is_neg() or some._is_zerotensor() or torch._is_functional_tensor(some))
        and 0 < some.shape[1] < 1 << 29
        for some in rows
    )


def edit_rows(
    rows: Tensor, means: Tensor, m: int, order: str, alpha: float, reference: str, strength: float, named: str
) -> Edit:
    """``cpu_rows.edit_rows`` for ``0 < m < M``.

    Args:
        means: (R, 1) as ``mean_of`` gives them.
        named: how the edit says where: ``"places"`` or ``"mask"``, see ``Edit``; or ``"packed"``, places with signs
            inside as ``pack_entries`` has them.
    """
    rows = rows.detach().contiguous()
    count, width = rows.shape
    targets = (alpha * means).to(rows.dtype).float().contiguous()
    out = torch.empty_like(rows)
    kind = {"places": torch.int32, "mask": torch.int8, "packed": entries_like(rows, 0).dtype}[named]
    where = torch.empty((count, width if named == "mask" else m), dtype=kind, device=rows.device)
    signs = torch.empty(count, m, dtype=torch.int8, device=rows.device) if named == "places" else None
    odd = ctypes.c_int(1)
    _call(
        "edit_rows", TYPES[rows.dtype], _at(rows), _at(out), _at(targets), count, width, m, order == "magnitude",
        reference == "magnitude_mean", strength, _form(where, signs), _at(None if named == "mask" else where),
        _at(signs), _at(where if named == "mask" else None), ctypes.addressof(odd), _threads(rows),
    )  # fmt: skip
    return Edit(out, where, signs, bool(odd.value))


def gradient_rows(
    grad: Tensor,
    y: Tensor | None,
    edit: Edit | None,
    factor: Tensor | None,
    spread: float | None,
    strength: float,
    signed: bool,
) -> Tensor | None:
    """The gradient (R, M) of rows from that of their edited form y: the entropy's, times factor (R,), is added, and
    then it goes back through the edit, if there is one. None where a row's entropy needs more care than float32 gives.
    """
    grad = grad.detach().contiguous()
    count, width = grad.shape
    y = None if y is None else y.detach().contiguous()
    where = None if edit is None else edit.where.contiguous()
    signs = None if edit is None or edit.signs is None else edit.signs.contiguous()
    factor = None if factor is None else factor.float().contiguous()
    mask = where if where is not None and where.dtype == torch.int8 else None
    entries = where if mask is None else None
    result = torch.empty_like(grad)
    status = _call(
        "gradient_rows", TYPES[grad.dtype], _at(grad), _at(y), _at(factor), _form(entries, signs), _at(entries),
        _at(signs), _at(mask), _at(result), count, width, 0 if entries is None else entries.shape[1],
        spread is not None, signed, spread or 0.0, strength, _threads(grad),
    )  # fmt: skip
    return None if status == _NEEDS_CARE else result


def _form(entries: Tensor | None, signs: Tensor | None) -> int:
    """How entries are named, in the words of ``rows.c``."""
    return 0 if entries is None or signs is not None else entries.dtype.itemsize


def _threads(rows: Tensor) -> int:
    """No more threads than there is work for: a token that is decoded does not wake the others."""
    return max(1, min(torch.get_num_threads(), rows.shape[0], rows.numel() // _ENTRIES_A_THREAD))


def _at(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _call(name: str, *arguments: Any) -> int:
    loaded = native_code()
    assert not isinstance(loaded, str), "callers ask first whether there is a library"
    status: int = getattr(loaded, name)(*arguments)
    if status == _NO_MEMORY:
        raise MemoryError(f"no memory for a few rows in infosteer's {name}")
    return status
