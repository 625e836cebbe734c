"""Telling two classes apart by one direction: difference of means, logistic regression, and how well it works.

Everything is float64. Shape letters: N rows, D hidden, r rank.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from infosteer.errors import ConfigError

_STEPS = 100
# Keeps the bias of separable classes finite; with it the threshold of a perfect split lies in the middle of the gap.
_TINY_L2 = 1e-6


def check_classes(x: Tensor, labels: Tensor, what: str = "rows") -> Tensor:
    """The labels as bool (N,), for rows x (N, D).

    Raises:
        ConfigError: lengths differ, labels that are not 0 or 1, one class only, or values that are not finite.
    """
    if x.dim() != 2 or not x.is_floating_point() or not len(x):
        raise ConfigError(
            f"There are no {what} to tell apart.", got=tuple(x.shape), expected="a floating tensor (N, D)"
        )
    if labels.shape != x.shape[:1]:
        raise ConfigError(
            f"The {what} and their labels differ in number.", got=f"{len(x)} {what}, labels {tuple(labels.shape)}"
        )
    if not bool(((labels == 0) | (labels == 1)).all()):
        raise ConfigError("Labels are 0 or 1.", where="labels", got=sorted({float(v) for v in labels})[:5])
    chosen = labels.bool()
    if bool(chosen.all()) or not bool(chosen.any()):
        only = "positive (1)" if bool(chosen[0]) else "negative (0)"
        raise ConfigError(
            f"All {what} are of one class, so there is nothing to tell apart.",
            where="labels",
            got=f"{len(x)} {only}",
            expected="both classes",
        )
    if not bool(torch.isfinite(x).all()):
        raise ConfigError(f"The {what} are not all finite.", got="NaN or infinity")
    return chosen


def mass_mean(x: Tensor, labels: Tensor) -> Tensor:
    """``mean of positive rows - mean of negative rows``, (D,) float64, of x (N, D) and labels (N,) in 0, 1.

    Raises:
        ConfigError: as ``check_classes``.
    """
    chosen = check_classes(x, labels)
    wide = x.double()
    return wide[chosen].mean(dim=0) - wide[~chosen].mean(dim=0)


def logistic(x: Tensor, labels: Tensor, *, l2: float = 1.0) -> tuple[Tensor, float]:
    """Logistic regression: ``min over w, b of sum_i ln(1 + exp(-y_i (w z_i + b))) + l2/2 |w|^2``, y in -1, 1.

    z are the rows less their mean, divided by their root mean square distance from it per dimension, so that ``l2``
    means the same whatever the scale; the result is in the units of x. Newton's method in the span of the rows, which
    holds the optimum, so D may be far larger than N.

    Args:
        x: (N, D).
        labels: (N,) in 0, 1.
        l2: strength of the ridge on w; b is free.

    Returns:
        w (D,) float64 and b: the class is positive where ``x w + b > 0``.

    Raises:
        ConfigError: as ``check_classes``, or an ``l2`` that is not positive.
    """
    chosen = check_classes(x, labels)
    if not (math.isfinite(l2) and l2 > 0):
        raise ConfigError("The ridge must be positive.", where="l2", got=l2)
    wide = x.double()
    mean = wide.mean(dim=0)
    scale = (wide - mean).square().mean().sqrt().clamp_min(torch.finfo(torch.float64).tiny)
    u, s, vt = torch.linalg.svd((wide - mean) / scale, full_matrices=False)
    kept = s > s[0] * 1e-10 if len(s) and s[0] > 0 else torch.zeros_like(s, dtype=torch.bool)
    z = torch.cat([u[:, kept] * s[kept], torch.ones(len(x), 1, dtype=torch.float64, device=x.device)], dim=1)
    y = chosen.double() * 2 - 1
    ridge = torch.full((z.shape[1],), l2, dtype=torch.float64, device=x.device)
    ridge[-1] = 0

    def loss(w: Tensor) -> Tensor:
        return torch.nn.functional.softplus(-y * (z @ w)).sum() + (ridge * w * w).sum() / 2

    w = torch.zeros_like(ridge)
    value = loss(w)
    for _ in range(_STEPS):
        share = torch.sigmoid(-y * (z @ w))
        gradient = -(z.T @ (y * share)) + ridge * w
        curvature = (z.T * (share * (1 - share))) @ z + torch.diag(ridge)
        curvature.diagonal().add_(1e-12 * curvature.diagonal().max())
        step = torch.linalg.solve(curvature, gradient)
        size = 1.0
        while size > 1e-8 and not bool((new := loss(w - size * step)) < value):
            size /= 2
        if size <= 1e-8 or float(value - new) <= 1e-12 * float(value):
            break
        w, value = w - size * step, new
    direction = (vt[kept].T @ w[:-1]) / scale
    return direction, float(w[-1] - mean @ direction)


def fit_bias(scores: Tensor, labels: Tensor) -> tuple[float, float]:
    """Slope and bias of a one-dimensional logistic regression of labels (N,) on scores (N,), in effect unregularised.

    Returns:
        a, b: the class is positive where ``a score + b > 0``. The slope may be negative: then large scores speak
        against the positive class.

    Raises:
        ConfigError: as ``check_classes``.
    """
    w, b = logistic(scores.reshape(-1, 1), labels, l2=_TINY_L2)
    return float(w[0]), b


@dataclass(frozen=True, kw_only=True, slots=True)
class Area:
    """Area under the ROC curve with its variance (DeLong); ``low`` and ``high`` on the logit scale, level 95 %."""

    value: float
    variance: float
    low: float
    high: float


def roc_area(scores: Tensor, labels: Tensor) -> Area:
    """``P(score of a positive > score of a negative) + P(equal) / 2``, by ranks, with DeLong's variance.

    Args:
        scores: (N,).
        labels: (N,) in 0, 1.

    Raises:
        ConfigError: as ``check_classes``.

    Source: DeLong et al. 1988, with the mid-rank algorithm of Sun and Xu 2014.
    """
    chosen = check_classes(scores.reshape(-1, 1), labels, "scores")
    wide = scores.double()
    high, low = wide[chosen], wide[~chosen]
    m, n = len(high), len(low)
    ranks, inside_high, inside_low = (_mid_ranks(values) for values in (torch.cat([high, low]), high, low))
    above = (ranks[:m] - inside_high) / n  # of each positive: share of negatives below it
    below = 1 - (ranks[m:] - inside_low) / m
    value = float(above.mean())
    variance = sum(float(part.var()) / len(part) for part in (above, below) if len(part) > 1)
    return make_area(value, variance, min(m, n))


def make_area(value: float, variance: float, smaller: int, level: float = 0.95) -> Area:
    """An area with its interval on the logit scale; at 0 and 1, where that has none, Wilson's of ``smaller`` trials,
    the number of rows in the smaller class."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    if not 0 < value < 1:
        room = z * z / (smaller + z * z)
        low, high = (1 - room, 1.0) if value >= 1 else (0.0, room)
        return Area(value=value, variance=variance, low=low, high=high)
    middle, half = math.log(value / (1 - value)), z * math.sqrt(variance) / (value * (1 - value))
    ends = [1 / (1 + math.exp(-max(-700.0, min(700.0, middle + side * half)))) for side in (-1, 1)]
    return Area(value=value, variance=variance, low=ends[0], high=ends[1])


def cosine(a: Tensor, b: Tensor) -> float:
    """Cosine of two directions (D,); 0 where one of them is zero."""
    size = float(a.double().norm() * b.double().norm())
    return float(a.double() @ b.double()) / size if size > 0 else 0.0


def _mid_ranks(values: Tensor) -> Tensor:
    """One-based ranks (N,), ties sharing the middle of theirs."""
    _, inverse, counts = torch.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts.double() - 1) / 2)[inverse]
