"""Control of the intervention: ordinary dropout at the place where it acts."""

from __future__ import annotations

import dataclasses

import torch

from infosteer.core.config import setting
from infosteer.core.contract import Context
from infosteer.core.surfaces import InterventionMethod
from infosteer.ops.counter import uniform


def drop(k: torch.Tensor, keys: torch.Tensor, rate: float = 0.01, strength: float = 1.0, seed: int = 0) -> torch.Tensor:
    """``k' = k (1 + s (b / (1 - rate) - 1))`` with b = 0 at a share ``rate`` of the entries, at random, else 1.

    Args:
        k: (..., M) key coefficients.
        keys: (N,) int64, one for every row of k flattened to (N, M), from which the random numbers come.
        rate: probability of each entry to be dropped, below 1.
        strength: s; the mean over draws is k for every s.
        seed: another seed drops other entries for the same keys.

    Returns:
        (..., M) of k's dtype; k itself with strength 0 or rate 0.
    """
    if strength == 0 or rate == 0:
        return k
    wide = torch.float64 if k.dtype == torch.float64 else torch.float32
    kept = uniform(keys, k.shape[-1], seed).view(k.shape) >= rate
    factor = 1 + strength * (kept.to(wide) / (1 - rate) - 1)
    return (k.to(wide) * factor).to(k.dtype)


@dataclasses.dataclass(kw_only=True)
class KeyDropout(InterventionMethod):
    """Drops key coefficients at random and scales up the others, so that the mean stays.

    Formula: ``k' = k (1 + s (b / (1 - rate) - 1))``, b = 0 with probability ``rate``, else 1, for every entry.

    Symbols: k (..., M) key coefficients; s strength. What is dropped is new for every layer and optimizer step.

    Raises:
        ConfigError: a setting out of its range.

    Source: Srivastava et al., JMLR 2014 (dropout), scaled in training instead of in use.
    """

    random = True

    rate: float = setting(0.01, "share of each row's coefficients that is dropped", low=0, high=0.99)

    @property
    def idle(self) -> bool:
        return self.rate == 0

    def edit(self, k: torch.Tensor, context: Context) -> torch.Tensor:
        if context.strength == 0:
            return k
        assert context.keys is not None
        return drop(k, context.keys, rate=self.rate, strength=context.strength, seed=context.layer)
