"""The final rows of a sweep judged: means, paired comparisons, the ceiling, correction for their number, and power."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from infosteer.evaluation.measures import is_share, split
from infosteer.experiments.results import scores_of
from infosteer.experiments.sweep.cells import canonical, shared
from infosteer.experiments.sweep.plan import Plan, Row

POINT = 0.01

Scores = dict[str, dict[int, dict[str, list[float]]]]  # arm -> seed -> metric -> score of each example


def judge(plan: Plan, finished: Sequence[tuple[Row, Mapping[str, Any]]], resamples: int) -> dict[str, list[Any]]:
    """Summary, comparisons and notes of finished final rows.

    Rows are compared with the baseline's row whose cell is otherwise the same. A comparison has, beyond what a run's
    has: ``ranked`` (false, with ``reason``, where the baseline is at the ceiling), ``p_holm`` and ``p_bh`` (corrected
    within ``family``: the primary metrics, or else all comparisons of one measure), ``detectable`` (the smallest
    difference found in 80 of 100 such comparisons) and, for shares, ``seeds_for_one_point``.
    """
    from infosteer.evaluation import analyse

    groups: dict[str, list[tuple[Row, Mapping[str, Any]]]] = {}
    for row, outcome in finished:
        groups.setdefault(canonical(shared(row.cell)) if plan.sweep.tune is None else "", []).append((row, outcome))
    summary: list[Any] = []
    comparisons: list[Any] = []
    notes: list[str] = []
    for rows in groups.values():
        baseline = plan.baseline if plan.sweep.tune else plan.baseline_of(rows[0][0].cell)
        names = dict.fromkeys([baseline, *(row.name for row, _ in rows)])
        scores = scores_of(names, [outcome for _, outcome in rows])
        judged = analyse(scores, baseline=baseline if baseline in scores else None, resamples=resamples)
        summary += judged["summary"]
        if len(plan.recipe.seeds) > 1:  # with one, a line for every row would say the same
            notes += [note["note"] for note in judged["notes"]]
        if baseline not in scores:
            notes.append(f"{baseline}: not finished, so nothing is compared with it")
            continue
        means = {row["metric"]: row["mean"] for row in judged["summary"] if row["arm"] == baseline}
        for comparison in judged["comparisons"]:
            limit = _at_ceiling(plan, comparison["metric"], means)
            ranked = {"ranked": limit is None} | ({"reason": limit} if limit else {})
            comparisons.append({**comparison, **ranked, **_seeds_needed(scores, comparison)})
    _correct(plan, comparisons)
    if finished and len(plan.recipe.seeds) == 1:
        notes.append("one seed: intervals cover the choice of examples, not of the seed")
    return {
        "summary": summary,
        "comparisons": comparisons,
        "notes": list(dict.fromkeys([*notes, *_count(comparisons), *_reach(comparisons)])),
    }


def _at_ceiling(plan: Plan, metric: str, means: Mapping[str, float]) -> str | None:
    points = plan.sweep.ceiling
    if points is None or not is_share(split(metric)[1]):
        return None
    mean = 100 * means[metric]
    if mean <= 100 - points:
        return None
    return f"the baseline is at {mean:.1f} %, within {points:g} points of the ceiling"


def _seeds_needed(scores: Scores, comparison: Mapping[str, Any]) -> dict[str, int | None]:
    """``seeds_for_one_point`` of a share."""
    from infosteer.evaluation.power import components, seeds_for
    from infosteer.evaluation.statistics import differences

    arm, baseline, metric = (comparison[key] for key in ("arm", "baseline", "metric"))
    if not is_share(split(metric)[1]):
        return {}
    if comparison["n"] < 2 or comparison["detectable"] is None:
        return {"seeds_for_one_point": None}
    left, right = (
        {"": {seed: row[metric] for seed, row in scores[name].items() if metric in row}} for name in (arm, baseline)
    )
    return {"seeds_for_one_point": seeds_for(components(differences(left, right)[0]), POINT)}


def _correct(plan: Plan, comparisons: Sequence[dict[str, Any]]) -> None:
    """Put families, and p-values corrected within them, into the comparisons; those not ranked count for none."""
    from infosteer.evaluation.multiple import correct

    for comparison in comparisons:
        metric = comparison["metric"]
        comparison["family"] = "primary" if metric in plan.sweep.primaries else split(metric)[1]
    correct(comparisons, [row["family"] if row["ranked"] else None for row in comparisons])


def _count(comparisons: Sequence[Mapping[str, Any]]) -> list[str]:
    counts: dict[str, int] = {}
    for comparison in comparisons:
        if comparison["ranked"]:
            counts[comparison["family"]] = counts.get(comparison["family"], 0) + 1
    if not counts:
        return []
    shown = ", ".join(f"{family} {count}" for family, count in counts.items())
    return [f"Holm and Benjamini-Hochberg corrections are over the ranked comparisons of a family: {shown}"]


def _reach(comparisons: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the primary comparisons of shares could have found."""
    notes = []
    for row in comparisons:
        if row["family"] != "primary" or row["detectable"] is None or "seeds_for_one_point" not in row or row["n"] < 2:
            continue
        seeds = row["seeds_for_one_point"]
        needed = f"one point needs {seeds} seeds" if seeds else "no number of seeds finds one point on so few examples"
        notes.append(
            f"{row['arm']}, {row['metric']}: {row['n']} seeds find {100 * row['detectable']:.1f} points in 80 of 100 "
            f"studies; {needed}"
        )
    return notes
