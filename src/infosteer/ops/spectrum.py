"""Spectra of representations: effective ranks, power-law exponents, and the moments they are read from.

A representation Z (N, D) has singular values s_1 >= ... >= s_r, r = min(N, D), and a covariance with eigenvalues
l_i = s_i^2 / N (of Z as it is, or of Z less its mean). What people call its rank are functions of either:

    effective rank   exp(-sum_i p_i ln p_i), p = a / sum a     from 1 to r
    participation    (sum l)^2 / sum l^2                       from 1 to r
    stable rank      sum l / l_1                               from 1 to r
    alpha            -slope of ln l_i on ln i                  how fast the spectrum decays

Shape letters: N rows, D hidden, r = min(N, D).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from infosteer.errors import ConfigError

RANKME_EPS = 1e-7
_CHUNK_ELEMENTS = 1 << 21  # float64 numbers widened at a time: 16 MiB
_FIRST_RANK, _LAST_RANK = 4, 100


class Moments:
    """Count, mean and centred scatter of rows that come in pieces, in float64 and constant memory (D^2 numbers).

    Formula: for a piece of n rows with mean m and scatter S joined to N rows with mean M and scatter T,
    ``T <- T + S + (m - M)(m - M)^T n N / (n + N)``. The uncentred second moment ``T + N M M^T`` then loses no digits
    to a large mean, and neither does the centred one.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean: Tensor | None = None
        self.scatter: Tensor | None = None

    @torch.no_grad()
    def add(self, rows: Tensor) -> None:
        """Adds rows (..., D) of any floating type.

        Raises:
            ConfigError: not rows of numbers, or of another width than before.
        """
        if not isinstance(rows, Tensor) or not rows.is_floating_point() or rows.dim() == 0 or rows.shape[-1] == 0:
            raise ConfigError(
                "These are no rows of a representation.",
                got=f"{rows.dtype}, shape {tuple(rows.shape)}" if isinstance(rows, Tensor) else type(rows).__name__,
                expected="a floating tensor (..., D)",
            )
        if self.mean is not None and rows.shape[-1] != self.mean.shape[0]:
            raise ConfigError(
                "The rows have another width than the ones before.", got=rows.shape[-1], expected=self.mean.shape[0]
            )
        flat = rows.detach().reshape(-1, rows.shape[-1])
        if flat.device.type == "mps":  # has no float64
            flat = flat.cpu()
        for piece in flat.split(max(1, _CHUNK_ELEMENTS // flat.shape[1])):
            if len(piece):
                wide = piece.double()
                mean = wide.mean(dim=0)
                wide = wide - mean
                self._join(len(piece), mean, wide.T @ wide)

    def merge(self, other: Moments) -> None:
        """Adds what another one has seen.

        Raises:
            ConfigError: widths differ.
        """
        if other.mean is None or other.scatter is None:
            return
        if self.mean is not None and other.mean.shape != self.mean.shape:
            raise ConfigError("The widths differ.", got=other.mean.shape[0], expected=self.mean.shape[0])
        self._join(other.count, other.mean, other.scatter)

    def _join(self, count: int, mean: Tensor, scatter: Tensor) -> None:
        if self.mean is None or self.scatter is None:
            self.count, self.mean, self.scatter = count, mean.clone(), scatter.clone()
            return
        total = self.count + count
        step = mean - self.mean
        self.scatter += scatter
        self.scatter.addr_(step, step, alpha=self.count * count / total)
        self.mean += step * (count / total)
        self.count = total

    def eigenvalues(self, *, center: bool = True) -> Tensor:
        """Eigenvalues of the covariance, (r,) float64, descending; of the uncentred second moment without ``center``.

        Values that are zero up to rounding are 0. All NaN where a row was not finite.

        Raises:
            ConfigError: no rows were seen.
        """
        if self.mean is None or self.scatter is None:
            raise ConfigError("There are no rows to take a spectrum of.", got="0 rows", expected="at least 1")
        second = self.scatter if center else self.scatter + self.count * torch.outer(self.mean, self.mean)
        kept = min(self.count, len(second))
        if not bool(torch.isfinite(second).all()):
            return torch.full((kept,), math.nan, dtype=torch.float64)
        found = torch.linalg.eigvalsh(second.cpu()).flip(0)[:kept]
        floor = found[0].clamp_min(0) * len(second) * torch.finfo(torch.float64).eps
        return torch.where(found > floor, found, torch.zeros_like(found)) / self.count


def moments_of(rows: Tensor) -> Moments:
    """The moments of rows (..., D) that are all there."""
    moments = Moments()
    moments.add(rows)
    return moments


def singular_values(rows: Tensor, *, center: bool = False) -> Tensor:
    """Singular values of rows (N, D), (r,) float64, descending, by an exact decomposition.

    Raises:
        ConfigError: not a finite floating matrix with at least one entry.
    """
    if not isinstance(rows, Tensor) or rows.dim() != 2 or not rows.is_floating_point() or not rows.numel():
        raise ConfigError(
            "This is no matrix of representations.",
            got=tuple(rows.shape) if isinstance(rows, Tensor) else type(rows).__name__,
            expected="a floating tensor (N, D)",
        )
    wide = rows.detach().cpu().double()
    if not bool(torch.isfinite(wide).all()):
        raise ConfigError("The representations are not all finite.", got="NaN or infinity", expected="numbers")
    return torch.linalg.svdvals(wide - wide.mean(dim=0) if center else wide)


def effective_rank(rows: Tensor, *, center: bool = False, on: str = "sv", eps: float = RANKME_EPS) -> float:
    """Exponential of the entropy of a spectrum: ``exp(-sum_i p_i ln p_i)``, ``p_i = a_i / sum_j a_j + eps``.

    The presets of the literature: RankMe is ``center=False, on="sv"`` (arXiv 2210.02885); the rank of the
    representation-geometry paper (arXiv 2509.23024) is ``center=True, on="eig", eps=0``.

    Args:
        rows: (N, D).
        center: take the mean row off first.
        on: spectrum a: ``sv`` singular values, ``eig`` their squares (eigenvalues of the covariance).
        eps: added after normalising, as RankMe does; 0 ln 0 = 0.

    Raises:
        ConfigError: no finite matrix, or an unknown ``on``.
    """
    if on not in ("sv", "eig"):
        raise ConfigError("Unknown spectrum.", where="on", got=on, expected="sv or eig")
    values = singular_values(rows, center=center)
    return entropy_rank(values if on == "sv" else values**2, eps=eps)


def entropy_rank(spectrum: Tensor, *, eps: float = 0.0) -> float:
    """``exp(-sum_i p_i ln p_i)`` with ``p = a / sum a + eps`` of a spectrum a (r,) >= 0; NaN if it is all zero."""
    shares = spectrum.double() / spectrum.double().sum() + eps
    return math.exp(-float(torch.special.xlogy(shares, shares).sum()))


def participation_ratio(eigenvalues: Tensor) -> float:
    """``(sum l)^2 / sum l^2`` of eigenvalues (r,); NaN if they are all zero."""
    return float(eigenvalues.sum() ** 2 / eigenvalues.square().sum())


def stable_rank(eigenvalues: Tensor) -> float:
    """``sum l / max l`` of eigenvalues (r,), which is ||Z||_F^2 / ||Z||_2^2; NaN if they are all zero."""
    return float(eigenvalues.sum() / eigenvalues.max())


@dataclass(frozen=True, kw_only=True, slots=True)
class PowerLaw:
    """A fit ``l_i = c i^-alpha`` over the ranks ``first`` to ``last`` (one-based, inclusive)."""

    alpha: float
    r2: float
    first: int
    last: int


def power_law(
    eigenvalues: Tensor, *, first: int = _FIRST_RANK, last: int | None = None, weights: str = "inverse"
) -> PowerLaw | None:
    """Exponent of a spectrum: minus the slope of ``ln l_i`` on ``ln i``, by least squares.

    Args:
        eigenvalues: (r,) descending.
        first: first rank of the fit, one-based.
        last: last one; None: the smaller of 100 and half of r. Zero eigenvalues end the fit earlier.
        weights: ``inverse``: 1 / i, as the authors of alpha-ReQ fit it (ranks 4 to 100); ``uniform``: all alike.

    Returns:
        The fit, with the weighted R^2; None where fewer than 3 positive eigenvalues lie in the range, or some are NaN.

    Raises:
        ConfigError: ranks that are none, or unknown weights.

    Source: arXiv 2202.05808 (alpha-ReQ); arXiv 2509.23024 names the exponent and not the range.
    """
    if weights not in ("inverse", "uniform"):
        raise ConfigError("Unknown weights.", where="weights", got=weights, expected="inverse or uniform")
    if first < 1 or (last is not None and last < first):
        raise ConfigError("These ranks are no range.", got=f"{first} to {last}", expected="1 <= first <= last")
    last = min(_LAST_RANK, len(eigenvalues) // 2) if last is None else min(last, len(eigenvalues))
    last = min(last, int((eigenvalues > 0).sum()))
    if last - first + 1 < 3 or not bool(torch.isfinite(eigenvalues).all()):
        return None
    rank = torch.arange(first, last + 1, dtype=torch.float64)
    x, y = rank.log(), eigenvalues[first - 1 : last].double().cpu().log()
    share = 1 / rank if weights == "inverse" else torch.ones_like(rank)
    share = share / share.sum()
    dx, dy = x - (share * x).sum(), y - (share * y).sum()
    slope = (share * dx * dy).sum() / (share * dx * dx).sum()
    spread = (share * dy * dy).sum()
    left = (share * (dy - slope * dx) ** 2).sum()
    r2 = 1.0 if float(spread) == 0 else float(1 - left / spread)
    return PowerLaw(alpha=-float(slope), r2=r2, first=first, last=last)


def describe_spectrum(moments: Moments) -> dict[str, float]:
    """What is known of a representation by its spectrum, by name; see ``ABOUT``. Empty when no rows were seen.

    Measures that the rows cannot give (a power law over three eigenvalues) are left out.
    """
    if moments.mean is None or moments.scatter is None:
        return {}
    plain, centred = moments.eigenvalues(center=False), moments.eigenvalues(center=True)
    power = float(plain.sum())
    found = {
        "rankme": entropy_rank(plain.sqrt(), eps=RANKME_EPS),
        "rankme_centred": entropy_rank(centred.sqrt(), eps=RANKME_EPS),
        "rankme_cov": entropy_rank(centred),
        "participation": participation_ratio(centred),
        "stable_rank": stable_rank(centred),
        "mean_share": float(moments.mean.square().sum()) / power if power else math.nan,
        "rows": float(moments.count),
    }
    for name, fit in (
        ("alpha", power_law(centred)),
        ("alpha_all", power_law(centred, first=1, last=len(centred), weights="uniform")),
    ):
        if fit is not None:
            found |= {name: fit.alpha, f"{name}_r2": fit.r2}
    return {name: value for name, value in found.items() if not math.isnan(value)}


ABOUT = {
    "rankme": "effective rank by the entropy of the singular values, not centred, eps 1e-7 (RankMe, arXiv 2210.02885)",
    "rankme_centred": "the same after taking the mean off",
    "rankme_cov": "effective rank by the entropy of the covariance's eigenvalues (arXiv 2509.23024)",
    "alpha": "decay of the covariance's eigenvalues, ranks 4 to 100 or half of them, weights 1/rank (alpha-ReQ)",
    "alpha_r2": "weighted R^2 of that fit",
    "alpha_all": "decay fitted to all positive eigenvalues alike",
    "alpha_all_r2": "R^2 of that fit",
    "participation": "participation ratio of the covariance's eigenvalues",
    "stable_rank": "sum of the covariance's eigenvalues over the largest",
    "mean_share": "share of the mean row in the mean squared norm, 0 to 1",
    "rows": "token rows that the spectrum is of; a rank cannot exceed it",
}
