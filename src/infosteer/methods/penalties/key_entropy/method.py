"""The regulariser of InfoSteer (arXiv 2507.05158, section 4.2); the function is :func:`infosteer.ops.key_entropy`."""

from __future__ import annotations

import dataclasses
import math

import torch

from infosteer.core.config import setting
from infosteer.core.surfaces import PenaltyMethod
from infosteer.ops.entropy import NORMALIZATIONS, entropy_gradient_rows, key_entropy
from infosteer.ops.steered import add_entropy_gradient


@dataclasses.dataclass(kw_only=True)
class EntropyRegularization(PenaltyMethod):
    """Adds the entropy of the key coefficients to the training loss, with a minus sign.

    Formula: ``L = L_task - s * weight * (1/n) sum_l sum_t H(k_lt)``, H = -sum_i p_i ln p_i, p = |k| / sum |k|;
    with ``normalized``, H is divided by ln M and the sum over layers is a mean.

    Symbols: l steered layers; t rows that carry loss; n what the task loss is divided by; H in nats; s strength.

    Raises:
        ConfigError: a setting out of its range.

    Source: arXiv 2507.05158, section 4.2. The paper's share k / sum k is undefined for signed k, hence
    ``normalization``; its reduction over tokens is not stated, here it is that of the task loss.
    """

    weight: float = setting(0.01, "weight of the entropy in the loss; negative weights lower the entropy")
    normalization: str = setting(
        "magnitude", "shares p of a row: |k| / sum, k^2 / sum, or softmax(k)", choices=NORMALIZATIONS
    )
    normalized: bool = setting(False, "divide by ln M and average over layers, instead of nats summed over layers")

    @property
    def idle(self) -> bool:
        return self.weight == 0

    def coefficient(self, num_layers: int, width: int) -> float:
        return -self.weight / (math.log(max(width, 2)) * num_layers) if self.normalized else -self.weight

    @property
    def entropy_normalization(self) -> str | None:
        return self.normalization

    def rows(self, k: torch.Tensor) -> torch.Tensor:
        return key_entropy(k, normalization=self.normalization)

    def rows_gradient(self, k: torch.Tensor) -> torch.Tensor:
        return entropy_gradient_rows(k, normalization=self.normalization)

    def add_rows_gradient(self, k: torch.Tensor, gradient: torch.Tensor, factor: torch.Tensor) -> torch.Tensor | None:
        return add_entropy_gradient(k, gradient, factor, self.normalization)
