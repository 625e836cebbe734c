"""RecAdam (Chen et al., arXiv 2004.12651, EMNLP 2020): recall the old weights while learning the new task."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn

from infosteer.core.config import setting
from infosteer.core.params import Handle, ParamMethod, ParamTarget
from infosteer.errors import ConfigError
from infosteer.methods.params.recadam.anchor import read_anchor
from infosteer.methods.params.recadam.anneal import SHAPES
from infosteer.methods.params.recadam.pull import Pull


@dataclasses.dataclass(kw_only=True)
class RecAdam(ParamMethod):
    """Scales the task's update by an annealed lambda and pulls the weights to where they started.

    Formula, at step t from 1, around the step of AdamW (or another optimizer), whose own update is u:
    ``w <- w + lambda(t) u``, then ``w <- w - lr (W - lambda(t)) gamma (w - w*)``, then ``w <- w - lr wd w``.
    At strength s: lambda in the first becomes 1 + s (lambda - 1), and the pull is multiplied by s.

    Symbols: w* the weights when steering began, or those of ``anchor``; W the setting ``w``; lambda :func:`annealed`;
    gamma the weight of the quadratic penalty, or ``pull / lr_max``; wd the optimizer's weight decay.

    Raises:
        ConfigError: a value out of range, ``unanchored`` patterns that match no parameter, an ``anchor`` that does not
            fit the model; at the first step, a ``t0``
            below 1 where the number of steps is not known.
        NoEffectError: at the first optimizer step, when no parameter that would be pulled is being trained.
        AttachError: weights that are resharded during a step.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": {"gamma": 5000.0, "k": 0.5, "t0": 250.0}}

    anneal: str = setting("sigmoid", "how lambda goes from recall (0) to the task (w)", choices=SHAPES)
    k: float = setting(0.1, "sigmoid: steepness, by step", low=0)
    t0: float = setting(
        0.25, "step at which lambda is w/2 (sigmoid) or reaches w (linear); below 1: share of all steps", low=0
    )
    w: float = setting(1.0, "largest lambda; 0 switches the method off", low=0)
    pull: float = setting(0.1, "share of the way back that a step takes at lambda 0, full rate", low=0, high=1)
    gamma: float = setting(0.0, "above 0: weight of the quadratic penalty, in place of pull / lr", low=0)
    unanchored: Sequence[str] = dataclasses.field(
        default=(), metadata={"help": "patterns of parameter names without pull or annealing, for new heads"}
    )
    anchor: str = setting("", "folder of a saved model to pull to; empty for the weights when steering begins")
    start: str = setting("pretrained", "where training starts", choices=("pretrained", "random"))
    seed: int = setting(0, "of a random start", low=0, high=2**63 - 1)
    keep: str = setting("model", "where w* is kept: on the model's devices, or on the cpu", choices=("model", "cpu"))
    anchor_dtype: str = setting("same", "type in which w* is kept", choices=("same", "bfloat16"))

    def __post_init__(self) -> None:
        super().__post_init__()
        listed = isinstance(self.unanchored, Sequence) and not isinstance(self.unanchored, str)
        if not listed or not all(isinstance(pattern, str) for pattern in self.unanchored):
            raise ConfigError(
                "expected a list of patterns",
                where="recadam.unanchored",
                got=self.unanchored,
                expected='e.g. ["score.*"]',
            )
        self.unanchored = list(self.unanchored)

    @property
    def idle(self) -> bool:
        return self.w == 0 or (self.anneal == "constant" and self.w == 1)  # the plain optimizer

    def apply(self, target: ParamTarget) -> Handle:
        named = [(name, p) for name, p in target.model.named_parameters() if p.requires_grad]
        for pattern in self.unanchored:
            if not any(fnmatch.fnmatchcase(name, pattern) for name, _ in named):
                raise ConfigError("no trained parameter has such a name", where="recadam.unanchored", got=pattern)
        chosen = [item for item in named if not any(fnmatch.fnmatchcase(item[0], x) for x in self.unanchored)]
        anchored = [parameter for _, parameter in chosen]
        handle = Pull(
            anchored,
            anneal={"shape": self.anneal, "k": self.k, "t0": self.t0, "w": self.w},
            gamma=self.gamma,
            pull=self.pull,
            keep=self.keep,
            dtype=torch.bfloat16 if self.anchor_dtype == "bfloat16" else None,
            anchors=read_anchor(self.anchor, chosen) if self.anchor else None,
        )
        if self.start == "random":
            _randomise(anchored, self.seed)
        return handle


@torch.no_grad()
def _randomise(parameters: Sequence[nn.Parameter], seed: int) -> None:
    """Matrices from a normal distribution with the spread of their own entries; vectors (norms, biases) stay."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        if parameter.dim() >= 2:
            drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
            parameter.copy_(drawn * float(parameter.float().std()))
