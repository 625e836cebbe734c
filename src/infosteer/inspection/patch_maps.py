"""Maps of what replacing one hidden state does, and how alike two of them are.

Legend: L layers, C columns of a map (places of tokens).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from infosteer.errors import ConfigError

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchMap:
    """What replacing one state does.

    Attributes:
        layers, columns: what rows and columns of the map stand for.
        values: (L, C) mean of the logit difference with one state replaced.
        restored: (L, C) the same as a share of the way from corrupt (0) to clean (1), over the pairs of the column.
        clean, corrupt: mean logit difference of the target model on the prompts as they are.
        places: tokens behind each column, over all pairs.
        pairs: number of pairs.
        right: share of pairs in which the target model prefers the right answer on both prompts.
    """

    layers: tuple[int, ...]
    columns: tuple[str, ...]
    values: Array
    restored: Array
    clean: float
    corrupt: float
    places: tuple[int, ...]
    pairs: int
    right: float


def compare_maps(a: PatchMap, b: PatchMap) -> dict[str, float]:
    """How alike two maps of ``restored`` shares are.

    Returns:
        ``pearson`` and ``spearman`` of all cells; ``pearson_binned`` after the thresholding of the source's code (20
        bins of equal width, the lower half set to 0), which inflates correlations; ``pearson_position``: of b with a's
        means by column, so what the position alone explains; ``max_difference``.

    Raises:
        ConfigError: maps of other layers or columns.
    """
    if a.layers != b.layers or a.columns != b.columns:
        raise ConfigError("The maps have other layers or columns.", got=f"{a.values.shape} and {b.values.shape}")
    x, y = a.restored, b.restored
    by_position = np.broadcast_to(x.mean(axis=0), x.shape)
    return {
        "pearson": _correlation(x, y),
        "spearman": _correlation(_ranks(x), _ranks(y)),
        "pearson_binned": _correlation(_binned(x), _binned(y)),
        "pearson_position": _correlation(by_position, y),
        "max_difference": float(np.abs(x - y).max()),
    }


def _binned(values: Array) -> Array:
    low, high = values.min(), values.max()
    if high <= low:
        return np.zeros_like(values)
    number = np.minimum(((values - low) / (high - low) * 20).astype(int), 19)
    return np.where(number < 10, 0.0, (number - 9) / 10)


def _ranks(values: Array) -> Array:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse].reshape(values.shape)


def _correlation(x: Array, y: Array) -> float:
    """Pearson's, NaN where one side is constant."""
    dx, dy = x - x.mean(), y - y.mean()
    size = float(np.sqrt((dx**2).sum() * (dy**2).sum()))
    return float((dx * dy).sum() / size) if size > 1e-12 else float("nan")
