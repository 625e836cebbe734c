"""Control of the regulariser: size instead of evenness."""

from __future__ import annotations

import dataclasses

import torch

from infosteer.core.config import setting
from infosteer.core.surfaces import PenaltyMethod
from infosteer.ops.select import check_choice

NORMS = ("l1", "l2")


def key_norm(k: torch.Tensor, norm: str = "l2") -> torch.Tensor:
    """``(1/M) sum_i |k_i|`` (l1) or ``(1/M) sum_i k_i^2`` (l2): (..., M) -> (...), in fp32 (fp64 for fp64).

    Raises:
        ConfigError: an unknown norm.
    """
    check_choice("norm", norm, NORMS)
    wide = k if k.dtype == torch.float64 else k.float()
    return wide.abs().mean(dim=-1) if norm == "l1" else wide.square().mean(dim=-1)


@dataclasses.dataclass(kw_only=True)
class KeyNorm(PenaltyMethod):
    """Adds the mean size of the key coefficients to the training loss.

    Formula: ``L = L_task + s * weight * (1/n) mean_l sum_t r(k_lt)``, r = (1/M) sum_i |k_i| or (1/M) sum_i k_i^2.

    Symbols: l steered layers; t rows that carry loss; n what the task loss is divided by; s strength.

    Raises:
        ConfigError: a setting out of its range.
    """

    norm: str = setting("l2", "l1: mean |k|; l2: mean k^2", choices=NORMS)
    weight: float = setting(0.5, "weight in the loss; negative weights reward size")

    @property
    def idle(self) -> bool:
        return self.weight == 0

    def coefficient(self, num_layers: int, width: int) -> float:
        return self.weight / num_layers

    def rows(self, k: torch.Tensor) -> torch.Tensor:
        return key_norm(k, norm=self.norm)

    def rows_gradient(self, k: torch.Tensor) -> torch.Tensor:
        wide = k if k.dtype == torch.float64 else k.float()
        return (torch.sign(wide) if self.norm == "l1" else 2 * wide) / k.shape[-1]
