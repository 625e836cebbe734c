"""Right and wrong answers of one model: the interval of a share, and the exact test of two paired ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from infosteer.errors import InfoSteerError

_CHUNK = 4_000_000  # random signs held at a time


def wilson(successes: float, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion ``p = successes / n``; never empty at 0 or 1, unlike a bootstrap.

    ``(p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)``, z the normal quantile of the level.

    Source: Wilson 1927.
    """
    if n < 1 or not 0 <= successes <= n:
        raise InfoSteerError("a proportion needs 0 <= successes <= n and n >= 1", got=f"{successes} of {n}")
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def wilson_of_mean(shares: Sequence[tuple[float, int]], level: float = 0.95) -> tuple[float, float]:
    """The interval of the unweighted mean of independent shares, (successes, n) each, from their Wilson intervals.

    ``M - sqrt(sum (p_t - l_t)^2) / T`` to ``M + sqrt(sum (u_t - p_t)^2) / T``; with one share it is Wilson's own.

    Source: Zou and Donner 2008 (recovery of variances from the limits of each).
    """
    below = above = total = 0.0
    for successes, n in shares:
        low, high = wilson(successes, n, level)
        share = successes / n
        total, below, above = total + share, below + (share - low) ** 2, above + (high - share) ** 2
    T = len(shares)
    return max(0.0, (total - math.sqrt(below)) / T), min(1.0, (total + math.sqrt(above)) / T)


def fair_tail(k: int, n: int) -> float:
    """``P(B <= k)`` of a binomial B of n fair throws."""
    if n <= 1000:
        term = total = 1
        for i in range(k):
            term = term * (n - i) // (i + 1)
            total += term
        return total / 2**n
    steps = np.arange(1, k + 1, dtype=np.float64)
    logs = np.concatenate([[0.0], np.cumsum(np.log((n + 1 - steps) / steps))]) - n * math.log(2)
    return min(1.0, float(np.exp(logs).sum()))


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
        return min(1.0, 2 * fair_tail(fewer, len(values)))
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
