"""Which arms are compared with which, and one metric of two arms: paired, tested, or why not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from infosteer.errors import ConfigError, RunError
from infosteer.evaluation.records import clipped
from infosteer.evaluation.statistics import (
    Comparison,
    Interval,
    compare,
    compare_macro,
    differences,
    summarise,
    summarise_macro,
)
from infosteer.evaluation.two_way import Array
from infosteer.inspection.comparison.read import RunScores
from infosteer.inspection.comparison.same import apart

BY_EXAMPLE, BY_SEED, STORED = "seed and example", "seed", "as stored"


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """An arm and what it is compared with."""

    one: RunScores
    arm: str
    reference: RunScores
    reference_arm: str

    @property
    def names(self) -> dict[str, str]:
        """Both as a row says it."""
        mine = {"run": self.one.name, "arm": self.arm}
        return {**mine, "reference": self.reference.name, "reference_arm": self.reference_arm}


@dataclass(frozen=True, kw_only=True, slots=True)
class Tables:
    """Scores of both sides over the same seeds: task -> seed -> scores."""

    left: Mapping[str, Mapping[int, Sequence[float]]]
    right: Mapping[str, Mapping[int, Sequence[float]]]

    @property
    def differences(self) -> list[Array]:
        """One table a task."""
        return differences(self.left, self.right)


def within(run: RunScores, baseline: str | None) -> list[Pair]:
    """Every arm of a run with its baseline.

    Raises: ConfigError for a baseline that is no arm; RunError for a run with a single arm.
    """
    if baseline is not None and baseline not in run.arms:
        raise ConfigError("the baseline is not one of the arms", got=baseline, expected=", ".join(run.arms))
    stored = {row["arm"]: row["baseline"] for row in (run.run.results or {}).get("comparisons", [])}
    first = baseline or run.run.baseline or run.arms[0]
    pairs = []
    for arm in run.arms:
        against = first if baseline is not None else stored.get(arm, first)
        if arm != against and against in run.means:
            pairs.append(Pair(one=run, arm=arm, reference=run, reference_arm=against))
    if not pairs:
        raise RunError(
            "The run has one arm, so nothing is compared.",
            where=run.run.path,
            got=", ".join(run.arms),
            fix="name a second run, or evaluate a second model into the same folder",
        )
    return pairs


def between(other: RunScores, reference: RunScores, notes: list[str]) -> list[Pair]:
    """Arms of one name; or, where one side has a single arm and none is shared, that one with all of the other."""
    shared = [(arm, arm) for arm in other.arms if arm in reference.arms]
    if not shared and len(other.arms) == len(reference.arms) == 1:
        shared = [(other.arms[0], reference.arms[0])]
        notes.append(f"{other.name}: its arm {other.arms[0]} is compared with {reference.arms[0]} of {reference.name}")
    elif not shared and reference.is_evaluation and len(reference.arms) == 1:
        shared = [(arm, reference.arms[0]) for arm in other.arms]
    elif not shared and other.is_evaluation and len(other.arms) == 1:
        shared = [(other.arms[0], arm) for arm in reference.arms]
    return [Pair(one=other, arm=a, reference=reference, reference_arm=b) for a, b in shared]


def metrics_of(pair: Pair, seeds: tuple[list[int], list[int]]) -> list[str]:
    """Metrics that both have in all these seeds."""
    left, right = pair.one.means[pair.arm], pair.reference.means[pair.reference_arm]
    return [
        metric
        for metric in left[seeds[0][0]]
        if all(metric in left[s] for s in seeds[0]) and all(metric in right[s] for s in seeds[1])
    ]


def seeds_of(pair: Pair, notes: list[str]) -> tuple[list[int], list[int]] | None:
    """Seeds of both sides, one to one; an evaluated model, which has none, meets every seed of the other side."""
    left, right = sorted(pair.one.means[pair.arm]), sorted(pair.reference.means[pair.reference_arm])
    common = [seed for seed in left if seed in right]
    if common:
        return common, common
    for mine, theirs, single in ((left, right, pair.one), (right, left, pair.reference)):
        if len(mine) == 1 and single.is_evaluation:
            name = pair.arm if single is pair.one else pair.reference_arm
            notes.append(f"{name} of {single.name} is one model: it is compared with every seed of the other side")
            return (mine * len(theirs), theirs) if single is pair.one else (theirs, mine * len(theirs))
    notes.append(f"{pair.arm}: no seed in common, so it is not compared")
    return None


def judge(
    pair: Pair, metric: str, seeds: tuple[list[int], list[int]], resamples: int
) -> tuple[dict[str, Any], Tables | None]:
    """One metric of a pair as a row, with the tables of its test; ``why`` is set where it cannot be paired."""
    row: dict[str, Any] = {**pair.names, "metric": metric, "n": len(seeds[0]), "why": None}
    why = apart(pair.reference, pair.reference_arm, pair.one, pair.arm, metric)
    by_example = all(
        metric in side.examples.get(arm, {}).get(seed, {})
        for side, arm, own in zip((pair.one, pair.reference), (pair.arm, pair.reference_arm), seeds, strict=True)
        for seed in own
    )
    tables = _tables(pair, [metric], seeds, examples=by_example)
    left, right = tables.left[metric], tables.right[metric]
    for prefix, side, own in (("", left, seeds[0]), ("reference_", right, seeds[1])):
        once = {seed: side[place] for place, seed in enumerate(own)}  # a model that meets several seeds counts once
        row |= _mean(prefix, summarise(once, resamples=resamples), metric)
    if why:
        return {**row, **_nothing(), "difference": None, "why": "; ".join(why)}, None
    row["paired_by"] = BY_EXAMPLE if by_example else BY_SEED
    if len(seeds[0]) == 1 and max(len(column) for column in left.values()) == 1:
        return {**row, **_nothing(), "difference": row["mean"] - row["reference_mean"], "paired_by": BY_SEED}, None
    return {**row, **_numbers(compare(left, right, resamples=resamples), metric)}, tables


def judge_macro(
    pair: Pair, group: str, measure: str, tasks: Sequence[str], seeds: tuple[list[int], list[int]], resamples: int
) -> tuple[dict[str, Any], Tables]:
    """The unweighted mean over tasks of a pair as a row."""
    tables = _tables(pair, [f"{task}/{measure}" for task in tasks], seeds, examples=True)
    left, right = (summarise_macro(side, resamples=resamples) for side in (tables.left, tables.right))
    row = {**pair.names, "group": group, "measure": measure, "tasks": list(tasks), "n": len(seeds[0]), "why": None}
    row |= _mean("", left, measure) | _mean("reference_", right, measure) | {"paired_by": BY_EXAMPLE}
    return {**row, **_numbers(compare_macro(tables.left, tables.right, resamples=resamples), measure)}, tables


def stored(pair: Pair, row: Mapping[str, Any], means: Mapping[Any, Mapping[str, Any]]) -> dict[str, Any]:
    """A comparison as results.json has it, where the scores of examples are not at hand."""
    found = {**pair.names, "metric": row["metric"], "why": None, "paired_by": STORED}
    for prefix, arm in (("", pair.arm), ("reference_", pair.reference_arm)):
        mean = means.get((arm, row["metric"]), {})
        found |= {f"{prefix}{key}": mean.get(key) for key in ("mean", "low", "high")}
        found[f"{prefix}interval"] = mean.get("interval")
    found["n"] = row.get("n") or means.get((pair.arm, row["metric"]), {}).get("n")
    if row.get("ranked") is False:
        found["why"] = str(row.get("reason"))
    found = {_SIDE.get(key, key): value for key, value in found.items()}
    names = ("difference", "low", "high", "p_value")
    more = {key: row.get(key) for key in ("test", "detectable", "p_holm", "p_bh", "family")}
    return {**found, **{name: row[name] for name in names}, **more, "examples": None}


_SIDE = {"low": "mean_low", "high": "mean_high", "reference_low": "reference_mean_low",
         "reference_high": "reference_mean_high"}  # fmt: skip


def _tables(pair: Pair, metrics: Sequence[str], seeds: tuple[list[int], list[int]], *, examples: bool) -> Tables:
    sides = []
    for run, arm, own in zip((pair.one, pair.reference), (pair.arm, pair.reference_arm), seeds, strict=True):
        scores = (run.examples if examples else run.means)[arm]
        sides.append({m: {place: scores[seed][m] for place, seed in enumerate(own)} for m in metrics})
    return Tables(left=sides[0], right=sides[1])


def _mean(prefix: str, found: Interval, metric: str) -> dict[str, Any]:
    low, high = clipped(metric, found.low, found.high, 0.0)
    ends = {f"{prefix}mean_low": low, f"{prefix}mean_high": high}
    return {f"{prefix}mean": found.mean, **ends, f"{prefix}interval": found.method}


def _numbers(found: Comparison, metric: str) -> dict[str, Any]:
    names = ("difference", "p_value", "test", "detectable", "examples")
    low, high = clipped(metric, found.low, found.high, -1.0)
    return {"low": low, "high": high, **{name: getattr(found, name) for name in names}}


def _nothing() -> dict[str, None]:
    return dict.fromkeys(("low", "high", "p_value", "test", "detectable", "examples", "paired_by"))
