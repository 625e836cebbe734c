"""Resuscitation of idle memories before training (Kim et al., arXiv 2410.01380, ICLR 2025, Algorithm 1)."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from typing import ClassVar

from torch import nn

from infosteer.core.config import setting
from infosteer.core.contract import SiteMethod
from infosteer.core.params import Handle, ParamMethod, ParamTarget
from infosteer.errors import ConfigError
from infosteer.methods.params.resuscitation.edit import Edit, resuscitate, revert

logger = logging.getLogger(__name__)


@dataclasses.dataclass(kw_only=True)
class Resuscitation(SiteMethod, ParamMethod):
    """Rescales, once before training, the keys of the memories that the calibration text uses least.

    Formula: ``W_up[i] <- u_i W_up[i]``, ``u_i = 1 + s (q mean(C) / C_i - 1)`` for the ``percentile`` % least used
    memories of a layer.

    Symbols: C_i mean |k_i| on the calibration text (:mod:`infosteer.core.usage`), s strength.

    Raises:
        ConfigError: no calibration text, a strength that is a schedule, or layers that do not exist.
        ArchitectureError: a plain FFN with an activation that is not homogeneous, with ``edit: keys``.
        AttachError: adapters on the edited projection.
    """

    calibrates: ClassVar[bool] = True

    percentile: float = setting(50.0, "memories whose use is at or below this percentile are rescaled", low=0, high=100)
    q: float = setting(1.0, "their use becomes q times the layer's mean; above 0", low=1e-6)
    edit: str = setting("keys", "what is rescaled: W_up, or the memory vectors W_down", choices=("keys", "values"))
    restore: bool = setting(False, "divide the rows by their factors again when the session is removed")

    def apply(self, target: ParamTarget) -> Handle:
        if target.fixed_strength is None:
            raise ConfigError(
                "resuscitation acts once, before training: its strength is a number",
                where="resuscitation.strength",
                got="a schedule",
            )
        edits = resuscitate(
            target.model,
            self.select(target.sites),
            target.usage(),
            percentile=self.percentile,
            q=self.q,
            strength=target.fixed_strength,
            edit="values" if self.edit == "values" else "keys",
        )
        logger.info("resuscitation: %d rows of %d weights rescaled", sum(len(e.indices) for e in edits), len(edits))
        return Resuscitated(edits, restore=self.restore)


class Resuscitated(Handle):
    """The record of the edit, which needs nothing around steps and is taken back only on request."""

    def __init__(self, edits: Sequence[Edit], *, restore: bool) -> None:
        self.edits, self.restore = list(edits), restore

    def parameters(self) -> list[nn.Parameter]:
        return []

    def before_step(self, strength: float) -> None:
        """Nothing: the edit is done."""

    def after_step(self, strength: float) -> None:
        """Nothing."""

    def undo(self) -> None:
        if self.restore:
            revert(self.edits)
        self.edits = []

    def touched(self) -> bool:
        return any(len(edit.indices) for edit in self.edits)
