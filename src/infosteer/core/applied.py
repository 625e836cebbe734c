"""The params methods of a session: applied once, told about every optimizer step, undone at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from infosteer.core.contract import Method
from infosteer.core.metrics import PREFIX
from infosteer.core.surfaces import Handle, ParamMethod, ParamTarget
from infosteer.models import Site


class Applied:
    """Handles of the params methods, by index in the session."""

    def __init__(self) -> None:
        self.handles: dict[int, Handle] = {}
        self._names: dict[int, str] = {}
        self._finished = False

    def apply(
        self,
        methods: Sequence[Method],
        model: nn.Module,
        sites: Sequence[Site],
        usage: Callable[[], Mapping[int, Tensor]],
    ) -> None:
        """Lets every method that is not off act on the model, in recipe order."""
        for index, method in enumerate(methods):
            if isinstance(method, ParamMethod) and not method.off:
                fixed = method.strength if isinstance(method.strength, float) else None
                target = ParamTarget(model=model, sites=sites, usage=usage, fixed_strength=fixed)
                self._names[index] = method.label()
                self.handles[index] = method.apply(target)

    def before_step(
        self, strengths: Sequence[float], optimizer: torch.optim.Optimizer, step: int, total_steps: int | None
    ) -> None:
        """An optimizer is about to step."""
        for index, handle in self.handles.items():
            handle.see_optimizer(optimizer, step, total_steps)
            handle.before_step(strengths[index])

    def after_step(self, strengths: Sequence[float]) -> None:
        """It has stepped."""
        for index, handle in self.handles.items():
            handle.after_step(strengths[index])

    def finish(self, strengths: Sequence[float]) -> None:
        """Training has ended; once."""
        for index, handle in self.handles.items() if not self._finished else ():
            handle.finish(strengths[index])
        self._finished = True

    def metrics(self) -> dict[str, float]:
        """What the methods have to say, as ``infosteer/<name>/<metric>``."""
        return {
            f"{PREFIX}{self._names[index]}/{metric}": value
            for index, handle in self.handles.items()
            for metric, value in handle.metrics().items()
        }

    def undo(self) -> None:
        """Puts flags and hooks back, the last method's first."""
        for handle in reversed(self.handles.values()):
            handle.undo()
        self.handles = {}
