"""Selection of the smallest entries of each row, under one tie rule.

The rule, shared by every back end: exactly ``m`` entries of a row are chosen, in the order of
``torch.sort(stable=True)``; equal entries are taken lowest index first, ``-0.0`` equals ``0.0``, and NaN is larger than
everything else.

How the CPU gets there: ``ops.select_rows``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from infosteer.errors import ConfigError
from infosteer.ops.chunks import eager_on_cpu
from infosteer.ops.select_rows import BITS, smallest_rows, smallest_static

ORDERS = ("magnitude", "signed")


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
    if k.dtype not in BITS or k.dim() == 0:
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
    if not eager_on_cpu(k):
        return smallest_static(k, m, order)
    return smallest_rows(k.reshape(-1, width), m, order).view(*k.shape[:-1], m)
