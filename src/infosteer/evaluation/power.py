"""What a comparison could have found: the smallest difference it detects, and the seeds that a given one needs.

The tests are those of ``statistics.compare``. For several seeds it is a t test on a table of differences X (S, E), S
seeds by E examples, with

    var = max(A + C - R, A, C) / (S E)

where A, C and R are the mean squares of seeds, examples and their interaction, and Satterthwaite's degrees of freedom.
With other numbers of seeds the mean squares are expected to be ``A = E s^2 + r^2``, ``C = S e^2 + r^2``, ``R = r^2``,
s, e and r being the standard deviations of seed, example and interaction: more seeds shrink the first and last but not
what the choice of examples adds. Right and wrong answers of one seed have a test of their own, see ``power_shares``.

Symbols: S seeds, E examples, df degrees of freedom, d the true difference.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from infosteer.errors import InfoSteerError
from infosteer.evaluation.power_shares import detectable_flips
from infosteer.evaluation.student import t_quantile
from infosteer.evaluation.two_way import Array, variance

MOST_SEEDS = 10_000
_POINTS = 601  # of the integral over the estimated standard error
_COARSE = 100  # degrees of freedom from which neighbours are taken as one
_LARGE = 1000  # degrees of freedom from which the normal law serves


@dataclass(frozen=True, kw_only=True, slots=True)
class Components:
    """Variances of a paired difference, in its units squared; ``examples`` is their number E."""

    seed: float
    example: float
    interaction: float
    examples: int


def components(differences: npt.ArrayLike) -> Components:
    """Variance components of a table of differences (S, E), from its mean squares, none below 0.

    Examples without a score (NaN) in some seed are left out. With one example there is no interaction to tell from the
    seeds.

    Raises: InfoSteerError for a table with fewer than two seeds, which says nothing about seeds, or without examples.
    """
    table = np.asarray(differences, dtype=np.float64)
    if table.ndim == 2:
        table = table[:, ~np.isnan(table).any(axis=0)]
    if table.ndim != 2 or len(table) < 2 or not table.shape[1]:
        raise InfoSteerError(
            "The power of a comparison is read off at least two seeds.", got=f"differences of shape {table.shape}"
        )
    S, E = table.shape
    grand = table.mean()
    rows, columns = table.mean(axis=1) - grand, table.mean(axis=0) - grand
    a = float(E * (rows**2).sum() / (S - 1))
    if E == 1:
        return Components(seed=a, example=0.0, interaction=0.0, examples=1)
    c = float(S * (columns**2).sum() / (E - 1))
    r = float(((table - grand - rows[:, None] - columns) ** 2).sum() / ((S - 1) * (E - 1)))
    return Components(seed=max(a - r, 0.0) / E, example=max(c - r, 0.0) / S, interaction=r, examples=E)


def standard_error(parts: Components, seeds: int) -> tuple[float, int]:
    """Expected standard error of the mean difference with so many seeds, and the test's degrees of freedom."""
    S, E = seeds, parts.examples
    if S < 2:
        raise InfoSteerError("A test over seeds needs at least two.", got=seeds)
    if E == 1:
        return math.sqrt(parts.seed / S), S - 1
    a = E * parts.seed + parts.interaction
    c = S * parts.example + parts.interaction
    r = parts.interaction
    total = max(a + c - r, a, c)
    if total <= 0:
        return 0.0, S - 1
    spread = a**2 / (S - 1) + c**2 / (E - 1) + r**2 / ((S - 1) * (E - 1))
    df = max(S - 1 if a >= c else 1, int(total**2 / spread))
    return math.sqrt(total / (S * E)), df


def t_power(shift: float, df: int, *, alpha: float = 0.05) -> float:
    """Chance that a two-sided t test with df degrees of freedom rejects when the mean lies ``shift`` errors from 0.

    ``P(|Z + shift| > t U)``, Z normal, ``U^2 = chi^2_df / df``, t the test's quantile: by integrating the normal tails
    over the density of U.
    """
    if not 0 < alpha < 1 or df < 1:
        raise InfoSteerError("A test needs a level between 0 and 1 and df >= 1.", got=f"alpha {alpha}, df {df}")
    critical = t_quantile(1 - alpha, df)
    spread = 8 / math.sqrt(2 * df)
    u = np.linspace(max(1e-9, 1 - spread), 1 + spread, _POINTS)
    log_density = math.log(2) + df / 2 * math.log(df / 2) - math.lgamma(df / 2) + (df - 1) * np.log(u) - df * u**2 / 2
    density = np.exp(log_density)
    density /= density.sum()  # what lies outside the grid is below 1e-8
    tails = [_normal_cdf(sign * shift - critical * u) for sign in (1, -1)]
    return float(min(1.0, (density * (tails[0] + tails[1])).sum()))


def detectable(parts: Components, seeds: int, *, power: float = 0.8, alpha: float = 0.05) -> float:
    """The smallest true difference that the test with so many seeds finds with the given chance."""
    error, df = standard_error(parts, seeds)
    return error * _shift(_rounded(df), power, alpha)


def detectable_of(tables: Sequence[Array], *, power: float = 0.8, alpha: float = 0.05) -> float | None:
    """``detectable`` for differences as they are, with the test that they get.

    Args:
        tables: differences (S, E_t), one table a task (see ``two_way``), without NaN.

    Returns: None where the scores do not say: one number only, or several seeds that differ nowhere.
    """
    S = len(tables[0])
    if len(tables) == 1 and S == 1 and tables[0].shape[1] > 1 and np.isin(tables[0], (-1, 0, 1)).all():
        return detectable_flips(int(np.abs(tables[0]).sum()), tables[0].shape[1], power=power, alpha=alpha)
    if len(tables) == 1 and S > 1:
        return detectable(components(tables[0]), S, power=power, alpha=alpha) or None
    var, df = variance(tables)
    return math.sqrt(var) * _shift(_rounded(df), power, alpha) if var > 0 else None


def seeds_for(parts: Components, difference: float, *, power: float = 0.8, alpha: float = 0.05) -> int | None:
    """The fewest seeds with which a true difference is found with the given chance.

    None where 10,000 do not suffice: what the choice of examples adds does not shrink with seeds.
    """
    if not difference > 0:
        raise InfoSteerError("A difference to be found is above 0.", got=difference)

    def enough(seeds: int) -> bool:
        return detectable(parts, seeds, power=power, alpha=alpha) <= difference

    high = 2
    while not enough(high):
        high *= 2
        if high > MOST_SEEDS:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


@functools.lru_cache(maxsize=4096)
def _shift(df: int, power: float, alpha: float) -> float:
    """The shift at which ``t_power`` is ``power``, by bisection."""
    if not alpha < power < 1:
        raise InfoSteerError("Power lies between the level and 1.", got=power)
    if df > _LARGE:
        return NormalDist().inv_cdf(1 - alpha / 2) + NormalDist().inv_cdf(power)
    low, high = 0.0, 4.0
    while t_power(high, df, alpha=alpha) < power:
        high *= 2
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if t_power(middle, df, alpha=alpha) < power else (low, middle)
    return high


def _rounded(df: int) -> int:
    """Two digits where there are many degrees: fewer values to work out, and no difference to see."""
    return round(df, 1 - int(math.log10(df))) if df > _COARSE else df


def _normal_cdf(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray([0.5 * math.erfc(-value / math.sqrt(2)) for value in x])
