"""Reports on where examples stand in prompts: one model on several sets, and several models against each other."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from infosteer.core.demo_slots import SLOTS, ZERO_SHOT
from infosteer.errors import DataError
from infosteer.evaluation.asking import ask
from infosteer.evaluation.multiple import correct
from infosteer.evaluation.sets import EvalSet
from infosteer.methods.probes.demo_position import DemoPosition

_EXACT = 25  # pairs up to which all signs are counted; beyond, the normal approximation


def demo_slot_report(
    model: Any,
    tokenizer: Any,
    sets: Iterable[EvalSet],
    *,
    shown: Sequence[Mapping[str, Any]] = (),
    batch_size: int = 64,
    **settings: Any,
) -> dict[str, dict[str, float]]:
    """Set -> metric -> mean, of the probe ``demo_position`` with these settings.

    Args:
        shown: rows to draw the examples from; without them each set's own.
    """
    probe = DemoPosition(**settings)
    found = {one.name: ask(model, tokenizer, one, probe, shown=shown, batch_size=batch_size) for one in sets}
    return {name: {key: sum(v) / len(v) for key, v in scores.items()} for name, scores in found.items()}


def compare_slots(accuracies: Sequence[Mapping[str, float]]) -> list[dict[str, Any]]:
    """Every pair of slots over several models: mean difference, Wilcoxon's p, corrected (Holm, Benjamini-Hochberg).

    Args:
        accuracies: of each model, slot -> accuracy; ``zero_shot`` counts as a slot.

    Returns:
        Rows of ``slot, against, difference, n, effect, p_value, p_holm, p_bh``.

    Raises:
        DataError: no model, or models with different slots.

    Source: arXiv 2507.22887 (the tests).
    """
    slots = [slot for slot in (*SLOTS, ZERO_SHOT) if accuracies and slot in accuracies[0]]
    if not slots or any(set(one) != set(slots) for one in accuracies):
        raise DataError("Models are compared on the same slots.", got=[sorted(one) for one in accuracies][:4])
    rows: list[dict[str, Any]] = []
    for slot, against in itertools.combinations(slots, 2):
        differences = [one[slot] - one[against] for one in accuracies]
        p_value, effect = signed_rank(differences)
        rows.append(
            {"slot": slot, "against": against, "difference": sum(differences) / len(differences),
             "n": len(differences), "effect": effect, "p_value": p_value}
        )  # fmt: skip
    correct(rows, ["slots"] * len(rows))
    return rows


def signed_rank(differences: Sequence[float]) -> tuple[float, float]:
    """Wilcoxon's signed-rank test, two-sided: p, and the rank-biserial effect ``(W+ - W-) / (W+ + W-)``.

    Ties share their mean rank and zeros are left out. Up to 25 pairs p is exact (all 2^n signs, ties included); beyond
    that it is the normal approximation without continuity correction. Without any difference p is 1 and the effect 0.

    Source: Wilcoxon 1945; Kerby 2014 (the effect).
    """
    kept = sorted((d for d in differences if d != 0), key=abs)
    if not kept:
        return 1.0, 0.0
    ranks: list[int] = []  # twice the rank, so that shared ones are whole
    for _, group in itertools.groupby(range(len(kept)), key=lambda i: abs(kept[i])):
        places = list(group)
        ranks += [places[0] + places[-1] + 2] * len(places)
    plus, total = sum(r for r, d in zip(ranks, kept, strict=True) if d > 0), sum(ranks)
    effect = (2 * plus - total) / total
    if len(kept) > _EXACT:
        deviation = math.sqrt(sum(r * r for r in ranks)) / 2
        return math.erfc(abs(plus - total / 2) / deviation / math.sqrt(2)), effect
    ways = [1] + [0] * total  # sum of the ranks of the positive ones -> number of signs that give it
    for rank in ranks:
        for value in range(total, rank - 1, -1):
            ways[value] += ways[value - rank]
    far = abs(2 * plus - total)
    return sum(w for value, w in enumerate(ways) if abs(2 * value - total) >= far) / 2 ** len(kept), effect
