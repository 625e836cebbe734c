"""The part of a parameter that one role owns, and the scaled update of such a part."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from infosteer.errors import AttachError


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Share:
    """A parameter, or a block of its output features, with the learning-rate factor of its role.

    Attributes:
        name: dotted name in the model.
        parameter: the whole parameter.
        factor: learning-rate factor at strength 1.
        dim: axis of the block; None when the role owns all of the parameter.
        start: first index of the block along ``dim``.
        length: number of indices.
    """

    name: str
    parameter: nn.Parameter
    factor: float
    dim: int | None = None
    start: int = 0
    length: int = 0

    def block(self, tensor: Tensor) -> Tensor:
        """The role's part of a tensor shaped like the parameter."""
        return tensor if self.dim is None else tensor.narrow(self.dim, self.start, self.length)

    def mask_gradient(self, gradient: Tensor) -> Tensor:
        """The gradient with the role's part set to 0, so that clipping does not see what a frozen part would do."""
        masked = gradient.clone()
        self.block(masked).zero_()
        return masked


@torch.no_grad()
def scale_update(parameter: Tensor, before: Tensor, factor: float) -> None:
    """Scales what an optimizer step did: ``w <- w_before + f (w - w_before)``, in place.

    It equals a learning rate of f * lr for every optimizer whose update is linear in it (SGD, AdamW with decoupled
    weight decay, Lion, ...), and defines it for the others. f = 0 restores ``before`` bit by bit, f = 1
    changes nothing.

    Args:
        parameter: weights after the step.
        before: the same weights before the step.
        factor: f >= 0.

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
    if factor == 0:
        parameter.copy_(before)
    elif factor != 1:
        parameter.copy_(torch.lerp(before, parameter, factor))
