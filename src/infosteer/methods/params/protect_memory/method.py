"""Protection of the FFN memories: learn to read them without writing to them. Ours; see the card for its evidence."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from torch import Tensor, nn

from infosteer.core.config import setting
from infosteer.core.contract import SiteMethod
from infosteer.core.surfaces import Handle, ParamMethod, ParamTarget
from infosteer.methods.params.protect_memory.shares import Share, scale_update
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
        return Protection(shares_of(self.select(target.sites), self), fixed_strength=target.fixed_strength)


class Protection(Handle):
    """Frozen parameters and scaled updates, until undone."""

    def __init__(self, shares: Sequence[Share], *, fixed_strength: float | None) -> None:
        self.frozen: list[tuple[nn.Parameter, bool]] = []
        self.scaled: list[Share] = []
        self._hooks = []
        self._before: list[Tensor] = []
        self._stepped = False
        self._frozen_trained = False
        for share in shares:
            stops = fixed_strength is not None and _factor(share, fixed_strength) == 0
            if stops and share.dim is None:
                self._frozen_trained = self._frozen_trained or share.parameter.requires_grad
                self.frozen.append((share.parameter, share.parameter.requires_grad))
                share.parameter.requires_grad_(False)
                share.parameter.grad = None
            elif share.factor != 1 and share.parameter.requires_grad:
                self.scaled.append(share)
                if stops:
                    self._hooks.append(share.parameter.register_hook(share.mask_gradient))

    def parameters(self) -> list[nn.Parameter]:
        return [share.parameter for share in self.scaled]

    def before_step(self, strength: float) -> None:
        self._stepped = True
        self._before = [share.block(share.parameter.detach()).clone() for share in self.scaled] if strength else []

    def after_step(self, strength: float) -> None:
        for share, before in zip(self.scaled, self._before, strict=False):
            scale_update(share.block(share.parameter.data), before, _factor(share, strength))
        self._before = []

    def undo(self) -> None:
        for parameter, trained in self.frozen:
            parameter.requires_grad_(trained)
        for hook in self._hooks:
            hook.remove()
        self.frozen, self.scaled, self._hooks = [], [], []

    def touched(self) -> bool:
        return self._frozen_trained or bool(self.scaled)


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
                    if known is None or factor > known.factor:
                        shared[id(parameter)] = Share(name=name, parameter=parameter, factor=factor)
    return [*shares, *shared.values()]


def _factor(share: Share, strength: float) -> float:
    return max(0.0, 1 + strength * (share.factor - 1))
