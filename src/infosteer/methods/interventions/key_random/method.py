"""Control of the intervention: the same rule on random entries."""

from __future__ import annotations

import dataclasses

import torch

from infosteer.core.config import setting
from infosteer.core.contract import Context
from infosteer.core.surfaces import InterventionMethod
from infosteer.ops.counter import uniform
from infosteer.ops.intervene import REFERENCES, overwrite
from infosteer.ops.select import count_smallest, smallest


def overwrite_random(
    k: torch.Tensor,
    keys: torch.Tensor,
    fraction: float = 0.01,
    alpha: float = 1.0,
    reference: str = "magnitude_mean",
    detach_reference: bool = False,
    strength: float = 1.0,
    seed: int = 0,
) -> torch.Tensor:
    """``k'_i = k_i + s (alpha * ref(k) * s_i - k_i)`` for i in I, I the entries of the m smallest of M random numbers.

    Args:
        k: (..., M) key coefficients.
        keys: (N,) int64, one for every row of k flattened to (N, M), from which the random numbers come.
        fraction: share of entries; exactly m = max(1, round(fraction * M)) a row, 0 when fraction is 0.
        alpha, reference, detach_reference, strength: as in :func:`infosteer.ops.intervene.intervene`.
        seed: another seed gives other entries for the same keys.

    Returns:
        (..., M) of k's dtype; k itself with strength 0 or fraction 0.
    """
    m = count_smallest(fraction, k.shape[-1])
    if m == 0 or strength == 0:
        return k
    drawn = smallest(uniform(keys, k.shape[-1], seed), m, order="signed")
    return overwrite(k, drawn.view(*k.shape[:-1], m), alpha, reference, detach_reference, strength)


@dataclasses.dataclass(kw_only=True)
class KeyRandom(InterventionMethod):
    """Overwrites m random key coefficients of each token by a multiple of the row's mean.

    Formula: ``k'_i = k_i + s (alpha * ref(k) * sign_i - k_i)`` for m random i, ``k'_i = k_i`` for the others;
    m = max(1, round(fraction * M)), or 0 for fraction 0.

    Symbols: as in key_lift; the random entries are new for every layer and optimizer step, and depend on nothing else
    but the text up to the token.

    Raises:
        ConfigError: a setting out of its range.
    """

    random = True

    fraction: float = setting(0.01, "share of each row's coefficients that is overwritten (0.01 is 1 %)", low=0, high=1)
    alpha: float = setting(1.0, "multiple of the row's mean that they get")
    reference: str = setting("magnitude_mean", "mean |k| with signs kept, or the signed mean", choices=REFERENCES)
    detach_reference: bool = setting(False, "whether no gradient flows through the mean")

    @property
    def idle(self) -> bool:
        return self.fraction == 0

    def edit(self, k: torch.Tensor, context: Context) -> torch.Tensor:
        if context.strength == 0:
            return k
        assert context.keys is not None
        return overwrite_random(
            k,
            context.keys,
            fraction=self.fraction,
            alpha=self.alpha,
            reference=self.reference,
            detach_reference=self.detach_reference,
            strength=context.strength,
            seed=context.layer,
        )
