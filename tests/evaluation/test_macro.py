"""Macro averages: against closed forms, a brute-force bootstrap, and simulated studies; tasks weigh alike."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from infosteer.errors import InfoSteerError
from infosteer.evaluation.shares import wilson, wilson_of_mean
from infosteer.evaluation.statistics import compare, compare_macro, summarise, summarise_macro
from infosteer.evaluation.two_way import variance

Table = np.ndarray


def by_seed(table: Table) -> dict[int, list[float]]:
    return {seed: row.tolist() for seed, row in enumerate(table, start=1)}


def macro(tables: list[Table]) -> dict[str, dict[int, list[float]]]:
    return {f"task {t}": by_seed(table) for t, table in enumerate(tables)}


def test_one_task_is_the_task_itself() -> None:
    a, b = np.random.default_rng(0).normal(size=(2, 3, 40))
    assert summarise_macro(macro([a])) == summarise(by_seed(a))
    assert compare_macro(macro([a]), macro([b])) == compare(by_seed(a), by_seed(b))


def test_tasks_weigh_alike_whatever_their_size() -> None:
    small, large = np.ones((1, 10)), np.zeros((1, 990))
    found = summarise_macro(macro([small, large]))
    assert (found.mean, found.examples, found.n) == (0.5, 1000, 1)
    assert (found.low, found.high) == wilson_of_mean([(10, 10), (0, 990)])
    assert found.high - 0.5 == pytest.approx(wilson(0, 990)[1] / 2), "the small one is at its top, the large one is not"
    assert wilson_of_mean([(3, 10)]) == pytest.approx(wilson(3, 10))


def test_variance_is_that_of_the_weighted_parts() -> None:
    """One seed: the sum of the tasks' squared standard errors over T^2; only seeds vary: Student's."""
    rng = np.random.default_rng(1)
    tables = [rng.normal(size=(1, n)) for n in (20, 50, 7)]
    expected = sum(stats.sem(table[0]) ** 2 for table in tables) / 9
    assert variance(tables)[0] == pytest.approx(expected)
    ms = rng.normal(size=(5, 1))
    var, df = variance([np.repeat(ms, 30, axis=1), np.repeat(2 * ms, 9, axis=1)])
    assert (var, df) == (pytest.approx((1.5 * stats.sem(ms[:, 0])) ** 2), 4), "seeds are shared by the tasks"


def test_the_interval_is_that_of_resampling_within_tasks() -> None:
    rng = np.random.default_rng(2)
    tables = [(rng.random((1, n)) < p).astype(float) for n, p in ((60, 0.3), (200, 0.8), (25, 0.5))]
    draws = [
        np.mean([table[0, rng.integers(0, table.shape[1], table.shape[1])].mean() for table in tables])
        for _ in range(4000)
    ]
    found = summarise_macro(macro(tables))
    assert (found.low, found.high) == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=0.012)
    assert found.method == "bootstrap"


def test_seeds_that_help_one_task_and_hurt_another_cancel() -> None:
    shift = np.linspace(-1, 1, 4)[:, None]
    noise = np.random.default_rng(3).normal(0, 0.1, size=(2, 4, 50))
    apart = [shift + noise[0], -shift + noise[1]]
    together = [shift + noise[0], shift + noise[1]]
    assert variance(together)[0] > 50 * variance(apart)[0]


@pytest.mark.parametrize(("seeds", "sizes"), [(1, (30, 80)), (3, (30, 80, 50)), (5, (40, 200))])
def test_macro_intervals_cover_and_tests_hold_their_level(seeds: int, sizes: tuple[int, ...]) -> None:
    """200 studies of right and wrong answers without a true difference; 95 % and 5 % within four standard errors."""
    rng = np.random.default_rng(seeds)
    covered = rejected = 0
    for trial in range(200):
        arms = []
        common = [rng.normal(0, 1, n) for n in sizes]
        for _ in range(2):
            of_seed = rng.normal(0, 0.3, (seeds, 1)) if seeds > 1 else 0.0  # one seed says nothing of seeds
            arms.append(macro([(rng.logistic(size=(seeds, len(c))) < c + of_seed).astype(float) for c in common]))
        found = compare_macro(*arms, seed=trial, resamples=400)
        covered += found.low <= 0 <= found.high
        rejected += found.p_value < 0.05
    assert covered / 200 >= 0.89
    assert rejected / 200 <= 0.11


def test_the_sign_flip_test_of_one_seed_is_exact_over_weighted_examples() -> None:
    a, b = [np.array([[1.0, 0, 0]]), np.array([[1.0, 1]])], [np.zeros((1, 3)), np.zeros((1, 2))]
    found = compare_macro(macro(a), macro(b))
    units = np.array([1 / 3, 1 / 2, 1 / 2])
    signs = np.array(np.meshgrid(*[[-1, 1]] * 3)).reshape(3, -1).T
    assert found.p_value == pytest.approx(np.mean(np.abs(signs @ units) >= units.sum() - 1e-12))
    assert (found.test, found.difference) == ("sign_flip", pytest.approx((1 / 3 + 1) / 2))


def test_the_detectable_macro_difference_is_found_in_80_of_100_studies() -> None:
    rng = np.random.default_rng(4)

    def study(mean: float) -> list[Table]:
        of_seed = rng.normal(0, 0.05, (6, 1))
        return [mean + of_seed + rng.normal(0, 0.5, (6, n)) for n in (40, 90)]

    zeros = macro([np.zeros((6, 40)), np.zeros((6, 90))])
    sizes = [compare_macro(macro(study(0.0)), zeros, resamples=2).detectable for _ in range(60)]
    difference = float(np.mean([size for size in sizes if size is not None]))
    hits = sum(compare_macro(macro(study(difference)), zeros, resamples=2).p_value < 0.05 for _ in range(300))
    assert 0.68 < hits / 300 < 0.92


def test_only_common_seeds_and_tasks_count_and_hostile_tables_are_refused() -> None:
    rng = np.random.default_rng(5)
    a = {"x": by_seed(rng.normal(size=(3, 5))), "y": by_seed(rng.normal(size=(2, 4)))}
    b = {"x": by_seed(rng.normal(size=(3, 5))), "y": by_seed(rng.normal(size=(3, 4))), "z": by_seed(np.ones((3, 2)))}
    found = compare_macro(a, b)
    assert (found.n, found.examples) == (2, 9)
    with pytest.raises(InfoSteerError, match="no task in common"):
        compare_macro({"x": a["x"]}, {"y": b["y"]})
    with pytest.raises(InfoSteerError, match="no seed in common"):
        compare_macro(a, {"x": {9: [0.0] * 5}, "y": {9: [0.0] * 4}})
    with pytest.raises(InfoSteerError, match="different numbers of examples"):
        compare_macro(a, {"x": b["x"], "y": by_seed(np.ones((3, 5)))})
    with pytest.raises(InfoSteerError, match="no seed in common"):
        summarise_macro({"x": {1: [1.0]}, "y": {2: [1.0]}})
    with pytest.raises(InfoSteerError, match="no scores"):
        summarise_macro({})
    with pytest.raises(InfoSteerError, match="no example"):
        summarise_macro({"x": {1: [math.nan]}, "y": {1: [1.0]}})
