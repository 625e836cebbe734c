"""Parameters, or parts of them, that learn at a factor of the optimizer's rate: what params methods share.

Legend: M memories (FFN width), D hidden.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from infosteer.core.params import Handle
from infosteer.core.sharding import is_sharded
from infosteer.errors import AttachError

# torch optimizers whose weight decay is part of the gradient unless a group says otherwise
_COUPLED = (torch.optim.SGD, torch.optim.Adagrad, torch.optim.RMSprop, torch.optim.Adadelta, torch.optim.ASGD)


def weight_decay(optimizer: torch.optim.Optimizer | None, group: Mapping[str, Any]) -> tuple[float, float]:
    """(weight decay that the optimizer applies to the weights themselves, that which it adds to the gradient)."""
    decay = float(group.get("weight_decay", 0.0))
    coupled = isinstance(optimizer, _COUPLED) or group.get("decoupled_weight_decay") is False
    return (0.0, decay) if coupled else (decay, 0.0)


def left_out(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the step did nothing: a scaler tells fused optimizers that gradients were not finite."""
    found = vars(optimizer).get("found_inf")
    return found is not None and bool(found)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Share:
    """A parameter, or a block of it, with the factor on its learning rate.

    Attributes:
        name: dotted name in the model.
        parameter: the whole parameter.
        factor: at strength 1; a number, or a tensor that broadcasts against the block (bool for 0 and 1).
        dim: axis of the block; None when the share is all of the parameter.
        start: first index of the block along ``dim``.
        length: number of indices.
    """

    name: str
    parameter: nn.Parameter
    factor: float | Tensor
    dim: int | None = None
    start: int = 0
    length: int = 0

    def block(self, tensor: Tensor) -> Tensor:
        """The share's part of a tensor shaped like the parameter."""
        return tensor if self.dim is None else tensor.narrow(self.dim, self.start, self.length)

    def at(self, strength: float) -> float | Tensor:
        """``max(0, 1 + s (f - 1))``; a tensor where the factor is one, on the parameter's device and in its dtype."""
        if isinstance(self.factor, Tensor):
            return (1 + strength * (self.factor.to(self.parameter) - 1)).clamp(min=0)
        return max(0.0, 1 + strength * (self.factor - 1))

    def mask_gradient(self, gradient: Tensor, strength: float) -> Tensor:
        """The gradient with the parts set to 0 that do not learn, so that clipping does not see what they would do."""
        masked, factor = gradient.clone(), self.at(strength)
        if isinstance(factor, Tensor):
            self.block(masked).mul_(factor != 0)
        else:
            self.block(masked).zero_()
        return masked

    def stops(self, strength: float) -> bool:
        """Whether no entry learns."""
        factor = self.at(strength)
        return not bool(factor.any()) if isinstance(factor, Tensor) else factor == 0

    def held(self, strength: float) -> int:
        """How many entries do not learn at all."""
        factor, block = self.at(strength), self.block(self.parameter.detach())
        if isinstance(factor, Tensor):
            return int((factor == 0).expand_as(block).sum())
        return block.numel() if factor == 0 else 0


class ScaledUpdates(Handle):
    """Frozen parameters and scaled updates, until undone.

    Whole parameters whose factor is 0 in every step are taken out of training (no gradient, no optimizer state); parts
    that never learn get no gradient; all else is scaled around the optimizer step, which costs a copy of it meanwhile.
    """

    def __init__(self, shares: Sequence[Share], *, fixed_strength: float | None) -> None:
        self.frozen: list[tuple[nn.Parameter, bool]] = []
        self.scaled: list[Share] = []
        self.held = 0
        self._hooks = []
        self._before: list[Tensor] = []
        self._frozen_trained = False
        for share in shares:
            if not share.parameter.requires_grad:
                continue
            held = 0 if fixed_strength is None else share.held(fixed_strength)
            self.held += held
            # Not by counting: a shard that lies elsewhere has no entries.
            if share.dim is None and fixed_strength is not None and share.stops(fixed_strength):
                self._frozen_trained = True
                self.frozen.append((share.parameter, share.parameter.requires_grad))
                share.parameter.requires_grad_(False)
                share.parameter.grad = None
            elif isinstance(share.factor, Tensor) or share.factor != 1:
                self.scaled.append(share)
                if held and fixed_strength is not None:
                    self._hooks.append(share.parameter.register_hook(self._masking(share, fixed_strength)))

    def parameters(self) -> list[nn.Parameter]:
        return [share.parameter for share in self.scaled]

    def follow(self, now: Mapping[int, nn.Parameter], label: str) -> None:
        for share in self.scaled:
            parameter = now.get(id(share.parameter), share.parameter)
            if is_sharded(parameter) and (share.dim is not None or isinstance(share.factor, Tensor)):
                raise AttachError(
                    "parts of a parameter cannot be protected where the parameter is sharded",
                    where=f"{label}: {share.name}",
                    got="a DTensor (FSDP2), of which each process holds some rows",
                    expected="one factor for a whole parameter",
                    fix="protect whole projections, or train with DDP",
                )
        self.scaled = [
            dataclasses.replace(share, parameter=now.get(id(share.parameter), share.parameter)) for share in self.scaled
        ]
        self.frozen = [(now.get(id(parameter), parameter), trained) for parameter, trained in self.frozen]

    def before_step(self, strength: float) -> None:
        self._before = [share.block(share.parameter.detach()).clone() for share in self.scaled] if strength else []

    def after_step(self, strength: float) -> None:
        for share, before in zip(self.scaled, self._before, strict=False):
            scale_update(share.block(share.parameter.data), before, share.at(strength))
        self._before = []

    def undo(self) -> None:
        for parameter, trained in self.frozen:
            parameter.requires_grad_(trained)
        for hook in self._hooks:
            hook.remove()
        self.frozen, self.scaled, self._hooks = [], [], []

    def touched(self) -> bool:
        return self._frozen_trained or bool(self.scaled)

    def metrics(self) -> dict[str, float]:
        return {"frozen_weights": float(self.held)}

    @staticmethod
    def _masking(share: Share, strength: float) -> Callable[[Tensor], Tensor]:
        return lambda gradient: share.mask_gradient(gradient, strength)


@torch.no_grad()
def scale_update(parameter: Tensor, before: Tensor, factor: float | Tensor) -> None:
    """Scales what an optimizer step did: ``w <- w_before + f (w - w_before)``, in place.

    It equals a learning rate of f * lr for every optimizer whose update is linear in it (SGD, AdamW with decoupled
    weight decay, Lion, ...), and defines it for the others. Where f = 0 it restores ``before`` exactly, where f = 1 it
    changes nothing.

    Args:
        parameter: weights after the step.
        before: the same weights before the step.
        factor: f >= 0, a number or a tensor that broadcasts against the weights.

    Raises:
        AttachError: the weights were resharded during the step.
    """
    if parameter.shape != before.shape:
        raise AttachError(
            "a protected parameter changed its shape during an optimizer step",
            got=tuple(parameter.shape),
            expected=tuple(before.shape),
            fix="protect whole roles with factor 0 under ZeRO-3 or FSDP1",
        )
    if isinstance(factor, Tensor):
        parameter.copy_(torch.lerp(before, parameter, factor.expand_as(before)))
    elif factor == 0:
        parameter.copy_(before)
    elif factor != 1:
        parameter.copy_(torch.lerp(before, parameter, factor))
