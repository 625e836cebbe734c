"""Correlations within a text and their shuffled null, against plain regressions, with planted effects and with none."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from infosteer.errors import ConfigError
from infosteer.inspection.correlates import null_p, partial_correlation, ranks, shuffled


@pytest.mark.parametrize("values", [[3.0, 1.0, 2.0], [1.0, 1.0, 1.0], [2.0, -1.0, 2.0, 0.0, -1.0, 2.0], [5.0], []])
def test_ranks(values: list[float]) -> None:
    assert ranks(values).tolist() == (stats.rankdata(values).tolist() if values else [])


def regression(label: np.ndarray, value: np.ndarray, covariates: list[np.ndarray]) -> float:
    """The same by hand: residuals of two least-squares fits, correlated."""
    design = np.stack([np.ones(len(value)), *covariates], axis=1)
    left, right = (row - design @ np.linalg.lstsq(design, row, rcond=None)[0] for row in (label, value))
    return float(np.corrcoef(left, right)[0, 1])


@pytest.mark.parametrize("number", [0, 1, 3])
def test_partial_correlation_is_that_of_two_regressions(number: int) -> None:
    rng = np.random.default_rng(number)
    covariates = [1e6 + rng.normal(size=60) for _ in range(number)]
    label = (rng.normal(size=60) + sum(covariates, np.zeros(60)) > 1e6 * number).astype(float)
    value = rng.normal(size=60) + 0.5 * label + sum(covariates, np.zeros(60))
    assert partial_correlation(label, value, covariates) == pytest.approx(
        regression(label, value, covariates), abs=1e-9
    )


def test_without_covariates_ranks_give_spearman() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 5, size=40).astype(float), rng.normal(size=40)
    assert partial_correlation(ranks(x), ranks(y)) == pytest.approx(stats.spearmanr(x, y).statistic)


def test_many_rows_of_labels_are_as_many_single_ones() -> None:
    rng = np.random.default_rng(1)
    labels, value = rng.integers(0, 2, size=(7, 30)).astype(float), rng.normal(size=30)
    covariates = [rng.normal(size=30), rng.normal(size=30)]
    found = partial_correlation(labels, value, covariates)
    assert found == pytest.approx([regression(row, value, covariates) for row in labels])


def test_a_planted_confounder_is_taken_out_and_a_planted_effect_stays() -> None:
    rng = np.random.default_rng(2)
    n = 4_000
    confounder = rng.normal(size=n)
    label = (confounder + rng.normal(size=n) > 0).astype(float)
    only_confounder = 2 * confounder + rng.normal(size=n)
    with_effect = only_confounder + label
    assert partial_correlation(label, only_confounder) > 0.4
    assert abs(partial_correlation(label, only_confounder, [confounder])) < 0.05
    assert 0.35 < partial_correlation(label, with_effect, [confounder]) < 0.45  # 0.43 / sqrt(1 + 0.43^2) = 0.39


def test_nothing_left_says_nothing() -> None:
    value, label = np.arange(10.0), np.arange(10) % 2
    assert np.isnan(partial_correlation(np.ones(10), value))
    assert np.isnan(partial_correlation(label, np.full(10, 7.0)))
    assert np.isnan(partial_correlation(label, value, [3 * value + 1])), "the covariate is the value"
    assert np.isnan(partial_correlation(label, value, [label])), "the covariate is the label"
    assert np.isnan(partial_correlation(label[:3], value[:3]))
    assert np.isnan(partial_correlation([], []))
    noise = np.random.default_rng(0).normal(size=10)
    twice = partial_correlation(label, value, [noise, 2 * noise, np.ones(10)])
    assert twice == pytest.approx(partial_correlation(label, value, [noise]))


def test_shuffles_keep_units_together_and_their_labels() -> None:
    units = np.array([4, 4, 4, 5, 6, 6, 7])
    labels = np.array([1, 1, 1, 0, 0, 0, 1])
    found = shuffled(labels, units, 500, seed=3)
    for unit in np.unique(units):
        assert (found[:, units == unit] == found[:, units == unit][:, :1]).all()
    by_unit = found[:, [0, 3, 4, 6]]
    assert (by_unit.sum(axis=1) == 2).all()
    assert by_unit.mean(axis=0) == pytest.approx([0.5] * 4, abs=0.1)
    assert len(np.unique(by_unit, axis=0)) == 6, "every way to hand out two labels among four units"
    assert (shuffled(labels, units, 500, seed=3) == found).all()
    with pytest.raises(ConfigError, match="different labels"):
        shuffled([0, 1], [1, 1], 5)


def texts_p(rng: np.random.Generator, effect: float) -> float:
    """p of the mean partial correlation over six texts whose words of several tokens share one label and one shift."""
    value, null = 0.0, np.zeros(199)
    for text in range(6):
        units = np.repeat(np.arange(25), rng.integers(1, 4, size=25))
        label = rng.integers(0, 2, size=25).astype(float)[units]
        confounder = rng.normal(size=len(units))
        flux = effect * label + rng.normal(size=25)[units] + rng.normal(size=len(units)) + confounder
        labels = shuffled(label, units, 199, seed=[int(rng.integers(1 << 30)), text])
        value += float(partial_correlation(label, ranks(flux), [ranks(confounder)]))
        null += partial_correlation(labels, ranks(flux), [ranks(confounder)])
    return null_p(value, null)


def test_p_values_are_uniform_without_an_effect_and_small_with_one() -> None:
    rng = np.random.default_rng(5)
    p = np.array([texts_p(rng, 0.0) for _ in range(200)])
    assert stats.kstest(p, "uniform").pvalue > 0.01
    assert (p <= 0.05).mean() < 0.1
    planted = np.array([texts_p(rng, 1.0) for _ in range(20)])
    assert (planted <= 0.05).mean() > 0.8


def test_null_p_counts_itself() -> None:
    assert null_p(3.0, np.zeros(99)) == 0.01
    assert null_p(-1.0, [1.0, -1.0, 0.5]) == 0.75
    assert null_p(0.0, [0.1, -0.1]) == 1.0


@pytest.mark.parametrize(
    "call",
    [
        lambda: ranks([[1.0, 2.0]]),
        lambda: ranks([1.0, np.nan]),
        lambda: partial_correlation([1.0, 2.0], [1.0, 2.0, 3.0]),
        lambda: partial_correlation([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], [[1.0]]),
    ],
)
def test_rows_that_do_not_fit_are_refused(call: object) -> None:
    with pytest.raises(ConfigError):
        call()  # type: ignore[operator]
