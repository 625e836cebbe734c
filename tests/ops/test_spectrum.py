"""Spectra against known ones, numpy's decompositions, and what must not change them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from infosteer.errors import ConfigError
from infosteer.ops.spectrum import (
    ABOUT,
    Moments,
    describe_spectrum,
    effective_rank,
    entropy_rank,
    moments_of,
    participation_ratio,
    power_law,
    singular_values,
    stable_rank,
)


def with_spectrum(eigenvalues: torch.Tensor, rows: int, seed: int = 0) -> torch.Tensor:
    """Rows whose covariance has exactly these eigenvalues and whose mean is zero, in a random basis."""
    width = len(eigenvalues)
    g = torch.Generator().manual_seed(seed)
    left = torch.randn(rows, width + 1, generator=g, dtype=torch.float64)
    left[:, 0] = 1  # so that the other columns come out with mean zero
    left = torch.linalg.qr(left).Q[:, 1:]
    right = torch.linalg.qr(torch.randn(width, width, generator=g, dtype=torch.float64)).Q
    return (left * (eigenvalues.double() * rows).sqrt()) @ right.T


def rankme_by_hand(z: np.ndarray) -> float:
    s = np.linalg.svd(z.astype(np.float64), compute_uv=False)
    p = s / s.sum() + 1e-7
    return float(np.exp(-(p * np.log(p)).sum()))


def rank_of_covariance_by_hand(z: np.ndarray) -> float:
    z = z.astype(np.float64) - z.astype(np.float64).mean(0)
    values = np.linalg.eigvalsh(z.T @ z / len(z))
    p = values[values > 0] / values[values > 0].sum()
    return float(np.exp(-(p * np.log(p)).sum()))


def test_both_ranks_equal_the_definitions_computed_by_numpy() -> None:
    z = torch.randn(300, 24) @ torch.randn(24, 24) + 3
    found = describe_spectrum(moments_of(z))
    assert found["rankme"] == pytest.approx(rankme_by_hand(z.numpy()), rel=1e-9)
    assert found["rankme_centred"] == pytest.approx(rankme_by_hand(z.double().numpy() - z.double().numpy().mean(0)))
    assert found["rankme_cov"] == pytest.approx(rank_of_covariance_by_hand(z.numpy()), rel=1e-9)
    assert effective_rank(z) == pytest.approx(found["rankme"], rel=1e-9)
    assert effective_rank(z, center=True, on="eig", eps=0) == pytest.approx(found["rankme_cov"], rel=1e-9)
    values = np.linalg.eigvalsh(np.cov(z.double().numpy().T, bias=True))
    assert found["participation"] == pytest.approx(values.sum() ** 2 / (values**2).sum())
    assert found["stable_rank"] == pytest.approx(values.sum() / values.max())
    assert found["rows"] == 300
    assert set(found) <= set(ABOUT)


def test_isotropic_gaussian_has_full_rank_and_no_decay() -> None:
    found = describe_spectrum(moments_of(torch.randn(40_000, 48)))
    assert found["rankme_cov"] == pytest.approx(48, rel=0.01)
    assert found["rankme"] == pytest.approx(48, rel=0.01)
    assert abs(found["alpha"]) < 0.05
    assert abs(found["alpha_all"]) < 0.05


@pytest.mark.parametrize("rank", [1, 3, 7])
def test_rank_r_data_has_at_most_rank_r(rank: int) -> None:
    z = torch.randn(200, rank, dtype=torch.float64) @ torch.randn(rank, 32, dtype=torch.float64)
    assert describe_spectrum(moments_of(z))["rankme_cov"] <= rank * (1 + 1e-9)
    assert effective_rank(z, eps=0) <= rank * (1 + 1e-6)


def test_orthonormal_columns_have_full_rank_and_one_direction_has_rank_one() -> None:
    z = torch.linalg.qr(torch.randn(64, 16, dtype=torch.float64)).Q
    assert effective_rank(z) == pytest.approx(16, abs=1e-3)
    one = torch.randn(50, 1, dtype=torch.float64) @ torch.randn(1, 16, dtype=torch.float64)
    assert effective_rank(one) == pytest.approx(1, abs=1e-3)
    assert describe_spectrum(moments_of(one))["rankme"] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("alpha", [0.5, 1.0, 1.7])
@pytest.mark.parametrize(("first", "last", "weights"), [(4, None, "inverse"), (1, 128, "uniform")])
def test_a_power_law_is_recovered(alpha: float, first: int, last: int | None, weights: str) -> None:
    spectrum = torch.arange(1, 129, dtype=torch.float64) ** -alpha
    values = moments_of(with_spectrum(spectrum, 1500)).eigenvalues()
    assert torch.allclose(values, spectrum, rtol=1e-8, atol=0)
    fit = power_law(values, first=first, last=last, weights=weights)
    assert fit is not None
    assert fit.alpha == pytest.approx(alpha, abs=1e-6)
    assert fit.r2 == pytest.approx(1)
    sampled = torch.randn(20_000, 128, dtype=torch.float64) * spectrum.sqrt()
    assert describe_spectrum(moments_of(sampled))["alpha"] == pytest.approx(alpha, abs=0.05)


def test_the_fit_is_weighted_least_squares() -> None:
    values = torch.sort(torch.rand(60, dtype=torch.float64) + 0.1, descending=True).values
    fit = power_law(values)
    assert fit is not None
    assert (fit.first, fit.last) == (4, 30)
    x, y = np.log(np.arange(4, 31)), values[3:30].log().numpy()
    weight = 1 / np.arange(4, 31)
    slope, _ = np.polyfit(x, y, 1, w=np.sqrt(weight))
    assert fit.alpha == pytest.approx(-slope, rel=1e-9)
    predicted = np.polyval(np.polyfit(x, y, 1, w=np.sqrt(weight)), x)
    mean = (weight * y).sum() / weight.sum()
    r2 = 1 - (weight * (y - predicted) ** 2).sum() / (weight * (y - mean) ** 2).sum()
    assert fit.r2 == pytest.approx(r2, rel=1e-9)


def test_scale_and_rotation_change_nothing_and_duplicates_keep_the_rank() -> None:
    z = torch.randn(400, 20, dtype=torch.float64) @ torch.randn(20, 20, dtype=torch.float64)
    turned = 7.5 * z @ torch.linalg.qr(torch.randn(20, 20, dtype=torch.float64)).Q
    wanted, found = describe_spectrum(moments_of(z)), describe_spectrum(moments_of(turned))
    for name in wanted:
        assert found[name] == pytest.approx(wanted[name], rel=1e-9), name
    twice = describe_spectrum(moments_of(torch.cat([z, z], dim=1)))
    for name in ("rankme", "rankme_cov", "participation", "stable_rank"):
        assert twice[name] == pytest.approx(wanted[name], rel=1e-4), name


def test_a_large_mean_lowers_the_uncentred_rank_alone() -> None:
    z = torch.randn(1000, 16, dtype=torch.float64)
    near, far = describe_spectrum(moments_of(z)), describe_spectrum(moments_of(z + 1e5))
    assert far["rankme"] < 1.01
    assert far["mean_share"] > 0.999
    for name in ("rankme_cov", "rankme_centred", "alpha_all"):
        assert far[name] == pytest.approx(near[name], rel=1e-6), f"{name}: digits were lost to the mean"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_pieces_of_any_size_and_type_give_what_the_whole_gives(dtype: torch.dtype) -> None:
    z = (torch.randn(257, 12) + 4).to(dtype)
    parts, halves = Moments(), [Moments(), Moments()]
    for start in range(0, 257, 19):
        parts.add(z[start : start + 19])
        halves[start % 2].add(z[start : start + 19])
    halves[0].merge(halves[1])
    halves[0].merge(Moments())
    empty = Moments()
    empty.merge(halves[0])
    wide = z.double()
    for center in (True, False):
        less = wide - wide.mean(0) if center else wide
        wanted = torch.linalg.eigvalsh(less.T @ less / 257).flip(0)
        for moments in (parts, halves[0], empty):
            assert torch.allclose(moments.eigenvalues(center=center), wanted, rtol=1e-9, atol=1e-12)
    assert torch.allclose(singular_values(z) ** 2 / 257, moments_of(z).eigenvalues(center=False), rtol=1e-9, atol=1e-9)


def test_memory_is_constant_in_the_number_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infosteer.ops.spectrum._CHUNK_ELEMENTS", 64)
    z = torch.randn(101, 16)
    assert torch.allclose(moments_of(z).eigenvalues(), torch.linalg.eigvalsh(z.double().T.cov(correction=0)).flip(0))


def test_fewer_rows_than_dimensions_cap_the_rank() -> None:
    z = torch.randn(5, 64, dtype=torch.float64)
    moments = moments_of(z)
    assert moments.eigenvalues(center=False).shape == (5,)
    assert moments.eigenvalues()[-1] == 0, "five centred rows span four dimensions"
    assert describe_spectrum(moments)["rankme"] == pytest.approx(rankme_by_hand(z.numpy()))
    assert "alpha" not in describe_spectrum(moments)
    assert power_law(moments.eigenvalues(), first=1, last=5) is not None


def test_nothing_and_nonsense() -> None:
    assert describe_spectrum(Moments()) == {}
    assert describe_spectrum(moments_of(torch.randn(0, 4))) == {}
    same = describe_spectrum(moments_of(torch.ones(9, 4)))
    assert same["mean_share"] == pytest.approx(1)
    assert same["rankme"] == pytest.approx(1, abs=1e-4)
    assert "rankme_cov" not in same, "no spread, no rank"
    broken = moments_of(torch.tensor([[1.0, math.nan], [0.0, 1.0]]))
    assert bool(broken.eigenvalues().isnan().all())
    assert set(describe_spectrum(broken)) <= {"rows"}
    assert math.isnan(entropy_rank(torch.zeros(3)))
    assert participation_ratio(torch.ones(5)) == pytest.approx(5)
    assert stable_rank(torch.tensor([2.0, 1.0, 1.0])) == pytest.approx(2)
    for call in (
        lambda: Moments().eigenvalues(),
        lambda: moments_of(torch.arange(6).reshape(2, 3)),
        lambda: moments_of([1.0, 2.0]),  # type: ignore[arg-type]
        lambda: moments_of(torch.zeros(3, 0)),
        lambda: moments_of(torch.zeros(3, 2)).add(torch.zeros(3, 4)),
        lambda: moments_of(torch.zeros(3, 2)).merge(moments_of(torch.zeros(3, 4))),
        lambda: singular_values(torch.zeros(3)),
        lambda: singular_values(torch.full((2, 2), math.inf)),
        lambda: effective_rank(torch.ones(2, 2), on="values"),
        lambda: power_law(torch.ones(9), weights="equal"),
        lambda: power_law(torch.ones(9), first=0),
        lambda: power_law(torch.ones(9), first=5, last=4),
    ):
        with pytest.raises(ConfigError):
            call()
