"""Steps within the backward pass: each parameter as soon as its gradient is there, which is freed then."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from infosteer.core.params import Loop
from infosteer.core.steps import part_of_a_step
from infosteer.errors import AttachError


class EarlySteps:
    """Lets one optimizer step on one parameter at a time, from hooks behind the accumulation of gradients.

    The optimizer stays whole: its groups (and the scheduler that writes into them), its state and what is saved of it
    are as ever. Its own ``step()`` finds no gradient any more, and counts as the one step that it is.

    Raises:
        AttachError: a loop that needs all gradients at once.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        trained: Sequence[nn.Parameter],
        loop: Loop,
        *,
        enter: Callable[[nn.Parameter, dict[str, Any]], None],
        leave: Callable[[], None],
    ) -> None:
        refuse_loop(loop)
        self._optimizer, self._enter, self._leave = optimizer, enter, leave
        self._groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
        self._stepped: set[int] = set()
        self._hooks = [p.register_post_accumulate_grad_hook(self._step) for p in trained if id(p) in self._groups]

    @torch.no_grad()
    def _step(self, parameter: torch.Tensor) -> None:
        if id(parameter) in self._stepped:
            raise AttachError(
                "a second gradient came before the optimizer's step",
                where="galore.per_layer",
                got="gradient accumulation",
                fix="set gradient_accumulation_steps to 1 and enlarge the batch, or set per_layer: false",
            )
        self._stepped.add(id(parameter))
        optimizer, group = self._optimizer, self._groups[id(parameter)]
        groups = optimizer.param_groups
        optimizer.param_groups = [{**group, "params": [parameter]}]
        try:
            self._enter(parameter, group)  # type: ignore[arg-type]  # torch says Tensor and hands over the parameter
            with part_of_a_step(optimizer):
                type(optimizer).step(optimizer)  # the class's: a scheduler counts calls of the instance's
        finally:
            optimizer.param_groups = groups
            self._leave()
        parameter.grad = None

    def next_step(self) -> None:
        """The optimizer's own step is over."""
        self._stepped.clear()

    def remove(self) -> None:
        """Takes the hooks away."""
        while self._hooks:
            self._hooks.pop().remove()


def refuse_loop(loop: Loop) -> None:
    """Refuses loops in which a gradient is not ready when it has been accumulated.

    Raises:
        AttachError: naming the setting.
    """
    reasons = (
        (loop.accumulation > 1, "gradient accumulation", loop.accumulation, "set gradient_accumulation_steps to 1"),
        (loop.clipping > 0, "clipping by the norm of all gradients", loop.clipping, "set max_grad_norm to 0"),
        (loop.processes > 1, "averaging gradients over processes", loop.processes, "train in one process"),
        (loop.scaled, "a loss scaler (fp16)", "fp16", "train in bf16 or fp32"),
    )
    for holds, what, got, fix in reasons:
        if holds:
            raise AttachError(
                f"steps within the backward pass do not go together with {what}",
                where="galore.per_layer",
                got=got,
                fix=f"{fix}, or set per_layer: false",
            )
