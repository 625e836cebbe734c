"""What RecAdam does around an optimizer step: scale the task's update, then pull to the anchor."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from infosteer.core.params import Handle
from infosteer.core.updates import left_out, weight_decay
from infosteer.errors import AttachError, ConfigError
from infosteer.methods.params.recadam.anneal import annealed

logger = logging.getLogger(__name__)


class Pull(Handle):
    """The anchor (a copy of the weights at the start) and the updates around every step.

    Args:
        anchored: parameters that are pulled; others learn as ever.
        anneal: settings of :func:`annealed`; a ``t0`` below 1 is a share of all steps.
        gamma: weight of the quadratic penalty; 0 derives it from ``pull``.
        pull: share of the distance that a step takes back while lambda is 0 and the rate at its highest.
        keep: "model" or "cpu"; dtype: of the anchor, None for the parameter's own.
        anchors: what they are pulled to, in their order; None for where they are now.
    """

    def __init__(
        self,
        anchored: Sequence[nn.Parameter],
        *,
        anneal: Mapping[str, Any],
        gamma: float,
        pull: float,
        keep: str,
        dtype: torch.dtype | None,
        anchors: Sequence[Tensor] | None = None,
    ) -> None:
        self.anchored, self.anneal, self.gamma, self.pull = list(anchored), dict(anneal), gamma, pull
        targets = self.anchored if anchors is None else anchors
        self.anchors = {id(p): _copy(t, keep, dtype) for p, t in zip(self.anchored, targets, strict=True)}
        self._optimizer: torch.optim.Optimizer | None = None
        self._step, self._strength = 0, 1.0
        self._before: list[tuple[nn.Parameter, Tensor, dict[str, Any]]] = []
        self._warned = False

    def parameters(self) -> list[nn.Parameter]:
        return list(self.anchored)

    def see_optimizer(self, optimizer: torch.optim.Optimizer, step: int, total_steps: int | None) -> None:
        self._optimizer, self._step = optimizer, step + 1
        t0, shape = self.anneal["t0"], self.anneal["shape"]
        if 0 < t0 < 1 and (shape == "linear" or (shape == "sigmoid" and self.anneal["k"] > 0)):  # else it has no part
            if not total_steps:
                raise ConfigError(
                    "a share of all steps needs the number of steps",
                    where="recadam.t0",
                    got=t0,
                    fix="pass total_steps= to infosteer.steer, or give t0 in steps",
                )
            self.anneal["t0"] = t0 * total_steps

    def before_step(self, strength: float) -> None:
        self._before, self._strength = [], strength
        if strength == 0 or self._optimizer is None:
            return
        for group in self._optimizer.param_groups:
            self._before += [
                (p, p.detach().clone(), group) for p in group["params"] if id(p) in self.anchors and p.grad is not None
            ]

    @torch.no_grad()
    def after_step(self, strength: float) -> None:
        if self._optimizer is not None and left_out(self._optimizer):
            self._before = []
            return
        task, recall = self.weights()
        for parameter, before, group in self._before:
            # A scheduler writes the highest rate into the group; without one the rate stays what it is.
            rate, highest = float(group["lr"]), float(group.get("initial_lr", group["lr"]))
            gamma = self.gamma or (self.pull / highest if highest else 0.0)
            share = rate * gamma * recall
            if share > 1 and not self._warned:
                self._warned = True
                logger.warning(
                    "recadam: the pull would overshoot (lr * gamma * (w - lambda) = %.3g); it is held at 1", share
                )
            decay = rate * weight_decay(self._optimizer, group)[0]
            _refuse_resharded(parameter, before)
            self._update(parameter, before, task, min(share, 1.0), decay)
        self._before = []

    def _update(self, parameter: nn.Parameter, before: Tensor, task: float, share: float, decay: float) -> None:
        # torch decays first: what is left of the step after the decay is the task's.
        update = parameter.data - before * (1 - decay)
        moved = before + task * update
        anchor = self.anchors[id(parameter)].to(device=moved.device, dtype=moved.dtype)
        moved -= share * (moved - anchor)
        parameter.data.copy_(moved * (1 - decay))

    def weights(self) -> tuple[float, float]:
        """(factor on the task's update, weight of the pull) at the last step: 1 + s (lambda - 1) and s (w - lambda)."""
        coefficient = annealed(max(self._step, 1), **self.anneal)
        return 1 + self._strength * (coefficient - 1), self._strength * (self.anneal["w"] - coefficient)

    def undo(self) -> None:
        self.anchored, self.anchors, self._before = [], {}, []

    def touched(self) -> bool:
        return bool(self.anchored)

    @torch.no_grad()
    def metrics(self) -> dict[str, float]:
        """``distance``: the Euclidean distance to the anchor; ``task_weight``: lambda at the last step."""
        if not self.anchored:
            return {}
        squares = torch.stack(
            [(p.detach() - self.anchors[id(p)].to(p)).double().square().sum().cpu() for p in self.anchored]
        )
        return {"distance": float(squares.sum().sqrt()), "task_weight": self.weights()[0]}


def _refuse_resharded(parameter: nn.Parameter, before: Tensor) -> None:
    if parameter.shape != before.shape:
        raise AttachError(
            "a pulled parameter changed its shape during an optimizer step",
            got=tuple(parameter.shape),
            expected=tuple(before.shape),
            fix="RecAdam needs whole parameters: use DDP instead of ZeRO-3 or FSDP1",
        )


@torch.no_grad()
def _copy(parameter: Tensor, keep: str, dtype: torch.dtype | None) -> Tensor:
    found = parameter.detach()
    return found.to(device="cpu" if keep == "cpu" else found.device, dtype=dtype or found.dtype, copy=True)
