"""From scores by arm and seed to the ``summary`` and ``comparisons`` of results.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from infosteer.errors import ConfigError
from infosteer.evaluation.measures import is_bounded, split
from infosteer.evaluation.statistics import compare, summarise

Scores = Mapping[str, Mapping[int, Mapping[str, Sequence[float]]]]


def analyse(
    scores: Scores, *, baseline: str | None = None, seed: int = 0, resamples: int = 10_000
) -> dict[str, list[dict[str, Any]]]:
    """Intervals of every arm and metric, and every arm's paired comparison with the baseline arm.

    Args:
        scores: arm -> seed -> metric (``<set>/<measure>``) -> scores of the examples, in the order of the set. A
            measure without examples is given as one value, ``[value]``; its interval then resamples seeds only.
        baseline: the arm that the others are compared with; None: "plain" if there is one, else the first.
        seed, resamples: of the bootstrap.

    Returns:
        ``{"summary": [{"arm", "metric", "mean", "low", "high", "n", "interval"}], "comparisons": [{"arm", "baseline",
        "metric", "difference", "low", "high", "p_value", "test", "n", "detectable"}], "notes": [{"note"}]}``, n being
        the number of seeds, interval, test and detectable as ``Interval`` and ``Comparison`` have them. The notes say
        what a reader has to know: arms with one seed, whose intervals cover the examples only, and arms without a seed
        in common with the baseline, which are not compared.

    Raises:
        ConfigError: ``baseline`` is not one of the arms.
        InfoSteerError: arms or seeds were scored on different numbers of examples.
    """
    arms = [arm for arm in scores if scores[arm]]
    if baseline is None:
        baseline = "plain" if "plain" in arms else next(iter(arms), None)
    elif baseline not in arms:
        raise ConfigError("the baseline is not one of the arms", got=baseline, expected=", ".join(arms))
    summary, comparisons, notes = [], [], []
    for arm in arms:
        for metric in _metrics(scores[arm]):
            table = {s: row[metric] for s, row in scores[arm].items() if metric in row}
            found = summarise(table, seed=seed, resamples=resamples)
            low, high = clipped(metric, found.low, found.high, 0.0)
            summary.append({
                "arm": arm, "metric": metric, "mean": found.mean, "low": low, "high": high, "n": found.n,
                "interval": found.method,
            })  # fmt: skip
        if len(scores[arm]) == 1:
            notes.append({"note": f"{arm}: one seed, so its intervals cover the choice of examples and not of seeds"})
    for arm in arms:
        if arm == baseline or baseline is None:
            continue
        if not set(scores[arm]) & set(scores[baseline]):
            notes.append({"note": f"{arm}: no seed in common with {baseline}, so the two are not compared"})
            continue
        for metric in _metrics(scores[arm]):
            left = {s: row[metric] for s, row in scores[arm].items() if metric in row}
            right = {s: row[metric] for s, row in scores[baseline].items() if metric in row}
            if not set(left) & set(right):
                continue
            pair = compare(left, right, seed=seed, resamples=resamples)
            low, high = clipped(metric, pair.low, pair.high, -1.0)
            comparisons.append(
                {
                    "arm": arm,
                    "baseline": baseline,
                    "metric": metric,
                    "difference": pair.difference,
                    "low": low,
                    "high": high,
                    "p_value": pair.p_value,
                    "test": pair.test,
                    "n": pair.n,
                    "detectable": pair.detectable,
                }
            )
    return {"summary": summary, "comparisons": comparisons, "notes": notes}


def _metrics(rows: Mapping[int, Mapping[str, Sequence[float]]]) -> list[str]:
    return list(dict.fromkeys(metric for row in rows.values() for metric in row))


def clipped(metric: str, low: float, high: float, floor: float) -> tuple[float, float]:
    """The part of an interval that the measure can take; with two seeds it can be wider than all there is."""
    return (max(low, floor), min(high, 1.0)) if is_bounded(split(metric)[1]) else (low, high)
