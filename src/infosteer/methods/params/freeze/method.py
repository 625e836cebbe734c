"""Parts of the model that do not learn, or learn more slowly: the arm "attention frozen instead", and others."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from infosteer.core.config import setting, suggestion
from infosteer.core.contract import SiteMethod
from infosteer.core.params import Handle, ParamMethod, ParamTarget
from infosteer.core.updates import ScaledUpdates, Share
from infosteer.errors import ConfigError
from infosteer.models import PARTS, place_parameters


@dataclasses.dataclass(kw_only=True)
class Freeze(SiteMethod, ParamMethod):
    """Multiplies the learning rate of the named parts by a factor; 0 freezes them.

    Formula: ``w <- w_before + e (w_step - w_before)`` after every optimizer step, e = 1 + s (f - 1), s strength, f
    ``factor``; with constant e = 0 the parameters are taken out of training (no gradient, no optimizer state).

    A weight that is embedding and head at once belongs to both. ``layers`` is about what lies in layers. With LoRA the
    adapters of a part are meant.

    Raises:
        ConfigError: an unknown part, or one that the model does not have.
        NoEffectError: at the first optimizer step, when none of it is being trained.
    """

    parts: str | Sequence[str] = dataclasses.field(
        default=("attention",),
        metadata={"help": f"one or more of {', '.join(PARTS)}, as a list or joined by +"},
    )
    factor: float = setting(0.0, "learning-rate factor of the parts", low=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        given = self.parts.split("+") if isinstance(self.parts, str) else self.parts
        self.parts = [part.strip() if isinstance(part, str) else part for part in given]
        unknown = [part for part in self.parts if part not in PARTS]
        if unknown or not self.parts:
            raise ConfigError(
                "unknown part of a model" + suggestion(unknown[0], PARTS) if unknown else "no part is named",
                where="freeze.parts",
                got=unknown or self.parts,
                expected=", ".join(PARTS),
            )

    @property
    def idle(self) -> bool:
        return self.factor == 1

    def apply(self, target: ParamTarget) -> Handle:
        layers = {None, *(site.layer for site in self.select(target.sites))}
        placed = [item for item in place_parameters(target.model, target.sites) if item.layer in layers]
        missing = [part for part in self.parts if not any(part in item.parts for item in placed)]
        if missing:
            raise ConfigError(
                "the model has no weights of this part",
                where="freeze.parts",
                got=", ".join(missing),
                expected=", ".join(sorted({part for item in placed for part in item.parts})),
            )
        shares = [
            Share(name=item.name, parameter=item.parameter, factor=self.factor)
            for item in placed
            if set(item.parts) & set(self.parts)
        ]
        return ScaledUpdates(shares, fixed_strength=target.fixed_strength)
