"""The mean of tables whose rows are seeds and whose columns are examples: its variance, and its bootstrap interval.

A score is a list of tables X_t (S, E_t), t = 1..T, one a task; with one task it is a plain score, with several the
macro average: the unweighted mean over tasks of the means of their tables. Tasks are taken as given; seeds and
examples are samples, the seeds the same ones in every table, the examples each task's own.

With w = 1/T the variance of the mean M is estimated without bias by

    var = a + sum_t (c_t - r_t), at least a and at least sum_t c_t, where
    a   = sum_s (m_s - M)^2 / ((S - 1) S),           m_s the macro average of seed s
    c_t = w^2 sum_e (x_te - M_t)^2 / ((E_t - 1) E_t), x_te the mean of example e over seeds
    r_t = w^2 MS_t / (S E_t),                         MS_t the mean square of seed x example in table t

and its degrees of freedom by Satterthwaite's ``var^2 / (a^2 / (S - 1) + sum c_t^2 / (E_t - 1) + sum r_t^2 / ((S - 1)
(E_t - 1)))``. With one seed var = sum c_t: it says nothing about other seeds.

A plain percentile bootstrap of three seeds is too narrow (its variance is short by (S - 1) / S, and its quantiles
ignore that three values say little about their spread), and resampling both ways counts the interaction of seed and
example more than once. So seeds are resampled for all tasks together and examples within each task, and the deviations
are scaled to var and by t / z, t being Student's quantile with the degrees of freedom above.

Symbols: S seeds, E examples, T tasks, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from infosteer.evaluation.student import t_quantile

Array = npt.NDArray[np.float64]
_CHUNK = 4_000_000  # resampled indices held at a time


def grand_mean(tables: Sequence[Array]) -> float:
    """The unweighted mean over tasks of the mean of each table."""
    return math.fsum(float(table.mean()) for table in tables) / len(tables)


def variance(tables: Sequence[Array]) -> tuple[float, int]:
    """Variance of the grand mean and its degrees of freedom; (0, ...) where nothing varies."""
    S, w = len(tables[0]), 1 / len(tables)
    centre = [table.mean() for table in tables]
    examples, rests, spread = 0.0, 0.0, 0.0
    for table, mean in zip(tables, centre, strict=True):
        E = table.shape[1]
        if E == 1:
            continue
        columns = table.mean(axis=0) - mean
        c = float(w * w * (columns**2).sum() / ((E - 1) * E))
        examples += c
        spread += c**2 / (E - 1)
        if S > 1:
            rest = table - table.mean(axis=1, keepdims=True) - columns
            r = float(w * w * (rest**2).sum() / ((S - 1) * (E - 1) * S * E))
            rests += r
            spread += r**2 / ((S - 1) * (E - 1))
    seeds = 0.0
    if S > 1:
        seeds = float(((_of_seeds(tables) - w * math.fsum(centre)) ** 2).sum() / ((S - 1) * S))
        spread += seeds**2 / (S - 1)
    total = max(seeds + examples - rests, seeds, examples)
    least = max(1, S - 1) if seeds >= examples else 1
    if total <= 0 or spread <= 0:
        return 0.0, max(1, S - 1)
    return total, max(least, int(total**2 / spread * (1 + 1e-12)))


def bootstrap(tables: Sequence[Array], *, seed: int, resamples: int, level: float) -> tuple[float, float]:
    """The interval of the grand mean; empty where nothing varies."""
    mean = grand_mean(tables)
    var, df = variance(tables)
    if var <= 0:
        return mean, mean
    rng = np.random.default_rng(seed)
    deviations = np.zeros(resamples)
    for table in tables:
        deviations += (_resampled(table.mean(axis=0), rng, resamples) - float(table.mean())) / len(tables)
    if len(tables[0]) > 1:
        deviations += _resampled(_of_seeds(tables), rng, resamples) - mean
    spread = float(deviations.std())
    if spread <= 0:
        return mean, mean
    widen = math.sqrt(var) / spread * t_quantile(level, df) / NormalDist().inv_cdf((1 + level) / 2)
    low, high = np.quantile(deviations, [(1 - level) / 2, (1 + level) / 2])
    return mean + float(low) * widen, mean + float(high) * widen


def _of_seeds(tables: Sequence[Array]) -> Array:
    """The macro average of each seed (S,)."""
    means: Array = np.mean([table.mean(axis=1) for table in tables], axis=0)
    return means


def _resampled(values: Array, rng: np.random.Generator, resamples: int) -> Array:
    """Means (R,) of ``values`` (n,) drawn with replacement."""
    n = len(values)
    means = np.empty(resamples)
    rows = max(1, _CHUNK // n)
    for start in range(0, resamples, rows):
        stop = min(start + rows, resamples)
        means[start:stop] = values[rng.integers(0, n, size=(stop - start, n), dtype=np.int32)].mean(axis=1)
    return means
