"""Protection of the memories that a text uses: each memory's weights learn the less, the more it is used. Ours."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor

from infosteer.core.config import setting
from infosteer.core.contract import SiteMethod
from infosteer.core.params import Handle, ParamMethod, ParamTarget
from infosteer.core.updates import ScaledUpdates, Share
from infosteer.errors import AttachError
from infosteer.models import Site, is_adapted, memory_axes
from infosteer.models.sites import RoleName

PROFILES = ("proportional", "rank", "share")
ROLES: tuple[RoleName, ...] = ("values", "keys", "gates")


def protection_by_use(
    usage: Tensor, profile: str = "proportional", share: float = 0.5, full_at: float = 0.9, reverse: bool = False
) -> Tensor:
    """How much each memory of a layer is protected, 0 (learns as ever) to 1 (does not learn).

    Formula: with u = ``usage``, ``proportional``: ``g_i = min(1, u_i / Q(full_at))``, Q the quantile of u;
    ``rank``: ``g_i = r_i / (M - 1)``, r_i the rank of u_i from 0; ``share``: 1 for the ``round(share M)`` largest u_i,
    else 0. Equal u: the later memory counts as the more used. ``reverse`` hands the same values g out in the opposite
    order of use, so that the sum of protection stays.

    Args:
        usage: (M,) mean magnitudes of the coefficients.

    Returns:
        (M,) float64.
    """
    used, count = usage.double(), len(usage)
    order = torch.argsort(used, stable=True)
    if profile == "proportional":
        top = torch.quantile(used, full_at)
        protection = (used / top).clamp(max=1) if top > 0 else (used > 0).double()
    else:
        rank = torch.empty(count, dtype=torch.float64)
        rank[order] = torch.arange(count, dtype=torch.float64)
        protection = rank / max(count - 1, 1) if profile == "rank" else (rank >= count - round(share * count)).double()
    if reverse:
        protection = protection.index_copy(0, order, protection[order.flip(0)])
    return protection


@dataclasses.dataclass(kw_only=True)
class ProtectUsed(SiteMethod, ParamMethod):
    """Multiplies the update of memory i by ``1 - s g(u_i)``, u_i its mean |k| on the calibration text.

    Formula: :func:`protection_by_use`; ``w_i <- w_before_i + (1 - s g_i) (w_step_i - w_before_i)`` after every step,
    for what memory i has of its own: its row of W_down, of W_up and W_gate, and its entries of their biases.

    Symbols: s strength; w_i the weights of memory i. The bias of W_down, which all memories share, learns as ever.

    Raises:
        ConfigError: no calibration text, or layers that do not exist.
        AttachError: ``values`` while an adapter is on W_down: a memory has no row of its own there.
        NoEffectError: at the first optimizer step, when nothing that is protected is being trained.
    """

    calibrates: ClassVar[bool] = True

    profile: str = setting("proportional", "how protection grows with use", choices=PROFILES)
    share: float = setting(0.5, "profile share: this share of each layer's memories does not learn", low=0, high=1)
    full_at: float = setting(
        0.9, "profile proportional: the quantile of use from which on a memory does not learn", low=0, high=1
    )
    reverse: bool = setting(False, "hand the same protection out in the opposite order of use (a control)")
    values: bool = setting(True, "protect the rows of W_down, the memory vectors")
    keys: bool = setting(True, "protect the rows of W_up (W_in in a plain FFN), the keys")
    gates: bool = setting(True, "protect the rows of W_gate")

    @property
    def idle(self) -> bool:
        return not (self.values or self.keys or self.gates) or (self.profile == "share" and self.share == 0)

    def apply(self, target: ParamTarget) -> Handle:
        usage = target.usage()
        shares = [share for site in self.select(target.sites) for share in self._shares(site, usage[site.layer])]
        return ScaledUpdates(shares, fixed_strength=target.fixed_strength)

    def _shares(self, site: Site, usage: Tensor) -> Iterator[Share]:
        factor = 1 - protection_by_use(usage, self.profile, self.share, self.full_at, self.reverse)
        for role in ROLES:
            if not getattr(self, role):
                continue
            if role == "values" and is_adapted(site, role):
                raise AttachError(
                    "in an adapter on W_down a memory has no row of its own that could be protected",
                    where=site.name,
                    got="protect_used.values: true",
                    fix="set values: false, take W_down out of target_modules, or train all weights",
                )
            for name, parameter, axis, first in memory_axes(site, role):
                shape = [1] * parameter.dim()
                shape[axis] = site.width
                whole = parameter.shape[axis] == site.width
                yield Share(
                    name=name,
                    parameter=parameter,
                    factor=factor.float().view(shape),
                    dim=None if whole else axis,
                    start=first,
                    length=site.width,
                )
