"""Around optimizer steps: params methods act, steps are counted, and methods that did nothing are found out.

torch's global optimizer hooks see every optimizer that derives from ``torch.optim.Optimizer``, whoever made it and
however it is wrapped, so neither a trainer's nor an own loop's optimizer has to be handed over.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook


class StepHooks:
    """Calls ``before`` and ``after`` around every step of an optimizer that holds one of the model's parameters."""

    def __init__(
        self,
        parameters: Callable[[], Iterable[torch.nn.Parameter]],
        before: Callable[[torch.optim.Optimizer], None],
        after: Callable[[torch.optim.Optimizer], None],
    ) -> None:
        self._parameters = parameters
        self._ours: weakref.WeakKeyDictionary[torch.optim.Optimizer, bool] = weakref.WeakKeyDictionary()
        self._handles = [
            register_optimizer_step_pre_hook(lambda optimizer, *_: self._run(before, optimizer)),
            register_optimizer_step_post_hook(lambda optimizer, *_: self._run(after, optimizer)),
        ]

    def remove(self) -> None:
        """Takes the global hooks away."""
        for handle in self._handles:
            handle.remove()

    def _run(self, function: Callable[[torch.optim.Optimizer], None], optimizer: Any) -> None:
        # A wrapper (accelerate) may derive from Optimizer and step an inner one; only the inner one runs torch's hooks.
        if optimizer not in self._ours:
            ids = {id(parameter) for parameter in self._parameters()}
            self._ours[optimizer] = any(id(p) in ids for group in optimizer.param_groups for p in group["params"])
        if self._ours[optimizer]:
            function(optimizer)
