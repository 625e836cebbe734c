"""Intervals and tests: known closed forms, and their coverage in simulated experiments."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from scipy import stats

from infosteer.errors import InfoSteerError
from infosteer.evaluation.shares import fair_tail, sign_flip_p, wilson
from infosteer.evaluation.statistics import compare, summarise
from infosteer.evaluation.student import t_quantile, t_sf2


def by_seed(table: np.ndarray) -> dict[int, list[float]]:
    return {seed: row.tolist() for seed, row in enumerate(table, start=1)}


@pytest.mark.parametrize("df", [1, 2, 3, 4, 5, 8, 15, 30, 101, 1000])
def test_student_t(df: int) -> None:
    for t in (0.0, 0.3, 1.0, 2.5, 12.0):
        assert t_sf2(t, df) == pytest.approx(2 * stats.t.sf(t, df), abs=1e-9)
        assert t_sf2(-t, df) == t_sf2(t, df)
    assert t_quantile(0.95, df) == pytest.approx(stats.t.ppf(0.975, df), rel=1e-6)


def test_student_t_of_many_degrees_is_normal() -> None:
    assert t_sf2(1.96, 5000) == pytest.approx(2 * stats.t.sf(1.96, 5000), abs=1e-3)


def test_wilson_is_scipys() -> None:
    for successes, n in ((0, 10), (3, 10), (10, 10), (480, 500)):
        expected = stats.binomtest(successes, n).proportion_ci(method="wilson")
        assert wilson(successes, n) == pytest.approx((expected.low, expected.high))
    with pytest.raises(InfoSteerError):
        wilson(3, 2)


def test_sign_flips() -> None:
    assert sign_flip_p([0.0, 0.0]) == 1.0
    assert sign_flip_p([]) == 1.0
    assert sign_flip_p([1, 1, 1]) == 0.25  # the floor of three seeds
    for wins, losses in ((7, 1), (5, 5), (30, 12), (0, 6)):  # McNemar's exact test
        units = [1.0] * wins + [-1.0] * losses + [0.0] * 20
        assert sign_flip_p(units) == pytest.approx(stats.binomtest(wins, wins + losses).pvalue)
    units = np.array([0.3, -0.1, 0.7, 0.2, 0.45])
    signs = np.array(np.meshgrid(*[[-1, 1]] * 5)).reshape(5, -1).T
    assert sign_flip_p(units) == pytest.approx(np.mean(np.abs(signs @ units) >= abs(units.sum()) - 1e-12))
    many = np.random.default_rng(0).normal(0.2, 1.0, 80)
    assert sign_flip_p(many) == pytest.approx(stats.ttest_1samp(many, 0).pvalue, abs=0.02)
    assert sign_flip_p(many) == sign_flip_p(many)
    assert sign_flip_p(np.ones(80) + np.arange(80) / 100) == pytest.approx(1 / 10_001)  # never zero


def test_identical_arms_do_not_differ() -> None:
    rng = np.random.default_rng(0)
    for seeds in (1, 3):
        scores = by_seed(rng.integers(0, 2, (seeds, 50)).astype(float))
        found = compare(scores, scores)
        assert (found.difference, found.low, found.high, found.p_value) == (0.0, 0.0, 0.0, 1.0)


def test_an_equal_shift_everywhere_is_as_sure_as_its_number_of_seeds() -> None:
    base = np.random.default_rng(0).normal(size=(3, 20))
    found = compare(by_seed(base + 0.5), by_seed(base))
    assert (found.difference, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))
    assert found.p_value < 0.3


def test_one_seed_resamples_examples_and_says_so() -> None:
    rng = np.random.default_rng(1)
    right = (rng.random(400) < 0.7).astype(float)
    found = summarise({7: right.tolist()})
    assert (found.n, found.examples, found.examples_only) == (1, 400, True)
    assert (found.low, found.high, found.method) == (*wilson(right.sum(), 400), "wilson")
    loss = summarise({7: np.random.default_rng(2).normal(size=400).tolist()})
    assert loss.method == "bootstrap"
    other = right.copy()
    other[np.flatnonzero(right == 0)[:9]] = 1
    other[np.flatnonzero(right == 1)[:2]] = 0
    pair = compare({7: other.tolist()}, {7: right.tolist()})
    assert pair.p_value == pytest.approx(stats.binomtest(9, 11).pvalue)
    assert (pair.examples_only, pair.test) == (True, "mcnemar")


def test_right_answers_throughout_still_have_an_interval() -> None:
    """A bootstrap of equal values is empty, which no one should read as certainty."""
    assert (summarise({1: [1.0] * 50}).low, summarise({1: [1.0] * 50}).high) == wilson(50, 50)
    three = summarise({seed: [0.0] * 50 for seed in (1, 2, 3)})
    assert (three.low, three.high, three.method) == (*wilson(0, 50), "wilson"), "as if it were one seed"
    lone = summarise({1: [0.0]})
    assert (lone.low, lone.high) == (0.0, 0.0), "one value of a whole set is no share"


def test_very_many_changed_answers_are_quick() -> None:
    start = time.process_time()
    p = sign_flip_p(np.repeat([1.0, -1.0], [10_200, 9_800]))
    assert p == pytest.approx(stats.binomtest(9_800, 20_000).pvalue)
    assert fair_tail(500, 1001) == pytest.approx(0.5)
    assert fair_tail(450, 1000) == pytest.approx(stats.binom.cdf(450, 1000, 0.5), rel=1e-12)
    assert fair_tail(450, 1001) == pytest.approx(stats.binom.cdf(450, 1001, 0.5), rel=1e-9)
    assert time.process_time() - start < 2


def test_one_example_a_seed_is_students_interval() -> None:
    values = [0.61, 0.64, 0.66, 0.60, 0.65, 0.63]
    found = summarise({seed: [value] for seed, value in enumerate(values)}, resamples=40_000)
    expected = stats.t.interval(0.95, 5, np.mean(values), stats.sem(values))
    assert (found.low, found.high) == pytest.approx(expected, abs=0.003)
    pair = compare({s: [v] for s, v in enumerate(values)}, {s: [0.62] for s in range(6)})
    assert pair.p_value == pytest.approx(stats.ttest_1samp(values, 0.62).pvalue)


def test_results_depend_on_the_seed_alone_and_not_on_the_order_of_arms() -> None:
    rng = np.random.default_rng(2)
    a, b = by_seed(rng.normal(size=(3, 40))), by_seed(rng.normal(size=(3, 40)))
    assert compare(a, b, seed=5) == compare(dict(reversed(a.items())), b, seed=5)
    assert compare(a, b, seed=5) != compare(a, b, seed=6)
    forth, back = compare(a, b), compare(b, a)
    assert forth.difference == -back.difference
    assert forth.p_value == back.p_value
    assert summarise(a).low < summarise(a).mean < summarise(a).high


def test_only_common_seeds_and_complete_examples_are_compared() -> None:
    rng = np.random.default_rng(3)
    table = rng.normal(size=(3, 30))
    holed = table.copy()
    holed[1, 4] = np.nan
    pair = compare(by_seed(holed), {1: table[0].tolist(), 2: table[1].tolist(), 9: table[2].tolist()})
    assert (pair.n, pair.examples, pair.difference) == (2, 29, 0.0)
    with pytest.raises(InfoSteerError, match="no seed in common"):
        compare({1: [1.0]}, {2: [1.0]})
    with pytest.raises(InfoSteerError, match="different numbers of examples"):
        compare({1: [1.0]}, {1: [1.0, 0.0]})
    with pytest.raises(InfoSteerError, match="different numbers of examples"):
        summarise({1: [1.0], 2: [1.0, 0.0]})
    with pytest.raises(InfoSteerError, match="no scores"):
        summarise({})
    with pytest.raises(InfoSteerError, match="no example"):
        summarise({1: [math.nan]})


@pytest.mark.parametrize(
    ("seeds", "seed_sd", "example_sd", "rest_sd"),
    [
        (1, 0.0, 0.3, 1.0),
        (2, 0.5, 0.0, 0.5),
        (3, 0.0, 0.3, 1.0),
        (3, 0.3, 0.3, 1.0),
        (3, 1.0, 0.0, 0.1),
        (8, 0.3, 1, 1),
    ],
)
def test_intervals_cover_and_tests_hold_their_level(
    seeds: int, seed_sd: float, example_sd: float, rest_sd: float
) -> None:
    """300 experiments without any true difference: 95 % of intervals hold 0, and 5 % of tests reject (within 4 SE)."""
    rng = np.random.default_rng(seeds)
    covered = rejected = 0
    for trial in range(300):
        table = (
            seed_sd * rng.normal(size=(seeds, 1))
            + example_sd * rng.normal(size=(1, 60))
            + rest_sd * rng.normal(size=(seeds, 60))
        )
        found = compare(by_seed(table), by_seed(np.zeros_like(table)), seed=trial, resamples=400)
        covered += found.low <= 0 <= found.high
        rejected += found.p_value < 0.05
    assert covered / 300 >= 0.90
    assert rejected / 300 <= 0.10


def test_ten_thousand_resamples_are_quick() -> None:
    rng = np.random.default_rng(0)
    a, b = by_seed(rng.random((3, 500))), by_seed(rng.random((3, 500)))
    compare(a, b)
    start = time.process_time()
    compare(a, b)
    assert time.process_time() - start < 3  # 0.2 s on one quiet core
