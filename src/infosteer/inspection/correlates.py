"""Does a number at each token go with a label when what else goes with it is taken out? And would a shuffled one?

All within one text, whose tokens are the observations; a study then averages over texts, which are its sample.

Shape letters: n tokens, P covariates, R shuffles.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from infosteer.errors import ConfigError

Array = npt.NDArray[np.float64]
_FLAT = 1e-9  # share of a variable's length that is left: below, covariates explain all of it
_SPARE = 3  # observations more than fitted numbers, without which a correlation says nothing


def ranks(values: npt.ArrayLike) -> Array:
    """Ranks (n,) from 1, equal values sharing the mean of theirs.

    Raises:
        ConfigError: values that are no row of numbers, or NaN among them.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or np.isnan(x).any():
        raise ConfigError("ranks need a row of numbers", where="values", got=f"shape {x.shape}, or NaN among them")
    _, place, counts = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[place]


def partial_correlation(
    labels: npt.ArrayLike, values: npt.ArrayLike, covariates: Sequence[npt.ArrayLike] = ()
) -> Array:
    """Correlation of labels and values after the covariates' linear part has been taken out of both.

    Formula: ``r = <e_x, e_y> / (|e_x| |e_y|)``, e the residuals of a least-squares fit on a constant and the
    covariates. Give it ranks, and it is Spearman's (partial) correlation.

    Args:
        labels: (..., n), one row or many (shuffled ones).
        values: (n,).
        covariates: P rows (n,); rows that say the same twice, or nothing, do no harm.

    Returns:
        (...,) from -1 to 1; NaN where nothing is left of labels or values, or where tokens are too few.

    Raises:
        ConfigError: rows of different lengths.
    """
    x, y = np.asarray(labels, dtype=np.float64), np.asarray(values, dtype=np.float64)
    rows = [np.asarray(row, dtype=np.float64) for row in covariates]
    if y.ndim != 1 or x.shape[-1:] != y.shape or any(row.shape != y.shape for row in rows):
        raise ConfigError("labels, values and covariates need one number for each token", got=(x.shape, y.shape))
    nothing = np.full(x.shape[:-1], np.nan)
    basis = _basis(len(y), rows)
    if len(y) < basis.shape[1] + _SPARE:
        return nothing
    y = y - y.mean()
    rest = y - basis @ (basis.T @ y)
    size = np.linalg.norm(rest)
    if size <= _FLAT * np.linalg.norm(y) or size == 0:
        return nothing
    x = x - x.mean(axis=-1, keepdims=True)
    total = (x**2).sum(axis=-1)
    left = total - ((x @ basis) ** 2).sum(axis=-1)  # |e_x|^2, and <e_x, e_y> = <x, e_y>
    good = left > _FLAT * np.maximum(total, np.finfo(np.float64).tiny)
    return np.where(good, np.clip(x @ rest / (size * np.sqrt(np.where(good, left, 1.0))), -1, 1), np.nan)


def shuffled(labels: npt.ArrayLike, units: npt.ArrayLike, count: int, *, seed: int | Sequence[int] = 0) -> Array:
    """Labels (count, n) in which units, such as words, have exchanged theirs; a unit's tokens keep one label.

    Raises:
        ConfigError: tokens of one unit with different labels.
    """
    x = np.asarray(labels, dtype=np.float64)
    _, first, place = np.unique(np.asarray(units), return_index=True, return_inverse=True)
    own = x[first]
    if (own[place] != x).any():
        raise ConfigError("the tokens of a unit have different labels", where="units")
    rng = np.random.default_rng(seed)
    return rng.permuted(np.broadcast_to(own, (count, len(own))), axis=1)[:, place]


def null_p(value: float, null: npt.ArrayLike) -> float:
    """Two-sided p-value of a value among those of shuffled labels, itself counted: never below 1 / (R + 1)."""
    others = np.asarray(null, dtype=np.float64)
    beyond = int((np.abs(others) >= abs(value) * (1 - 1e-12)).sum())
    return (beyond + 1) / (len(others) + 1)


def _basis(n: int, rows: Sequence[Array]) -> Array:
    """Orthonormal columns (n, <= P + 1) that span a constant and the covariates."""
    parts = [np.ones(n) / np.sqrt(max(n, 1))]
    for row in rows:
        away = row - row.mean() if n else row
        size = np.linalg.norm(away)
        if size > 0:
            parts.append(away / size)
    left, strength, _ = np.linalg.svd(np.stack(parts, axis=1), full_matrices=False)
    return left[:, strength > 1e-9]
