"""The calibration error against its definition, bin by bin."""

from __future__ import annotations

import numpy as np
import pytest

from infosteer.errors import InfoSteerError
from infosteer.evaluation.confidence import calibration_error


def by_definition(c: np.ndarray, y: np.ndarray, bins: int) -> float:
    total = 0.0
    for b in range(bins):
        inside = (c >= b / bins) & ((c < (b + 1) / bins) | ((b == bins - 1) & (c == 1)))
        if inside.any():
            total += inside.mean() * abs(c[inside].mean() - y[inside].mean())
    return total


@pytest.mark.parametrize("bins", [1, 4, 8, 16])
def test_equals_the_definition(bins: int) -> None:
    draw = np.random.default_rng(bins)
    c = np.concatenate([draw.integers(0, 65, 200) / 64, draw.random(100)])
    y = (draw.random(300) < c**2).astype(float)
    assert calibration_error(c, y, bins) == pytest.approx(by_definition(c, y, bins), abs=1e-12)


def test_known_values_and_answers_without_a_verdict() -> None:
    assert calibration_error([1.0, 1.0, 0.0], [1, 1, 0]) == 0
    assert calibration_error([1.0] * 4, [1, 0, 0, 0]) == pytest.approx(0.75)
    assert calibration_error([0.25] * 4 + [0.75] * 4, [1, 0, 0, 0, 1, 1, 1, 0]) == pytest.approx(0)
    assert calibration_error([1.0, float("nan"), 0.5], [1, 0, float("nan")]) == 0


@pytest.mark.parametrize(("c", "y"), [([], []), ([0.5], []), ([1.5], [1]), ([-0.1], [0]), ([float("nan")], [1])])
def test_what_cannot_be_judged_is_refused(c: list[float], y: list[float]) -> None:
    with pytest.raises(InfoSteerError):
        calibration_error(c, y)
