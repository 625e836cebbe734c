"""Control of the intervention: the same rule on the largest entries."""

from __future__ import annotations

import dataclasses

import torch

from infosteer.core.config import setting
from infosteer.core.contract import Context
from infosteer.core.surfaces import InterventionMethod
from infosteer.ops.intervene import REFERENCES, overwrite
from infosteer.ops.select import ORDERS, check_choice, count_smallest, smallest


def damp(
    k: torch.Tensor,
    fraction: float = 0.01,
    alpha: float = 1.0,
    order: str = "magnitude",
    reference: str = "magnitude_mean",
    detach_reference: bool = False,
    strength: float = 1.0,
) -> torch.Tensor:
    """``k'_i = k_i + s (alpha * ref(k) * s_i - k_i)`` for the m largest entries i of every row.

    Args:
        k: (..., M) key coefficients.
        fraction: share of entries; exactly m = max(1, round(fraction * M)) a row, 0 when fraction is 0.
        order: ``"magnitude"`` takes the largest ``|k|``, ``"signed"`` the largest ``k``; ties lowest index first, NaN
            never while there is anything else.
        alpha, reference, detach_reference, strength: as in :func:`infosteer.ops.intervene.intervene`.

    Returns:
        (..., M) of k's dtype; k itself with strength 0 or fraction 0.
    """
    check_choice("order", order, ORDERS)
    m = count_smallest(fraction, k.shape[-1])
    if m == 0 or strength == 0:
        return k
    size = k.detach().abs() if order == "magnitude" else k.detach()
    return overwrite(k, smallest(-size, m, order="signed"), alpha, reference, detach_reference, strength)


@dataclasses.dataclass(kw_only=True)
class KeyDamp(InterventionMethod):
    """Overwrites the m largest key coefficients of each token by a multiple of the row's mean.

    Formula: ``k'_i = k_i + s (alpha * ref(k) * sign_i - k_i)`` for the m largest i, ``k'_i = k_i`` for the others;
    m = max(1, round(fraction * M)), or 0 for fraction 0.

    Symbols: as in key_lift. With alpha 0 the largest entries are switched off.

    Raises:
        ConfigError: a setting out of its range.
    """

    fraction: float = setting(0.01, "share of each row's coefficients that is overwritten (0.01 is 1 %)", low=0, high=1)
    alpha: float = setting(1.0, "multiple of the row's mean that they get")
    order: str = setting("magnitude", "largest by |k|, or by signed value", choices=ORDERS)
    reference: str = setting("magnitude_mean", "mean |k| with signs kept, or the signed mean", choices=REFERENCES)
    detach_reference: bool = setting(False, "whether no gradient flows through the mean")

    @property
    def idle(self) -> bool:
        return self.fraction == 0

    def edit(self, k: torch.Tensor, context: Context) -> torch.Tensor:
        return damp(
            k,
            fraction=self.fraction,
            alpha=self.alpha,
            order=self.order,
            reference=self.reference,
            detach_reference=self.detach_reference,
            strength=context.strength,
        )
