"""The regulariser of InfoSteer with a target: a square penalty on the distance of each row's entropy."""

from __future__ import annotations

import dataclasses
import math

import torch

from infosteer.core.config import setting
from infosteer.core.surfaces import PenaltyMethod
from infosteer.ops.entropy import NORMALIZATIONS, entropy_gradient_rows, key_entropy


def entropy_deviation(k: torch.Tensor, target: float = 0.9, normalization: str = "magnitude") -> torch.Tensor:
    """``(H(k) / ln M - target)^2`` of every row: (..., M) -> (...), in fp32 (fp64 for fp64).

    Raises:
        ConfigError: unknown normalization, or ``k`` not a floating tensor with M >= 1.
    """
    return (key_entropy(k, normalization=normalization) / _most(k) - target).square()


@dataclasses.dataclass(kw_only=True)
class EntropyTarget(PenaltyMethod):
    """Adds the squared distance of each row's normalised key entropy from a target to the training loss.

    Formula: ``L = L_task + s * weight * (1/n) mean_l sum_t (H(k_lt) / ln M - target)^2``, H as in key_entropy.

    Symbols: l steered layers; t rows that carry loss; n what the task loss is divided by; H in nats; s strength.

    Raises:
        ConfigError: a setting out of its range.
    """

    target: float = setting(0.9, "entropy to be held, as a share of ln M", low=0, high=1)
    weight: float = setting(10.0, "weight of the squared distance in the loss", low=0)
    normalization: str = setting(
        "magnitude", "shares p of a row: |k| / sum, k^2 / sum, or softmax(k)", choices=NORMALIZATIONS
    )

    @property
    def idle(self) -> bool:
        return self.weight == 0

    def coefficient(self, num_layers: int, width: int) -> float:
        return self.weight / num_layers

    def rows(self, k: torch.Tensor) -> torch.Tensor:
        return entropy_deviation(k, target=self.target, normalization=self.normalization)

    def rows_gradient(self, k: torch.Tensor) -> torch.Tensor:
        entropy = key_entropy(k, normalization=self.normalization) / _most(k)
        pull = 2 * (entropy - self.target) / _most(k)
        return pull.unsqueeze(-1) * entropy_gradient_rows(k, normalization=self.normalization)


def _most(k: torch.Tensor) -> float:
    """ln M, the highest entropy of a row; that of two memories for a row of one, whose entropy is 0."""
    return math.log(max(2, k.shape[-1]))
