"""Power against scipy's noncentral t, and against studies that are simulated and judged by the test itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import nct, t

from infosteer.errors import InfoSteerError
from infosteer.evaluation.power import Components, components, detectable, seeds_for, standard_error, t_power
from infosteer.evaluation.statistics import compare


@pytest.mark.parametrize("df", [2, 3, 4, 9, 15, 60, 400])
@pytest.mark.parametrize("shift", [0.0, 1.0, 2.8, 6.0])
def test_power_is_that_of_the_noncentral_t(df: int, shift: float) -> None:
    critical = t.ppf(0.975, df)
    exact = 1 - nct.cdf(critical, df, shift) + nct.cdf(-critical, df, shift)
    assert t_power(shift, df) == pytest.approx(exact, abs=2e-4)
    assert t_power(-shift, df) == pytest.approx(t_power(shift, df))


def simulated(rng: np.random.Generator, parts: Components, seeds: int, mean: float) -> np.ndarray:
    """A table of differences (S, E) with the given variance components."""
    examples = parts.examples
    return (
        mean
        + rng.normal(0, math.sqrt(parts.seed), (seeds, 1))
        + rng.normal(0, math.sqrt(parts.example), (1, examples))
        + rng.normal(0, math.sqrt(parts.interaction), (seeds, examples))
    )


@pytest.mark.parametrize(
    ("parts", "seeds"),
    [
        (Components(seed=0.0004, example=0.0, interaction=0.04, examples=100), 16),
        (Components(seed=0.0004, example=0.01, interaction=0.04, examples=100), 8),
        (Components(seed=0.002, example=0.001, interaction=0.01, examples=60), 4),
    ],
)
def test_the_detectable_difference_is_found_in_80_of_100_studies(parts: Components, seeds: int) -> None:
    rng = np.random.default_rng(0)
    difference = detectable(parts, seeds)
    studies = 400
    found = missed = 0
    for _ in range(studies):
        for mean in (difference, 0.0):
            table = simulated(rng, parts, seeds, mean)
            zeros = {seed: np.zeros(parts.examples) for seed in range(seeds)}
            p = compare(dict(enumerate(table)), zeros, resamples=2).p_value  # type: ignore[arg-type]
            found += mean > 0 and p < 0.05
            missed += mean == 0 and p < 0.05
    assert 0.73 < found / studies < 0.87
    assert missed / studies < 0.09, "the test itself keeps its level"


def test_components_are_recovered() -> None:
    rng = np.random.default_rng(0)
    true = Components(seed=0.03, example=0.05, interaction=0.2, examples=400)
    tables = [components(simulated(rng, true, 30, 1.0)) for _ in range(60)]
    for name in ("seed", "example", "interaction"):
        mean = np.mean([getattr(one, name) for one in tables])
        assert mean == pytest.approx(getattr(true, name), rel=0.1), name
    assert {one.examples for one in tables} == {400}


def test_the_standard_error_is_that_of_the_table_at_hand() -> None:
    rng = np.random.default_rng(3)
    table = simulated(rng, Components(seed=0.1, example=0.05, interaction=0.2, examples=50), 6, 0.3)
    error, df = standard_error(components(table), 6)
    found = compare(dict(enumerate(table)), {seed: np.zeros(50) for seed in range(6)})  # type: ignore[arg-type]
    assert 2 * t.sf(table.mean() / error, df) == pytest.approx(found.p_value, rel=1e-6)


def test_the_seeds_that_suffice_suffice_and_one_less_does_not() -> None:
    parts = Components(seed=0.0009, example=0.0001, interaction=0.05, examples=500)
    for difference in (0.005, 0.01, 0.05):
        seeds = seeds_for(parts, difference)
        assert seeds is not None
        assert detectable(parts, seeds) <= difference
        assert seeds == 2 or detectable(parts, seeds - 1) > difference
    assert seeds_for(parts, 10.0) == 2


def test_seeds_do_not_make_up_for_few_examples() -> None:
    assert seeds_for(Components(seed=0.001, example=0.2, interaction=0.1, examples=20), 0.01) is None


def test_missing_scores_and_one_example() -> None:
    table = np.random.default_rng(0).normal(size=(4, 5))
    holed = np.column_stack([table, [1.0, math.nan, 1.0, 1.0]])
    assert components(holed) == components(table)
    single = components(table[:, :1])
    assert standard_error(single, 4)[0] == pytest.approx(table[:, 0].std(ddof=1) / 2)
    assert components(np.zeros((3, 4))) == Components(seed=0, example=0, interaction=0, examples=4)
    assert detectable(components(np.zeros((3, 4))), 3) == 0


@pytest.mark.parametrize("table", [[[1.0, 2.0]], [], [1.0, 2.0], [[math.nan], [1.0]]])
def test_tables_that_say_nothing_about_seeds_are_refused(table: list[object]) -> None:
    with pytest.raises(InfoSteerError, match="two seeds"):
        components(table)  # type: ignore[arg-type]


def test_impossible_questions_are_refused() -> None:
    parts = Components(seed=1, example=1, interaction=1, examples=10)
    for call in (
        lambda: seeds_for(parts, 0.0),
        lambda: standard_error(parts, 1),
        lambda: detectable(parts, 4, power=1.0),
        lambda: detectable(parts, 4, power=0.01),
        lambda: t_power(1.0, 0),
        lambda: t_power(1.0, 5, alpha=0.0),
    ):
        with pytest.raises(InfoSteerError):
            call()
