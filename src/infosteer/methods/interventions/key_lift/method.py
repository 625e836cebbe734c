"""The intervention of InfoSteer (arXiv 2507.05158, section 4.1); the function is :func:`infosteer.ops.intervene`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from infosteer.core.config import setting
from infosteer.core.contract import Context
from infosteer.core.surfaces import InterventionMethod
from infosteer.ops.intervene import intervene
from infosteer.ops.select import ORDERS

REFERENCES = ("magnitude_mean", "mean")


@dataclasses.dataclass(kw_only=True)
class Intervention(InterventionMethod):
    """Overwrites the m smallest key coefficients of each token by a multiple of the row's mean.

    Formula: ``k'_i = k_i + s (alpha * ref(k) * sign_i - k_i)`` for the m smallest i, ``k'_i = k_i`` for the others;
    m = max(1, round(fraction * M)), or 0 for fraction 0.

    Symbols: k (..., M) key coefficients; ref: mean |k| with each entry keeping its sign (``magnitude_mean``), or the
    signed mean, sign_i = 1 (``mean``); s: strength.

    Raises:
        ConfigError: a setting out of its range.

    Source: arXiv 2507.05158, section 4.1. ``preset("paper")`` is its formula to the letter; the default orders by
    magnitude, which is what its words ("minor coefficients") say.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"fraction": 0.01, "alpha": 1.0, "order": "signed", "reference": "mean"}
    }

    fraction: float = setting(0.01, "share of each row's coefficients that is overwritten (0.01 is 1 %)", low=0, high=1)
    alpha: float = setting(1.0, "multiple of the row's mean that they get")
    order: str = setting("magnitude", "smallest by |k|, or by signed value", choices=ORDERS)
    reference: str = setting("magnitude_mean", "mean |k| with signs kept, or the signed mean", choices=REFERENCES)
    detach_reference: bool = setting(False, "whether no gradient flows through the mean")

    @property
    def idle(self) -> bool:
        return self.fraction == 0

    def edit(self, k: torch.Tensor, context: Context) -> torch.Tensor:
        return intervene(
            k,
            fraction=self.fraction,
            alpha=self.alpha,
            order=self.order,
            reference=self.reference,
            detach_reference=self.detach_reference,
            strength=context.strength,
        )
