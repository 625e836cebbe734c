"""Whether rows on the CPU go to native code: asked for, compiled, of a type that it reads, and proven here.

Before its first use in a process the native code does awkward rows and must give what PyTorch gives: the edit bit by
bit, gradients to a tolerance.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from infosteer.ops import cpu_rows
from infosteer.ops.backends import native_wanted, tried
from infosteer.ops.native import rows as native
from infosteer.ops.rows import Edit, mean_of
from infosteer.ops.trials import TOLERANCES, awkward_rows, close

_WIDTH = 203  # no multiple of anything that a register holds


def takes(*rows: Tensor) -> bool:
    """Whether these rows (R, M), of one shape, go to native code.

    Raises:
        ConfigError: it is asked for by name, and there is none.
    """
    return native.fits(*rows) and native_wanted() and tried(("native", rows[0].dtype), "native", _trial(rows[0].dtype))


def _trial(dtype: torch.dtype) -> Callable[[], str | None]:
    def trial() -> str | None:
        with torch.no_grad():
            return _difference(awkward_rows(_WIDTH, dtype, torch.device("cpu")))

    return trial


def _difference(rows: Tensor) -> str | None:
    """The first thing that differs, as a sentence."""
    grad, factor = rows.flip(0).contiguous(), torch.linspace(-1, 1, len(rows))
    ways = itertools.product((1, 30, 150), ("magnitude", "signed"), ("magnitude_mean", "mean"), (1.0, 0.3))
    for m, order, reference, strength in ways:
        expected = cpu_rows.edit_rows(rows, m, order, 0.9, reference, strength)
        named = "mask" if expected.signs is None else "places"
        means = mean_of(rows, reference)
        got, packed = (
            native.edit_rows(rows, means, m, order, 0.9, reference, strength, way) for way in (named, "packed")
        )
        if not _same(expected, got) or not torch.equal(expected.out.nan_to_num(1.5), packed.out.nan_to_num(1.5)):
            return "its edit differs from PyTorch's"
        signed = reference == "magnitude_mean"
        for spread, edit in itertools.product((None, 0.9 / _WIDTH), (got, packed)):
            want = cpu_rows.edit_gradient(grad, expected, spread, strength, signed)
            found = native.gradient_rows(grad, got.out, edit, None, spread, strength, signed and spread is not None)
            if found is None or not close(want, found, TOLERANCES[rows.dtype]):
                return "its gradient differs from PyTorch's"
    ordinary = slice(0, 5)  # without rows that native code leaves to PyTorch
    want_entropy = cpu_rows.add_entropy_gradient(rows[ordinary], grad[3:], factor[ordinary])
    found = native.gradient_rows(grad[3:], rows[ordinary], None, factor[ordinary], None, 1.0, False)
    if (want_entropy is None) != (found is None):
        return "it does other rows than PyTorch"
    if want_entropy is not None and found is not None and not close(want_entropy, found, TOLERANCES[rows.dtype]):
        return "its entropy gradient differs from PyTorch's"
    return None


def _same(expected: Edit, got: Edit) -> bool:
    """Whether two edits are the same: bits of what was written, places, signs."""
    if not torch.equal(expected.out.nan_to_num(1.5), got.out.nan_to_num(1.5)):
        return False
    if expected.signs is None or got.signs is None:
        return torch.equal(expected.where, got.where) and expected.odd == got.odd
    order = expected.where.sort(dim=1).indices
    return torch.equal(expected.where.gather(1, order), got.where) and torch.equal(
        expected.signs.gather(1, order), got.signs
    )
