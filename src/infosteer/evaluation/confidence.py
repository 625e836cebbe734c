"""Calibration: does a model's confidence in its answers match how often they are right?

The confidence of a decoded answer is the probability of writing it: the product of its tokens' probabilities, the end
included.

Symbols: n answers, c confidence in [0, 1], y 1 for right and 0 for wrong, B bins.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from infosteer.errors import InfoSteerError

BINS = 10


def calibration_error(confidences: npt.ArrayLike, correct: npt.ArrayLike, bins: int = BINS) -> float:
    """Expected calibration error: ``sum_b (n_b / n) |mean_b(c) - mean_b(y)|`` over B equal bins of [0, 1].

    A bin holds its lower edge, the last one 1 too; empty bins count nothing. Answers without a confidence or a verdict
    (NaN) are left out. For n answers of a perfectly calibrated model the expectation is above 0, about ``sqrt(B / n)``
    times a constant below 1/2: compare values of equal n only.

    Raises:
        InfoSteerError: lists of different lengths, confidences outside [0, 1], or no answer to judge.

    Source: Naeini et al. 2015; Guo et al. 2017 (arXiv 1706.04599, equation 3).
    """
    c, y = np.asarray(confidences, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    if c.shape != y.shape or c.ndim != 1:
        raise InfoSteerError("confidences and verdicts differ in number", got=f"{c.shape} and {y.shape}")
    known = ~(np.isnan(c) | np.isnan(y))
    c, y = c[known], y[known]
    if not len(c):
        raise InfoSteerError("there is no answer with a confidence")
    if c.min() < 0 or c.max() > 1:
        raise InfoSteerError(
            "a confidence is a probability", got=f"{c.min():.3g} to {c.max():.3g}", expected="numbers in [0, 1]"
        )
    place = np.minimum((c * bins).astype(int), bins - 1)
    gaps = np.bincount(place, weights=c - y, minlength=bins)  # n_b (mean c - mean y)
    return float(np.abs(gaps).sum() / len(c))
