"""Key-region shift of InfoSteer (arXiv 2507.05158, section 6.1) as a function and as a monitor of training."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from infosteer.core.config import setting
from infosteer.core.surfaces import Observer, ProbeMethod
from infosteer.errors import ConfigError
from infosteer.methods.probes.region_shift.sketch import MagnitudeSketch
from infosteer.models import Site
from infosteer.ops.chunks import rows_per_chunk

REGIONS = ("low", "middle", "high")
REFERENCES = ("calibration", "first_step")
Cutoffs = tuple[float, float]


def region_shares(k: Tensor, cutoffs: Cutoffs) -> Tensor:
    """Share of every row's coefficients in each region.

    Formula: ``low = #{|k_i| < c_1} / M``, ``high = #{|k_i| > c_2} / M``, ``middle`` the rest; NaN counts as high.

    Args:
        k: (..., M) key coefficients.
        cutoffs: (c_1, c_2), c_1 <= c_2: percentiles of the base model's |k| in this layer.

    Returns:
        (..., 3) fp32, each adding up to 1.

    Source: arXiv 2507.05158, section 6.1.
    """
    size, width = k.abs(), k.shape[-1]
    low = (size < cutoffs[0]).sum(-1)
    high = width - (size <= cutoffs[1]).sum(-1)
    return torch.stack([low, width - low - high, high], dim=-1).float() / width


@dataclasses.dataclass(kw_only=True)
class RegionShift(ProbeMethod):
    """Logs how the key coefficients spread over regions that are fixed on the model before training.

    Formula: per layer, cut-offs c_1, c_2 are the ``low`` and ``high`` percentiles of |k| over all tokens and memories
    of the reference; then the share of entries below c_1, between, and above c_2. The reference's own shares are
    low, high - low and 100 - high percent.

    Raises:
        ConfigError: percentiles out of order; no calibration text where the reference is one.

    Source: arXiv 2507.05158, section 6.1 (0-25, 25-75 and 75-100 percent).
    """

    low: float = setting(25.0, "percentile below which a coefficient counts as low", low=0, high=100)
    high: float = setting(75.0, "percentile above which a coefficient counts as high", low=0, high=100)
    reference: str = setting(
        "calibration",
        "what fixes the percentiles: the calibration text, read when steering begins; or the first observed step",
        choices=REFERENCES,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.low < self.high < 100:
            raise ConfigError(
                "the percentiles must rise", where=f"{self.label()}.low, high", got=(self.low, self.high),
                expected="0 < low < high < 100",
            )  # fmt: skip

    @property
    def calibrates(self) -> bool:  # type: ignore[override]
        return self.reference == "calibration"

    def observer(self, sites: Sequence[Site]) -> Observer:
        return RegionObserver(percentiles=(self.low, self.high))


class RegionObserver(Observer):
    """Learns cut-offs from what it sees first, up to ``calibrated()`` or the next ``reset()``; then counts regions.

    Args:
        percentiles: that the cut-offs stand for.
        cutoffs: by layer, of another observer: nothing is learnt then.
    """

    def __init__(
        self, *, percentiles: tuple[float, float] = (25.0, 75.0), cutoffs: Mapping[int, Cutoffs] | None = None
    ) -> None:
        self._percentiles = percentiles
        self.cutoffs: dict[int, Cutoffs] = dict(cutoffs or {})
        self._sketches: dict[int, MagnitudeSketch] = {}
        self._counts: dict[int, Tensor] = {}

    def see(self, layer: int, k: Tensor, weight: Tensor | None) -> None:
        rows = k if weight is None or bool((weight != 0).all()) else k[weight != 0]
        if rows.shape[0] == 0:
            return
        if layer not in self.cutoffs:
            self._sketches.setdefault(layer, MagnitudeSketch()).add(rows)
            return
        low, high = self.cutoffs[layer]
        counts = self._counts.get(layer, torch.zeros(3, dtype=torch.int64, device=rows.device))
        for some in rows.split(rows_per_chunk(rows.shape[1])):
            size = some.abs()
            below, inside = torch.count_nonzero(size < low), torch.count_nonzero(size <= high)
            counts = counts + torch.stack([below, inside - below, size.numel() - inside])
        self._counts[layer] = counts

    def calibrated(self) -> None:
        """Fixes the cut-offs of the layers seen so far."""
        for layer, sketch in self._sketches.items():
            low, high = (sketch.quantile(percentile / 100) for percentile in self._percentiles)
            self.cutoffs[layer] = (low, high)
        self._sketches = {}

    def shares(self) -> dict[int, tuple[float, ...]]:
        """Layer -> shares of the regions low, middle, high, over everything counted since the last reset."""
        return {
            layer: tuple((counts.double() / counts.sum()).tolist()) for layer, counts in sorted(self._counts.items())
        }

    def metrics(self) -> dict[str, float]:
        shares = self.shares()
        if not shares:
            return {}
        means = [sum(column) / len(shares) for column in zip(*shares.values(), strict=True)]
        found = dict(zip(REGIONS, means, strict=True))
        for layer, values in shares.items():
            found |= {f"{name}/layer_{layer}": value for name, value in zip(REGIONS, values, strict=True)}
        return found

    def reset(self) -> None:
        self.calibrated()
        self._counts = {}
