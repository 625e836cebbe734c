"""Control of the intervention: a change of the same size in a random direction."""

from __future__ import annotations

import dataclasses

import torch

from infosteer.core.config import setting
from infosteer.core.contract import Context
from infosteer.core.surfaces import InterventionMethod
from infosteer.ops.counter import normal
from infosteer.ops.intervene import REFERENCES, intervene
from infosteer.ops.select import ORDERS, check_choice

NORMS = ("lift", "relative")


def add_noise(
    k: torch.Tensor,
    keys: torch.Tensor,
    norm: str = "lift",
    fraction: float = 0.01,
    alpha: float = 1.0,
    order: str = "magnitude",
    reference: str = "magnitude_mean",
    relative: float = 0.05,
    strength: float = 1.0,
    seed: int = 0,
) -> torch.Tensor:
    """``k' = k + s r z / ||z||``, z standard normal, r the row's length of change; r and z carry no gradient.

    Args:
        k: (..., M) key coefficients.
        keys: (N,) int64, one for every row of k flattened to (N, M), from which the random numbers come.
        norm: ``"lift"``: r = ||intervene(k) - k|| with the settings that follow; ``"relative"``: r = relative * ||k||.
        fraction, alpha, order, reference: as in :func:`infosteer.ops.intervene.intervene`.
        relative: length of the noise as a multiple of that of the row.
        strength: s.
        seed: another seed gives other noise for the same keys.

    Returns:
        (..., M) of k's dtype; k itself with strength 0. A row without change gets no noise.
    """
    check_choice("norm", norm, NORMS)
    if strength == 0:
        return k
    wide = torch.float64 if k.dtype == torch.float64 else torch.float32
    plain = k.detach()
    if norm == "lift":
        lifted = intervene(plain, fraction=fraction, alpha=alpha, order=order, reference=reference)
        length = (lifted.to(wide) - plain.to(wide)).norm(dim=-1, keepdim=True)
    else:
        length = relative * plain.to(wide).norm(dim=-1, keepdim=True)
    noise = normal(keys, k.shape[-1], seed).to(wide).view(k.shape)
    noise = noise * (strength * length / noise.norm(dim=-1, keepdim=True))
    return (k.to(wide) + noise).to(k.dtype)


@dataclasses.dataclass(kw_only=True)
class KeyNoise(InterventionMethod):
    """Adds Gaussian noise to the key coefficients of each token, of a given length.

    Formula: ``k' = k + s r z / ||z||``, z ~ N(0, 1) in every entry.

    Symbols: k (..., M) key coefficients; r, by row: ``norm: lift``: ||k'_lift - k||, the length of the change that
    key_lift makes with the same fraction, alpha, order and reference at strength 1; ``norm: relative``:
    relative * ||k||. The noise is new for every layer and optimizer step; s: strength.

    Raises:
        ConfigError: a setting out of its range.
    """

    random = True

    norm: str = setting("lift", "as long as key_lift's change of the row, or relative to the row", choices=NORMS)
    fraction: float = setting(0.01, "share that key_lift would overwrite (norm lift)", low=0, high=1)
    alpha: float = setting(1.0, "multiple of the row's mean that it would write (norm lift)")
    order: str = setting("magnitude", "which entries it would take as the smallest (norm lift)", choices=ORDERS)
    reference: str = setting("magnitude_mean", "the mean that it would write (norm lift)", choices=REFERENCES)
    relative: float = setting(0.05, "length of the noise as a share of the row's (norm relative)", low=0)

    @property
    def idle(self) -> bool:
        return (self.fraction if self.norm == "lift" else self.relative) == 0

    def edit(self, k: torch.Tensor, context: Context) -> torch.Tensor:
        if context.strength == 0:
            return k
        assert context.keys is not None
        return add_noise(
            k,
            context.keys,
            norm=self.norm,
            fraction=self.fraction,
            alpha=self.alpha,
            order=self.order,
            reference=self.reference,
            relative=self.relative,
            strength=context.strength,
            seed=context.layer,
        )
