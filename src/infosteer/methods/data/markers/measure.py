"""How well markers work: told rightly, copied when given, lengths kept, and who gains, the rare or the frequent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

Written = Mapping[str, str] | None  # a list as read_list gives it


def marker_accuracy(written: Sequence[Written], right: Sequence[Mapping[str, str]]) -> dict[str, float]:
    """Category -> share of the rows that have it whose own list says the right value; no list counts as wrong."""
    hits: dict[str, list[bool]] = {}
    for own, wanted in zip(written, right, strict=True):
        for category, value in wanted.items():
            hits.setdefault(category, []).append((own or {}).get(category) == value)
    return {category: sum(values) / len(values) for category, values in hits.items()}


def copy_rate(given: Sequence[Mapping[str, str]], written: Sequence[Written]) -> float:
    """Share of the markers in the prompts that the model's own lists repeat; NaN where none was given."""
    hits = [
        (own or {}).get(category) == value
        for asked, own in zip(given, written, strict=True)
        for category, value in asked.items()
    ]
    return sum(hits) / len(hits) if hits else float("nan")


def length_violations(
    lengths: Sequence[int], wanted: Sequence[int], *, tolerance: int = 0, at_most: bool = False
) -> float:
    """Share of answers whose length is off by more than ``tolerance``; with ``at_most`` only those too long."""
    off = [length - aim if at_most else abs(length - aim) for length, aim in zip(lengths, wanted, strict=True)]
    return sum(distance > tolerance for distance in off) / len(off)


def by_frequency(
    scores: Sequence[float], values: Sequence[str], trained: Sequence[str], *, rare: float = 0.05
) -> dict[str, float]:
    """Mean score of the rows whose value makes up less than ``rare`` of the training rows, and of the others.

    Args:
        scores, values: of the evaluation rows.
        trained: the value of every training row.
    """
    counts = Counter(trained)
    parts: dict[str, list[float]] = {"rare": [], "frequent": []}
    for score, value in zip(scores, values, strict=True):
        parts["rare" if counts[value] < rare * len(trained) else "frequent"].append(score)
    return {name: sum(part) / len(part) for name, part in parts.items() if part}
