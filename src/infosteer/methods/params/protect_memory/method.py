"""Protection of the FFN memories: learn to read them without writing to them. Ours; see the card for its evidence."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from infosteer.core.config import setting
from infosteer.core.contract import SiteMethod
from infosteer.core.params import Handle, ParamMethod, ParamTarget
from infosteer.core.updates import ScaledUpdates, Share
from infosteer.models import Site, parameters_of

ROLES = ("values", "keys", "gates")


@dataclasses.dataclass(kw_only=True)
class ProtectMemory(SiteMethod, ParamMethod):
    """Multiplies the learning rate of FFN weights by a factor for each role; 0 freezes, 1 leaves as is.

    Formula: ``w <- w_before + e (w_step - w_before)`` after every optimizer step, e = 1 + s (f - 1); a whole parameter
    with constant e = 0 is taken out of training instead (no gradient, no optimizer state).

    Symbols: f factor of the role: values W_down, keys W_up (W_in in a plain FFN), gates W_gate; s strength.
    With LoRA the factors act on the adapters of these projections. In a fused gate_up projection each half has its own
    factor; what both halves share (lora_A) gets the larger one.

    Raises:
        ConfigError: a negative factor, or layers that do not exist.
        NoEffectError: at the first optimizer step, when nothing that is protected is being trained.
    """

    values: float = setting(0.0, "learning-rate factor of W_down, the memory vectors", low=0)
    keys: float = setting(0.0, "learning-rate factor of W_up (W_in in a plain FFN), the keys", low=0)
    gates: float = setting(0.0, "learning-rate factor of W_gate", low=0)

    @property
    def idle(self) -> bool:
        return self.values == self.keys == self.gates == 1

    def apply(self, target: ParamTarget) -> Handle:
        return ScaledUpdates(shares_of(self.select(target.sites), self), fixed_strength=target.fixed_strength)


def shares_of(sites: Sequence[Site], factors: ProtectMemory) -> list[Share]:
    """Every parameter that belongs to a role of these sites, with its factor.

    A parameter that several roles share (``lora_A`` of a fused projection) gets the largest of their factors.
    """
    shares: list[Share] = []
    shared: dict[int, Share] = {}
    for site in sites:
        for role_name, roles in site.roles.items():
            factor = float(getattr(factors, role_name))
            for role in roles:
                for name, parameter, dim, rows in parameters_of(role):
                    if dim is not None and rows is not None:
                        start, stop, _ = rows.indices(parameter.shape[dim])
                        shares.append(
                            Share(
                                name=name, parameter=parameter, factor=factor, dim=dim, start=start, length=stop - start
                            )
                        )
                        continue
                    known = shared.get(id(parameter))
                    if known is None or bool(factor > known.factor):
                        shared[id(parameter)] = Share(name=name, parameter=parameter, factor=factor)
    return [*shares, *shared.values()]
