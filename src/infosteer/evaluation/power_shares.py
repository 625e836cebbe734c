"""What a comparison of right and wrong answers could have found: two models on the same examples, or on different ones.

Symbols: n and m examples, d the true difference, psi the share of examples that one of the two answers rightly and the
other does not.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from infosteer.errors import InfoSteerError

Array = npt.NDArray[np.float64]
_COUNTS = 41  # of the sum over how many examples differ


@functools.lru_cache(maxsize=4096)
def detectable_flips(changed: int, examples: int, *, power: float = 0.8, alpha: float = 0.05) -> float | None:
    """The smallest difference of two paired shares that McNemar's exact test finds with the given chance.

    Of n examples a share psi is answered rightly by one model only, and a difference d splits these (psi + d) / 2 to
    (psi - d) / 2. The power is averaged over the number of such examples, binomial (n, psi), of the exact test's. psi
    is taken as seen, or as d where d is larger.

    Args:
        changed: examples that one of the two models answered rightly and the other did not.
        examples: n.

    Returns: None where not even a difference of 1 is found: too few examples.

    Source: Connor 1987, for the model; the sum over the exact test is plain arithmetic.
    """
    if not 0 <= changed <= examples or examples < 1:
        raise InfoSteerError("of n examples at most n can differ", got=f"{changed} of {examples}")
    psi = changed / examples
    return _smallest(lambda d: _flip_power(d, max(psi, d), examples, alpha), power)


def detectable_shares(
    share: float, n: int, m: int | None = None, *, power: float = 0.8, alpha: float = 0.05
) -> float | None:
    """The smallest difference between two shares of different examples that is found with the given chance.

    ``d = z_(1 - alpha/2) sqrt(pq (1/n + 1/m)) + z_power sqrt(p_1 q_1 / n + p_2 q_2 / m)``, p_1 the share, p_2 = p_1 + d
    or p_1 - d, whichever lies nearer to 1/2 (the harder side), p their mean weighted by n and m.

    Args:
        share: the share measured on n examples.
        m: examples of the other; None: it is a known number, such as chance, and 1/m is 0.

    Returns: None where no difference up to 0 or 1 is found.

    Source: the normal approximation for two proportions, e.g. Fleiss 1981, chapter 3.
    """
    if n < 1 or (m is not None and m < 1) or not 0 <= share <= 1:
        raise InfoSteerError("a share lies in [0, 1] and has examples", got=f"{share} of {n} and {m}")
    z, reach = NormalDist().inv_cdf(1 - alpha / 2), NormalDist().inv_cdf(power)
    sign = 1 if share <= 0.5 else -1

    def found(d: float) -> float:
        other = share + sign * d
        if m is None:
            null, spread = other * (1 - other) / n, share * (1 - share) / n
        else:
            pooled = (n * share + m * other) / (n + m)
            null = pooled * (1 - pooled) * (1 / n + 1 / m)
            spread = share * (1 - share) / n + other * (1 - other) / m
        return power if d >= z * math.sqrt(null) + reach * math.sqrt(spread) else 0.0

    return _smallest(found, power, most=max(share, 1 - share))


def _smallest(chance: Callable[[float], float], power: float, most: float = 1.0) -> float | None:
    """The smallest d up to ``most`` whose chance of being found is ``power``, by bisection."""
    if chance(most) < power:
        return None
    low, high = 0.0, most
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if chance(middle) < power else (low, middle)
    return high


def _flip_power(d: float, psi: float, n: int, alpha: float) -> float:
    """Power of McNemar's exact test when a share psi of n examples changes, and d more of them one way."""
    if psi <= 0:
        return 0.0
    around = 6 * math.sqrt(n * psi * (1 - psi)) + 1
    first, last = max(0, math.floor(n * psi - around)), min(n, math.ceil(n * psi + around))
    counts = np.unique(np.linspace(first, last, min(last - first + 1, _COUNTS)).round().astype(int))
    weights = _binomial(counts, n, psi)
    up = min((1 + d / psi) / 2, 1.0)
    total = 0.0
    for count, weight in zip(counts.tolist(), (weights / weights.sum()).tolist(), strict=True):
        rarer = _critical(count, alpha)
        if weight > 1e-9 and rarer >= 0:
            fewer = np.arange(rarer + 1)
            total += weight * float((_binomial(fewer, count, 1 - up) + _binomial(fewer, count, up)).sum())
    return min(1.0, total)


@functools.lru_cache(maxsize=65536)
def _critical(n: int, alpha: float) -> int:
    """The most of n changes that may go the rarer way for McNemar's exact test to reject; -1: it never does."""
    tails = np.cumsum(_binomial(np.arange(n // 2 + 1), n, 0.5))
    return int((2 * tails <= alpha).sum()) - 1


def _binomial(k: npt.NDArray[np.int64], n: int, p: float) -> Array:
    """Probabilities of k (K,) successes of n."""
    ways = _log_factorials(_power_of_two(n))
    with np.errstate(divide="ignore", invalid="ignore"):
        ups = np.where(k > 0, k * np.log(p), 0.0)
        downs = np.where(k < n, (n - k) * np.log1p(-p), 0.0)
    probabilities: Array = np.exp(ways[n] - ways[k] - ways[n - k] + ups + downs)
    return probabilities


@functools.lru_cache(maxsize=32)
def _log_factorials(most: int) -> Array:
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, most + 1)))])


def _power_of_two(n: int) -> int:
    """The next one, so that few tables are kept."""
    return 1 << max(6, n.bit_length())
