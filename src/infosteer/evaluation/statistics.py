"""Intervals and paired tests for scores measured on the same examples after training with several seeds.

Every score is a table X (S, E): S seeds by E examples, the same examples in every row. Both are samples: other seeds
and other examples would have given other numbers, so both are resampled, examples jointly for all seeds because an
example that is hard for one seed is hard for all.

A plain percentile bootstrap of three seeds is too narrow (its variance is short by (S - 1) / S, and its quantiles
ignore that three values say little about their spread), and resampling both ways counts the interaction of seed and
example more than once. So the resampled deviations are scaled to the unbiased variance of the mean

    var = max(A + C - R, A, C) / (S E),   A, C, R = mean squares of seeds, examples and their interaction,

and by t / z, where t has Satterthwaite's degrees of freedom, ``var^2 / sum (MS_i / (S E))^2 / df_i``. With one seed
only the examples are resampled, which says nothing about other seeds.

Symbols: S seeds, E examples, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from infosteer.errors import InfoSteerError

Array = npt.NDArray[np.float64]
_CHUNK = 4_000_000  # resampled indices held at a time


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A mean with its interval.

    Attributes:
        mean, low, high: in the units of the scores.
        n: number of seeds.
        examples: number of examples that every seed scored.
        examples_only: True when n = 1: the interval then covers the choice of examples and not the choice of seed.
    """

    mean: float
    low: float
    high: float
    n: int
    examples: int
    examples_only: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Arm minus baseline over the seeds and examples that both have; ``p_value`` is two-sided."""

    difference: float
    low: float
    high: float
    p_value: float
    n: int
    examples: int
    examples_only: bool


def summarise(
    scores: Mapping[int, Sequence[float]], *, seed: int = 0, resamples: int = 10_000, level: float = 0.95
) -> Interval:
    """Mean and bootstrap interval of one arm's scores, given by seed; see the module for the method.

    Examples that lack a score (NaN) in any seed are left out for all.

    Raises:
        InfoSteerError: no scores, or seeds with different numbers of examples.
    """
    table = _complete(_table(scores, sorted(scores)))
    low, high = _interval(table, seed, resamples, level)
    return Interval(
        mean=float(table.mean()),
        low=low,
        high=high,
        n=len(table),
        examples=table.shape[1],
        examples_only=len(table) == 1,
    )


def compare(
    arm: Mapping[int, Sequence[float]],
    baseline: Mapping[int, Sequence[float]],
    *,
    seed: int = 0,
    resamples: int = 10_000,
    level: float = 0.95,
) -> Comparison:
    """Paired difference of two arms over their common seeds and examples, with interval and two-sided p-value.

    The interval is that of ``summarise`` for the table of differences. The p-value is, for one seed, the exact or
    Monte-Carlo sign-flip test over examples (for right/wrong scores McNemar's exact test); for several seeds, a t test
    with the same variance and degrees of freedom as the interval, so that both say the same. (An exact sign-flip
    test over S seeds cannot go below 2^(1 - S), 0.25 for three; ``sign_flip_p`` of the seeds' means gives it.)

    Raises:
        InfoSteerError: no seed in common, or different numbers of examples.
    """
    seeds = sorted(set(arm) & set(baseline))
    if not seeds:
        raise InfoSteerError(
            "the two arms have no seed in common, so they cannot be paired",
            got=f"seeds {sorted(arm)} and {sorted(baseline)}",
        )
    left, right = _table(arm, seeds), _table(baseline, seeds)
    if left.shape != right.shape:
        raise InfoSteerError(
            "the two arms were scored on different numbers of examples",
            got=f"{left.shape[1]} and {right.shape[1]}",
            fix="evaluate both again on the same set",
        )
    table = _complete(left - right)
    low, high = _interval(table, seed, resamples, level)
    difference = float(table.mean())
    return Comparison(
        difference=difference,
        low=low,
        high=high,
        p_value=_p_value(table, seed, resamples),
        n=len(table),
        examples=table.shape[1],
        examples_only=len(table) == 1,
    )


def sign_flip_p(units: npt.ArrayLike, *, seed: int = 0, resamples: int = 10_000) -> float:
    """Two-sided p-value of ``mean(units) = 0`` when each unit's sign was equally likely to be the other one.

    ``p = P(|sum s_i u_i| >= |sum u_i|)`` over independent signs s: exact by the binomial law when all non-zero units
    have one size (McNemar's exact test), by enumeration up to 14 non-zero units, else by Monte Carlo with one added to
    both counts, which keeps the test valid.
    """
    values = np.asarray(units, dtype=np.float64)
    values = values[values != 0]
    if not len(values):
        return 1.0
    observed = abs(values.sum())
    sizes = np.abs(values)
    slack = 1e-12 * sizes.sum()  # equal sums may differ in the last bit
    if np.allclose(sizes, sizes[0], rtol=1e-12, atol=0):
        fewer = min(int((values > 0).sum()), int((values < 0).sum()))
        tail = sum(math.comb(len(values), k) for k in range(fewer + 1))
        return min(1.0, float(2 * tail / 2 ** len(values)))
    if len(values) <= 14:
        signs = 1 - 2 * ((np.arange(2 ** len(values))[:, None] >> np.arange(len(values))) & 1)
        return float(np.mean(np.abs(signs @ values) >= observed - slack))
    rng = np.random.default_rng(seed)
    beyond, rows = 0, max(1, _CHUNK // len(values))
    for start in range(0, resamples, rows):
        flips = rng.integers(0, 2, size=(min(rows, resamples - start), len(values)), dtype=np.int8)
        sums = values.sum() - 2 * (flips @ values)
        beyond += int((np.abs(sums) >= observed - slack).sum())
    return (beyond + 1) / (resamples + 1)


def wilson(successes: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion ``successes / n``; never empty at 0 or 1, unlike a bootstrap."""
    if n < 1 or not 0 <= successes <= n:
        raise InfoSteerError("a proportion needs 0 <= successes <= n and n >= 1", got=f"{successes} of {n}")
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def t_sf2(t: float, df: int) -> float:
    """Two-sided tail of Student's t with a whole number of degrees of freedom, by its finite series.

    With theta = atan(t / sqrt(df)): ``P(|T| <= t)`` is ``2/pi (theta + sin theta (cos theta + 2/3 cos^3 theta + ...))``
    for odd df and ``sin theta (1 + 1/2 cos^2 theta + 3/8 cos^4 theta + ...)`` for even df. Above 1,000 degrees the
    normal law is used; it differs by less than 0.001.
    """
    if df > 1000:
        return 2 * NormalDist().cdf(-abs(t))
    theta = math.atan2(abs(t), math.sqrt(df))
    sin, cos = math.sin(theta), math.cos(theta)
    odd = df % 2
    term = total = (cos if df > 1 else 0.0) if odd else 1.0
    for k in range(3 if odd else 2, df - 1, 2):
        term *= cos * cos * (k - 1) / k
        total += term
    inside = 2 / math.pi * (theta + sin * total) if odd else sin * total
    return min(1.0, max(0.0, 1 - inside))


def t_quantile(level: float, df: int) -> float:
    """t with ``P(|T| <= t) = level``, by bisection."""
    low, high = 0.0, 1.0
    while t_sf2(high, df) > 1 - level:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if t_sf2(middle, df) > 1 - level else (low, middle)
    return high


def _table(scores: Mapping[int, Sequence[float]], seeds: Sequence[int]) -> Array:
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


def _variance(table: Array) -> tuple[float, int]:
    """Unbiased variance of the grand mean of X (S, E) over seeds and examples, and its degrees of freedom."""
    S, E = table.shape
    if S * E == 1:
        return 0.0, 1
    grand = table.mean()
    rows, columns = table.mean(axis=1) - grand, table.mean(axis=0) - grand
    if S == 1:
        return float((columns**2).sum() / (E - 1) / E), E - 1
    if E == 1:
        return float((rows**2).sum() / (S - 1) / S), S - 1
    seeds = float(E * (rows**2).sum() / (S - 1))
    examples = float(S * (columns**2).sum() / (E - 1))
    rest = float(((table - grand - rows[:, None] - columns) ** 2).sum() / ((S - 1) * (E - 1)))
    total = max(seeds + examples - rest, seeds, examples)
    if total <= 0:
        return 0.0, S - 1
    spread = seeds**2 / (S - 1) + examples**2 / (E - 1) + rest**2 / ((S - 1) * (E - 1))
    df = int(total**2 / spread)
    return total / (S * E), max(S - 1 if seeds >= examples else 1, df)


def _interval(table: Array, seed: int, resamples: int, level: float) -> tuple[float, float]:
    mean = float(table.mean())
    variance, df = _variance(table)
    if variance <= 0:
        return mean, mean
    rng = np.random.default_rng(seed)
    deviations = _resampled(table.mean(axis=0), rng, resamples) - mean
    if len(table) > 1:
        deviations += _resampled(table.mean(axis=1), rng, resamples) - mean
    spread = float(deviations.std())
    if spread <= 0:
        return mean, mean
    widen = math.sqrt(variance) / spread * t_quantile(level, df) / NormalDist().inv_cdf((1 + level) / 2)
    low, high = np.quantile(deviations, [(1 - level) / 2, (1 + level) / 2])
    return mean + float(low) * widen, mean + float(high) * widen


def _resampled(values: Array, rng: np.random.Generator, resamples: int) -> Array:
    """Means (R,) of ``values`` (n,) drawn with replacement."""
    n = len(values)
    means = np.empty(resamples)
    rows = max(1, _CHUNK // n)
    for start in range(0, resamples, rows):
        stop = min(start + rows, resamples)
        means[start:stop] = values[rng.integers(0, n, size=(stop - start, n), dtype=np.int32)].mean(axis=1)
    return means


def _p_value(table: Array, seed: int, resamples: int) -> float:
    if len(table) == 1:
        return sign_flip_p(table[0], seed=seed, resamples=resamples)
    if not table.any():
        return 1.0
    variance, df = _variance(table)
    mean = float(table.mean())
    if variance <= 0:  # every seed and example differs by the same amount: only the count of seeds speaks
        return sign_flip_p(table.mean(axis=1))
    return t_sf2(mean / math.sqrt(variance), df)
