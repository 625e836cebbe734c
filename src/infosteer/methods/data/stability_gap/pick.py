"""Choosing documents: a budget met to one document, ranks, and what is new against what was chosen."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from infosteer.core.data import Row
from infosteer.methods.data.stability_gap.scorers import words


def text_of(row: Row) -> str:
    """All text of a row, prompts included."""
    sides = [row["text"]] if "text" in row else [row.get("prompt", ""), row.get("completion", "")]
    parts = [side if isinstance(side, list) else [side] for side in row.get("messages", sides)]
    return "".join(p if isinstance(p, str) else str(p["content"]) for part in parts for p in part)


def within(sizes: Sequence[int], order: Sequence[int], budget: float) -> list[int]:
    """The first places of ``order`` whose sizes come nearest to the budget, which is met to half a document."""
    taken, reached = [], 0.0
    for place in order:
        if reached + sizes[place] / 2 > budget:
            break
        taken.append(place)
        reached += sizes[place]
    return taken


def distinct(texts: Sequence[str], least: int) -> list[int]:
    """Places of texts of at least so many words that no text before them repeats, case and spaces aside."""
    seen, kept = set(), []
    for place, text in enumerate(texts):
        found = tuple(words(text))
        if len(found) >= least and found not in seen:
            seen.add(found)
            kept.append(place)
    return kept


def diverse(texts: Sequence[str], order: Sequence[int], most: float) -> list[int]:
    """The order without texts that share more than ``most`` of their words (Jaccard) with one before them.

    Those left out follow at the end, so that a budget can still be met.
    """
    chosen: list[frozenset[str]] = []
    kept, left = [], []
    for place in order:
        own = frozenset(words(texts[place]))
        near = any(len(own & other) > most * len(own | other) for other in chosen)
        if near:
            left.append(place)
        else:
            kept.append(place)
            chosen.append(own)
    return kept + left


class Rounds:
    """Rows of a source in random order, all of them before any comes again."""

    def __init__(self, rows: Sequence[Row], draw: random.Random) -> None:
        self._rows, self._draw = rows, draw
        self._coming: Iterator[Row] = iter(())

    def take(self, budget: float) -> list[Row]:
        """Rows whose words come nearest to the budget."""
        taken: list[Row] = []
        reached = 0.0
        while reached < budget:
            row = next(self._coming, None)
            if row is None:
                self._coming = iter(self._draw.sample(self._rows, len(self._rows)))
                continue
            size = max(len(words(text_of(row))), 1)
            if reached + size / 2 > budget:
                break
            taken.append(dict(row))
            reached += size
        return taken
