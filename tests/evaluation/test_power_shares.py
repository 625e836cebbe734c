"""Power of tests of right and wrong answers, against studies that are drawn and tested by scipy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from infosteer.errors import InfoSteerError
from infosteer.evaluation.power import detectable_of
from infosteer.evaluation.power_shares import detectable_flips, detectable_shares
from infosteer.evaluation.statistics import compare


@pytest.mark.parametrize(("changed", "examples"), [(60, 300), (20, 100), (300, 1000), (3, 150)])
def test_mcnemar_finds_the_detectable_difference_in_80_of_100_studies(changed: int, examples: int) -> None:
    difference = detectable_flips(changed, examples)
    assert difference is not None
    psi = max(changed / examples, difference)
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(1000):
        up, down, _ = rng.multinomial(examples, [(psi + difference) / 2, (psi - difference) / 2, 1 - psi])
        hits += up + down > 0 and stats.binomtest(int(up), int(up + down)).pvalue <= 0.05
    assert 0.75 < hits / 1000 < 0.85


def test_the_power_is_the_exact_sum_for_a_small_study() -> None:
    """All ways in which 12 answers can change, one by one."""
    difference = detectable_flips(6, 12)
    assert difference is not None
    psi = max(0.5, difference)
    chances = [(psi + difference) / 2, (psi - difference) / 2, 1 - psi]

    def power(parts: list[float]) -> float:
        return sum(
            stats.multinomial.pmf([up, down, 12 - up - down], 12, parts)
            for up, down in itertools.product(range(13), repeat=2)
            if 0 < up + down <= 12 and stats.binomtest(up, up + down).pvalue <= 0.05
        )

    assert power(chances) == pytest.approx(0.8, abs=0.002)


def test_answers_that_hardly_change_still_say_what_could_have_been_found() -> None:
    """Six changes, all one way, are the fewest that McNemar's test rejects."""
    found = detectable_flips(0, 400)
    assert found is not None
    assert stats.binom.sf(5, 400, found) == pytest.approx(0.8, abs=0.005)
    assert detectable_flips(2, 400) == pytest.approx(found)
    assert detectable_flips(5, 5) is None, "five examples find nothing"
    strict = detectable_flips(40, 400, alpha=0.05 / 15)
    assert strict is not None
    assert strict > (detectable_flips(40, 400) or 1)


def test_more_examples_find_less_and_large_sets_are_quick() -> None:
    sizes = [detectable_flips(n // 5, n) for n in (50, 200, 1000, 20_000)]
    assert sizes == sorted(sizes, reverse=True)  # type: ignore[type-var]
    # the normal approximation, where it holds: (z_a sqrt(psi) + z_b sqrt(psi - d^2)) / sqrt(n)
    assert sizes[-1] == pytest.approx((1.96 * np.sqrt(0.2) + 0.8416 * np.sqrt(0.2)) / np.sqrt(20_000), rel=0.02)


@pytest.mark.parametrize(("share", "n", "m"), [(0.5, 400, 400), (0.3, 500, 200), (0.9, 300, 300)])
def test_two_shares_of_different_examples(share: float, n: int, m: int) -> None:
    d = detectable_shares(share, n, m)
    assert d is not None
    other = share + d if share <= 0.5 else share - d
    rng = np.random.default_rng(1)
    a, b = rng.binomial(n, share, 4000) / n, rng.binomial(m, other, 4000) / m
    pooled = (n * a + m * b) / (n + m)
    z = (a - b) / np.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
    assert np.mean(np.abs(z) > 1.96) == pytest.approx(0.8, abs=0.03)


def test_a_share_against_chance() -> None:
    d = detectable_shares(0.25, 400)
    assert d is not None
    hits = np.random.default_rng(2).binomial(400, 0.25, 4000)
    far = np.abs(hits / 400 - (0.25 + d)) > 1.96 * np.sqrt((0.25 + d) * (0.75 - d) / 400)
    assert np.mean(far) == pytest.approx(0.8, abs=0.03)
    assert detectable_shares(0.5, 2, 2) is None


def test_each_table_gets_the_power_of_its_own_test() -> None:
    rng = np.random.default_rng(3)
    answers = rng.choice([-1.0, 0.0, 1.0], p=[0.1, 0.8, 0.1], size=(1, 500))
    changed = int(np.abs(answers).sum())
    pair = compare({1: answers[0].tolist()}, {1: [0.0] * 500})
    assert detectable_of([answers]) == detectable_flips(changed, 500) == pair.detectable
    losses = rng.normal(0, 2, size=(1, 400))
    shift = stats.norm.ppf(0.975) + stats.norm.ppf(0.8)
    assert detectable_of([losses]) == pytest.approx(shift * losses.std(ddof=1) / 20, rel=0.01)
    assert detectable_of([np.zeros((3, 20))]) is None
    assert detectable_of([np.array([[0.3]])]) is None
    assert detectable_of([np.zeros((1, 20)), np.zeros((1, 5))]) is None


@pytest.mark.parametrize("arguments", [(5, 4), (-1, 4), (0, 0)])
def test_what_cannot_be(arguments: tuple[int, int]) -> None:
    with pytest.raises(InfoSteerError):
        detectable_flips(*arguments)
    with pytest.raises(InfoSteerError):
        detectable_shares(1.5, 10)
    with pytest.raises(InfoSteerError):
        detectable_shares(0.5, 0)
