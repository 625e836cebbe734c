"""The surface ``params``: what acts on the parameters of a model, and what it leaves behind for optimizer steps."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from infosteer.core.contract import Method
from infosteer.errors import AttachError
from infosteer.models import Site


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Loop:
    """What is known of the training loop before its first backward.

    Attributes:
        accumulation: backwards before each optimizer step.
        clipping: largest norm of all gradients; 0 where none are clipped.
        processes: how many train together.
        scaled: whether losses are multiplied by a scaler (fp16).
    """

    accumulation: int = 1
    clipping: float = 0.0
    processes: int = 1
    scaled: bool = False


class Handle(abc.ABC):
    """What a params method leaves behind: called around optimizer steps, and able to undo itself."""

    inner: ClassVar[bool] = (
        False  # whether it changes what the optimizer steps on: closest to the step, whatever the order
    )

    @property
    def early(self) -> bool:
        """Whether its parameters step within the backward pass, before the others."""
        return False

    def begin(self, optimizer: torch.optim.Optimizer, loop: Loop) -> None:  # noqa: B027 - few methods need it
        """Runs before the first backward of a trainer, or when an own loop calls ``session.begin(optimizer)``."""

    @abc.abstractmethod
    def parameters(self) -> list[nn.Parameter]:
        """Parameters whose optimizer steps concern the method."""

    @abc.abstractmethod
    def before_step(self, strength: float) -> None:
        """Runs before an optimizer that holds one of ``parameters()`` steps."""

    @abc.abstractmethod
    def after_step(self, strength: float) -> None:
        """Runs after that step."""

    def follow(self, now: Mapping[int, nn.Parameter], label: str) -> None:
        """Takes the parameters that stand in the place of its own (FSDP2's shards), by the identity of the former ones.

        Raises:
            AttachError: the method cannot act on them.
        """
        if any(now.get(id(parameter), parameter) is not parameter for parameter in self.parameters()):
            raise AttachError(
                "the model's parameters were replaced after the method acted on them",
                where=label,
                got="shards in the place of parameters (FSDP2)",
                fix="train with DDP, or leave the method out",
            )

    def state(self) -> Mapping[str, Tensor]:
        """Tensors of its own that a resumed training goes on from; none where model and optimizer hold everything."""
        return {}

    def load(self, state: Mapping[str, Tensor]) -> None:  # noqa: B027 - few methods need it
        """Takes what ``state`` gave, before the first step of a resumed training."""

    @abc.abstractmethod
    def undo(self) -> None:
        """Puts flags and hooks back as they were; trained values stay."""

    @abc.abstractmethod
    def touched(self) -> bool:
        """Whether the method has had anything to act on so far."""

    def see_optimizer(  # noqa: B027 - few methods need it
        self, optimizer: torch.optim.Optimizer, step: int, total_steps: int | None
    ) -> None:
        """Runs ahead of ``before_step``: the optimizer that is about to step, the steps done, and all there will be."""

    def finish(self, strength: float) -> None:  # noqa: B027 - few methods need it
        """Runs once when training has ended, before the model is saved or evaluated."""

    def metrics(self) -> dict[str, float]:
        """Values that are logged as ``infosteer/<name>/<metric>``; equal on every process."""
        return {}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ParamTarget:
    """What a params method may act on.

    Attributes:
        model: the model in training.
        sites: all sites of the model, in order of layers.
        usage: calls for the mean |k| of every memory on the calibration text, layer -> (M,) float64.
        task: calls for at most so many batches of the training task, with labels: the same ones in every run.
        fixed_strength: the strength where it is the same in every step, else None.
    """

    model: nn.Module
    sites: Sequence[Site]
    usage: Callable[[], Mapping[int, Tensor]]
    task: Callable[[int], Sequence[Mapping[str, Any]]]
    fixed_strength: float | None


@dataclasses.dataclass(kw_only=True)
class ParamMethod(Method):
    """Surface ``params``: changes which parameters learn, how, and from where."""

    calibrates: ClassVar[bool] = False  # whether it asks for ``ParamTarget.usage``

    @abc.abstractmethod
    def apply(self, target: ParamTarget) -> Handle:
        """Acts on the model's parameters; runs when steering begins, before any optimizer step."""
