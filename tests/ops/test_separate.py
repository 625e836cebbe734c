"""Directions, regressions and areas against scipy, brute force and planted answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import rankdata

from infosteer.errors import ConfigError
from infosteer.ops.separate import cosine, fit_bias, logistic, mass_mean, roc_area


def planted(rows: int = 400, width: int = 12, gap: float = 2.0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(rows) % 2
    direction = torch.zeros(width)
    direction[3] = 1
    return torch.randn(rows, width, generator=g) + 5 + gap * labels[:, None] * direction, labels


def test_a_planted_direction_is_found() -> None:
    x, labels = planted(4000)
    wanted = torch.zeros(12)
    wanted[3] = 2
    assert torch.allclose(mass_mean(x, labels).float(), wanted, atol=0.15)
    assert cosine(mass_mean(x, labels), wanted) > 0.99
    assert cosine(logistic(x, labels)[0], wanted) > 0.98
    shuffled = labels[torch.randperm(4000, generator=torch.Generator().manual_seed(1))]
    assert mass_mean(x, shuffled).norm() < 0.3


@pytest.mark.parametrize(("rows", "width"), [(60, 5), (20, 40)])
@pytest.mark.parametrize("l2", [0.1, 3.0])
def test_logistic_regression_is_the_optimum_that_scipy_finds(rows: int, width: int, l2: float) -> None:
    x, labels = planted(rows, width, gap=1.0)
    z = x.double().numpy()
    z = (z - z.mean(0)) / math.sqrt(((z - z.mean(0)) ** 2).mean())
    y = labels.numpy() * 2 - 1

    def loss(v: np.ndarray) -> float:
        return float(np.logaddexp(0, -y * (z @ v[:-1] + v[-1])).sum() + l2 / 2 * (v[:-1] ** 2).sum())

    best = minimize(loss, np.zeros(width + 1), method="L-BFGS-B", options={"maxiter": 5000, "ftol": 1e-15})
    w, b = logistic(x, labels, l2=l2)
    found = (x.double() @ w + b).numpy()
    np.testing.assert_allclose(found, z @ best.x[:-1] + best.x[-1], atol=2e-3)


def test_shift_and_scale_do_not_change_the_classes() -> None:
    x, labels = planted(100)
    w, b = logistic(x, labels)
    w2, b2 = logistic(1e4 * x - 3e5, labels)
    assert torch.allclose(x.double() @ w + b, (1e4 * x - 3e5).double() @ w2 + b2, atol=1e-2)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_bias_of_separable_scores_lies_in_the_gap_and_the_sign_is_found(sign: float) -> None:
    scores = sign * torch.tensor([-3.0, -2.0, 2.0, 7.0])
    a, b = fit_bias(scores, torch.tensor([0, 0, 1, 1]))
    assert a * sign > 0
    assert abs(-b / a) < 0.5, "the threshold is the middle of the gap"
    assert bool((((a * scores + b) > 0) == torch.tensor([False, False, True, True])).all())


def test_constant_scores_predict_the_larger_class() -> None:
    a, b = fit_bias(torch.ones(5), torch.tensor([1, 1, 1, 0, 0]))
    assert a + b == pytest.approx(math.log(3 / 2), abs=1e-6)


@pytest.mark.parametrize("decimals", [8, 0])
def test_area_equals_counting_pairs_and_delong_by_hand(decimals: int) -> None:
    x, labels = planted(90, gap=1.0)
    scores = x[:, 3].double().round(decimals=decimals)  # 0: many ties
    high, low = scores[labels == 1], scores[labels == 0]
    wins = (high[:, None] > low).double() + (high[:, None] == low).double() / 2
    found = roc_area(scores, labels)
    assert found.value == pytest.approx(float(wins.mean()))
    variance = float(wins.mean(1).var() / len(high) + wins.mean(0).var() / len(low))
    assert found.variance == pytest.approx(variance)
    assert found.low < found.value < found.high <= 1
    by_ranks = rankdata(scores.numpy())[labels.numpy() == 1].sum() - len(high) * (len(high) + 1) / 2
    assert found.value == pytest.approx(by_ranks / len(high) / len(low))


def test_interval_covers_the_true_area() -> None:
    """Two normals a distance of 1 apart: the area is Phi(1 / sqrt 2) = 0.7602."""
    covered = 0
    for seed in range(300):
        x, labels = planted(80, 4, gap=1.0, seed=seed)
        found = roc_area(x[:, 3], labels)
        covered += found.low <= 0.7602 <= found.high
    assert 0.91 <= covered / 300 <= 0.985


def test_perfect_and_useless_scores() -> None:
    labels = torch.tensor([0, 0, 1, 1])
    perfect = roc_area(torch.tensor([1.0, 2.0, 3.0, 4.0]), labels)
    assert (perfect.value, perfect.high) == (1, 1)
    assert 0.2 < perfect.low < 0.5, "four rows prove little"
    assert roc_area(torch.tensor([4.0, 3.0, 2.0, 1.0]), labels).value == 0
    assert roc_area(torch.zeros(4), labels).value == 0.5
    assert cosine(torch.zeros(3), torch.ones(3)) == 0


def test_hostile_input() -> None:
    x, labels = planted(10)
    for bad_x, bad_labels, match in (
        (x, labels[:-1], "differ in number"),
        (x, torch.zeros(10), "one class"),
        (x, torch.ones(10), "one class"),
        (x, torch.arange(10), "0 or 1"),
        (x[:0], labels[:0], "no rows"),
        (torch.full_like(x, math.nan), labels, "finite"),
        (x.long(), labels, "no rows"),
    ):
        with pytest.raises(ConfigError, match=match):
            mass_mean(bad_x, bad_labels)
        with pytest.raises(ConfigError, match=match):
            logistic(bad_x, bad_labels)
    with pytest.raises(ConfigError, match="ridge"):
        logistic(x, labels, l2=0)
