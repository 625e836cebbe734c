"""Weights between the start and the end of training (WiSE-FT: Wortsman et al., CVPR 2022, arXiv 2109.01903)."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from infosteer.core.config import setting
from infosteer.core.params import Handle, ParamMethod, ParamTarget
from infosteer.core.updates import scale_update

logger = logging.getLogger(__name__)


@dataclasses.dataclass(kw_only=True)
class WeightInterpolation(ParamMethod):
    """Moves the trained weights part of the way back to where they started, once, when training ends.

    Formula: ``w <- (1 - e) w_start + e w_trained``, e = 1 + s (alpha - 1), over every trained parameter.

    Symbols: w_start the weights when steering began; s strength at the last step.

    Raises:
        NoEffectError: at the first optimizer step, when no parameter is being trained.
        AttachError: at the end, when weights were resharded meanwhile (ZeRO-3, FSDP1).
    """

    alpha: float = setting(0.5, "share of the way from the start to the trained weights", low=0, high=1)
    keep: str = setting(
        "model", "where the start is kept: on the model's devices, or the cpu", choices=("model", "cpu")
    )

    @property
    def idle(self) -> bool:
        return self.alpha == 1

    def apply(self, target: ParamTarget) -> Handle:
        return Interpolated([p for p in target.model.parameters() if p.requires_grad], self.alpha, self.keep)


class Interpolated(Handle):
    """Holds the start until the end."""

    def __init__(self, trained: Sequence[nn.Parameter], alpha: float, keep: str) -> None:
        self.trained, self.alpha = list(trained), alpha
        self.start: list[Tensor] = [_kept(parameter, keep) for parameter in trained]
        self._stepped = False

    def parameters(self) -> list[nn.Parameter]:
        return list(self.trained)

    def before_step(self, strength: float) -> None:
        self._stepped = True

    def after_step(self, strength: float) -> None:
        """Nothing: all happens at the end."""

    def finish(self, strength: float) -> None:
        for parameter, start in zip(self.trained, self.start, strict=True):
            scale_update(parameter.data, start.to(parameter.device), max(0.0, 1 + strength * (self.alpha - 1)))
        self.start, self._stepped = [], False

    def undo(self) -> None:
        if self._stepped:
            logger.warning("weight_interpolation: the session ends without session.finish(); nothing is interpolated")
        self.trained, self.start = [], []

    def touched(self) -> bool:
        return bool(self.trained)


@torch.no_grad()
def _kept(parameter: nn.Parameter, keep: str) -> Tensor:
    start = parameter.detach()
    return start.to("cpu", copy=True) if keep == "cpu" else start.clone()
