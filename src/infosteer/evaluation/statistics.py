"""Intervals and paired tests for scores measured on the same examples after training with several seeds.

Every score is a table X (S, E): S seeds by E examples, the same examples in every row. Both are samples: other seeds
and other examples would have given other numbers, so both are resampled, examples jointly for all seeds because an
example that is hard for one seed is hard for all; ``two_way`` has the formulas. With one seed only the examples are
resampled, which says nothing about other seeds.

The macro average of a group of tasks is the unweighted mean over its tasks; ``summarise_macro`` and ``compare_macro``
do for it what ``summarise`` and ``compare`` do for one task.

Symbols: S seeds, E examples, T tasks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from infosteer.errors import InfoSteerError
from infosteer.evaluation.power import detectable_of
from infosteer.evaluation.shares import sign_flip_p, wilson_of_mean
from infosteer.evaluation.student import t_sf2
from infosteer.evaluation.two_way import Array, bootstrap, grand_mean, variance

Scores = Mapping[int, Sequence[float]]  # seed -> score of every example
Test = Literal["mcnemar", "sign_flip", "two_way_t", "sign_flip_seeds"]
TESTS: dict[str, str] = {
    "mcnemar": "exact McNemar test (one seed, right or wrong)",
    "sign_flip": "sign-flip test over examples (one seed)",
    "two_way_t": "t test over seeds and examples, with the variance of the paired bootstrap",
    "sign_flip_seeds": "exact sign-flip test over seeds (all examples differ alike)",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A mean with its interval.

    Attributes:
        mean, low, high: in the units of the scores.
        n: number of seeds.
        examples: number of examples that every seed scored; of a macro average, of all its tasks together.
        examples_only: True when n = 1: the interval then covers the choice of examples and not the choice of seed.
        method: "wilson" for right and wrong answers of one seed, and where none vary; else "bootstrap".
    """

    mean: float
    low: float
    high: float
    n: int
    examples: int
    examples_only: bool
    method: Literal["wilson", "bootstrap"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Arm minus baseline over the seeds and examples that both have.

    Attributes:
        difference, low, high: in the units of the scores.
        p_value: two-sided, not corrected for other comparisons.
        test: where the p-value comes from, a key of ``TESTS``.
        detectable: the smallest true difference that this test finds at the level 0.05 in 80 of 100 such studies; None
            where the scores do not say.
    """

    difference: float
    low: float
    high: float
    p_value: float
    test: Test
    detectable: float | None
    n: int
    examples: int
    examples_only: bool


def summarise(scores: Scores, *, seed: int = 0, resamples: int = 10_000, level: float = 0.95) -> Interval:
    """Mean and interval of one arm's scores, given by seed.

    Right and wrong answers of one seed get Wilson's interval, and so do those of several seeds that are all right or
    all wrong, where a bootstrap would be empty (as if it were one seed); everything else the scaled bootstrap of
    ``two_way``. Examples that lack a score (NaN) in any seed are left out for all.

    Raises:
        InfoSteerError: no scores, or seeds with different numbers of examples.
    """
    return _summary([_complete(_table(scores, sorted(scores)))], seed, resamples, level)


def summarise_macro(
    tasks: Mapping[str, Scores], *, seed: int = 0, resamples: int = 10_000, level: float = 0.95
) -> Interval:
    """The unweighted mean over tasks, and its interval by resampling within tasks.

    Seeds are those that every task has. Where nothing varies, the limits come from the tasks' Wilson intervals.

    Raises: as ``summarise``; InfoSteerError where the tasks have no seed in common.
    """
    seeds = _common_seeds(list(tasks.values()))
    return _summary([_complete(_table(one, seeds)) for one in tasks.values()], seed, resamples, level)


def compare(
    arm: Scores, baseline: Scores, *, seed: int = 0, resamples: int = 10_000, level: float = 0.95
) -> Comparison:
    """Paired difference of two arms over their common seeds and examples, with interval and two-sided p-value.

    The interval is the bootstrap's of ``two_way`` for the table of differences. The p-value is, for one seed, the exact
    or Monte-Carlo sign-flip test over examples (for right/wrong scores McNemar's exact test); for several seeds, a t
    test with the same variance and degrees of freedom as the interval, so that both say the same. (An exact sign-flip
    test over S seeds cannot go below 2^(1 - S), 0.25 for three; ``sign_flip_p`` of the seeds' means gives it.)

    Raises:
        InfoSteerError: no seed in common, or different numbers of examples.
    """
    return _comparison(differences({"": arm}, {"": baseline}), seed, resamples, level)


def compare_macro(
    arm: Mapping[str, Scores],
    baseline: Mapping[str, Scores],
    *,
    seed: int = 0,
    resamples: int = 10_000,
    level: float = 0.95,
) -> Comparison:
    """Paired difference of two macro averages, over the tasks and seeds that both have all of.

    With one seed the test flips the signs of single examples, each weighted by 1 / (T E_t).

    Raises: as ``compare``.
    """
    return _comparison(differences(arm, baseline), seed, resamples, level)


def differences(arm: Mapping[str, Scores], baseline: Mapping[str, Scores]) -> list[Array]:
    """Tables of differences (S, E), one a task that both have, over the seeds that all of them have.

    Raises:
        InfoSteerError: no task or seed in common, different numbers of examples, or no example that all seeds scored.
    """
    tasks = [task for task in arm if task in baseline]
    if not tasks:
        raise InfoSteerError("the two arms have no task in common", got=f"{', '.join(arm)} and {', '.join(baseline)}")
    try:
        seeds = _common_seeds([scores for task in tasks for scores in (arm[task], baseline[task])])
    except InfoSteerError:
        raise InfoSteerError(
            "the two arms have no seed in common, so they cannot be paired",
            got=f"seeds {sorted(arm[tasks[0]])} and {sorted(baseline[tasks[0]])}",
        ) from None
    tables = []
    for task in tasks:
        left, right = _table(arm[task], seeds), _table(baseline[task], seeds)
        if left.shape != right.shape:
            raise InfoSteerError(
                "the two arms were scored on different numbers of examples",
                where=task or None,
                got=f"{left.shape[1]} and {right.shape[1]}",
                fix="evaluate both again on the same set",
            )
        tables.append(_complete(left - right))
    return tables


def _summary(tables: Sequence[Array], seed: int, resamples: int, level: float) -> Interval:
    single = len(tables[0]) == 1
    # A lone value is a measure of the whole set, not a right or wrong answer.
    binary = all(table.shape[1] > 1 and ((table == 0) | (table == 1)).all() for table in tables)
    method: Literal["wilson", "bootstrap"] = "bootstrap"
    if binary and ((single and len(tables) == 1) or variance(tables)[0] <= 0):
        method = "wilson"
        low, high = wilson_of_mean([(float(t.mean()) * t.shape[1], t.shape[1]) for t in tables], level)
    else:
        low, high = bootstrap(tables, seed=seed, resamples=resamples, level=level)
    return Interval(
        mean=grand_mean(tables),
        low=low,
        high=high,
        n=len(tables[0]),
        examples=sum(table.shape[1] for table in tables),
        examples_only=single,
        method=method,
    )


def _comparison(tables: Sequence[Array], seed: int, resamples: int, level: float) -> Comparison:
    low, high = bootstrap(tables, seed=seed, resamples=resamples, level=level)
    p_value, test = _tested(tables, seed, resamples)
    return Comparison(
        difference=grand_mean(tables),
        low=low,
        high=high,
        p_value=p_value,
        test=test,
        detectable=detectable_of(tables),
        n=len(tables[0]),
        examples=sum(table.shape[1] for table in tables),
        examples_only=len(tables[0]) == 1,
    )


def _tested(tables: Sequence[Array], seed: int, resamples: int) -> tuple[float, Test]:
    if len(tables[0]) == 1:
        units = np.concatenate([table[0] / table.shape[1] for table in tables])
        signs = len(tables) == 1 and bool(np.isin(tables[0], (-1, 0, 1)).all())
        return sign_flip_p(units, seed=seed, resamples=resamples), "mcnemar" if signs else "sign_flip"
    if not any(table.any() for table in tables):
        return 1.0, "two_way_t"
    var, df = variance(tables)
    if var <= 0:  # every seed and example differs by the same amount: only the count of seeds speaks
        means = np.mean([table.mean(axis=1) for table in tables], axis=0)
        return sign_flip_p(means), "sign_flip_seeds"
    return t_sf2(grand_mean(tables) / math.sqrt(var), df), "two_way_t"


def _common_seeds(scores: Sequence[Scores]) -> list[int]:
    if not scores:
        raise InfoSteerError("there are no scores to summarise")
    common = set(scores[0]).intersection(*scores[1:])
    if not common:
        raise InfoSteerError("the tasks have no seed in common")
    return sorted(common)


def _table(scores: Scores, seeds: Sequence[int]) -> Array:
    if not seeds:
        raise InfoSteerError("there are no scores to summarise")
    lengths = {seed: len(scores[seed]) for seed in seeds}
    if len(set(lengths.values())) > 1:
        raise InfoSteerError(
            "the seeds were scored on different numbers of examples",
            got=", ".join(f"seed {seed}: {length}" for seed, length in lengths.items()),
            fix="evaluate all seeds again on the same set",
        )
    return np.asarray([scores[seed] for seed in seeds], dtype=np.float64)


def _complete(table: Array) -> Array:
    """The columns without NaN: an example that could not be scored in one seed is compared in none."""
    kept = table[:, ~np.isnan(table).any(axis=0)]
    if not kept.shape[1]:
        raise InfoSteerError("no example has a score in every seed")
    return kept
