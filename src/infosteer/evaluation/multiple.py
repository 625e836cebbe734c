"""p-values of many comparisons made at once, corrected for their number."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any, Literal

from infosteer.errors import ConfigError

METHODS = ("holm", "bh")


def adjust(p_values: Sequence[float], method: Literal["holm", "bh"] = "holm") -> list[float]:
    """Adjusted p-values, in the order given: reject where the adjusted value is at most the level.

    With the values sorted, ``p_(1) <= ... <= p_(m)``, and m their number:
        ``holm``: ``max over j <= i of min(1, (m - j + 1) p_(j))``; keeps the chance of any false claim at the level,
            whatever the dependence of the tests.
        ``bh``: ``min over j >= i of min(1, m / j p_(j))``; keeps the expected share of false claims among those made,
            for tests that are independent or positively dependent.

    Raises: ConfigError for an unknown method, and for a value that is not in [0, 1].

    Source: Holm 1979; Benjamini and Hochberg 1995, procedure (1).
    """
    if method not in METHODS:
        raise ConfigError("There is no such correction.", got=method, expected=" | ".join(METHODS))
    for p in p_values:
        if not (isinstance(p, int | float) and not isinstance(p, bool) and 0 <= p <= 1):
            raise ConfigError("A p-value lies between 0 and 1.", where="p_values", got=p)
    m = len(p_values)
    order = sorted(range(m), key=lambda index: p_values[index])
    adjusted = [math.nan] * m
    if method == "holm":
        highest = 0.0
        for place, index in enumerate(order):
            highest = max(highest, min(1.0, (m - place) * p_values[index]))
            adjusted[index] = highest
    else:
        lowest = 1.0
        for place in range(m, 0, -1):
            index = order[place - 1]
            lowest = min(lowest, m / place * p_values[index])
            adjusted[index] = lowest
    return adjusted


def correct(rows: Sequence[dict[str, Any]], families: Sequence[Hashable | None]) -> None:
    """Put ``p_holm`` and ``p_bh`` into rows with a ``p_value``, each corrected within its family.

    Args:
        families: of each row; None, or a ``p_value`` of None, leaves a row out: its corrected values are None.
    """
    members: dict[Hashable, list[dict[str, Any]]] = {}
    for row, family in zip(rows, families, strict=True):
        row["p_holm"] = row["p_bh"] = None
        if family is not None and row["p_value"] is not None:
            members.setdefault(family, []).append(row)
    for group in members.values():
        p_values = [row["p_value"] for row in group]
        for row, holm, bh in zip(group, adjust(p_values, "holm"), adjust(p_values, "bh"), strict=True):
            row["p_holm"], row["p_bh"] = holm, bh
