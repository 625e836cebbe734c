"""The params methods of a session: applied once, told about every optimizer step, undone at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from infosteer.core.contract import Method
from infosteer.core.surfaces import Handle, ParamMethod, ParamTarget
from infosteer.models import Site


class Applied:
    """Handles of the params methods, by index in the session."""

    def __init__(self) -> None:
        self.handles: dict[int, Handle] = {}
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
                self.handles[index] = method.apply(target)

    def before_step(self, strengths: Sequence[float]) -> None:
        """An optimizer is about to step."""
        for index, handle in self.handles.items():
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

    def undo(self) -> None:
        """Puts flags and hooks back, the last method's first."""
        for handle in reversed(self.handles.values()):
            handle.undo()
        self.handles = {}
