"""Student's t without scipy: tails and quantiles for whole degrees of freedom."""

from __future__ import annotations

import math
from statistics import NormalDist


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
