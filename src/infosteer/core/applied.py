"""What methods hold for a session (params methods, and losses with weights of their own): applied once, told about
every optimizer step, undone at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from infosteer.core.base_model import BaseModel
from infosteer.core.contract import Method
from infosteer.core.metrics import PREFIX
from infosteer.core.params import Handle, Loop, ParamMethod, ParamTarget
from infosteer.core.sharding import follow, names_of, refuse_flat, steps_on_partitions
from infosteer.core.surfaces import InterventionMethod, LossMethod
from infosteer.errors import ConfigError
from infosteer.models import Site


class Applied:
    """Handles of the methods, by index in the session, and the model before they acted, where one asks for it."""

    def __init__(self) -> None:
        self.handles: dict[int, Handle] = {}
        self.base: BaseModel | None = None
        self._names: dict[int, str] = {}
        self._model: nn.Module | None = None
        self._parameters: dict[int, str] = {}  # of the model when the methods acted on it
        self._followed = False
        self._finished = False

    def apply(
        self,
        methods: Sequence[Method],
        model: nn.Module,
        sites: Sequence[Site],
        usage: Callable[[], Mapping[int, Tensor]],
        task: Callable[[int], Sequence[Mapping[str, Any]]],
    ) -> None:
        """Lets every method that is not off act on the model, in recipe order.

        Raises:
            ConfigError: methods that cannot both act on the same parameter.
        """
        readers = [one for one in methods if isinstance(one, (InterventionMethod, LossMethod)) and one.reads_base]
        if any(not method.off for method in readers):
            self.base = BaseModel(model)
        for index, method in enumerate(methods):
            if isinstance(method, (ParamMethod, LossMethod)) and not method.off:
                fixed = method.strength if isinstance(method.strength, float) else None
                target = ParamTarget(model=model, sites=sites, usage=usage, task=task, fixed_strength=fixed)
                self._names[index] = method.label()
                if (handle := method.apply(target)) is not None:
                    self.handles[index] = handle
        self._model, self._parameters = model, names_of(model) if self.handles else {}
        self._refuse_conflicts()

    def begin(self, optimizer: torch.optim.Optimizer, loop: Loop) -> None:
        """The optimizer is known, and no backward has run yet."""
        self._follow(optimizer)
        for handle in self.handles.values():
            handle.begin(optimizer, loop)

    def before_step(
        self, strengths: Sequence[float], optimizer: torch.optim.Optimizer, step: int, total_steps: int | None
    ) -> None:
        """An optimizer is about to step; handles on what it steps on come last, next to it."""
        self._follow(optimizer)
        for index, handle in sorted(self.handles.items(), key=lambda item: item[1].inner):
            handle.see_optimizer(optimizer, step, total_steps)
            handle.before_step(strengths[index])

    def after_step(self, strengths: Sequence[float]) -> None:
        """It has stepped; those come first."""
        for index, handle in sorted(self.handles.items(), key=lambda item: not item[1].inner):
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
        self.handles, self.base, self._model = {}, None, None

    def _follow(self, optimizer: torch.optim.Optimizer) -> None:
        """Once, before the first step: engines have put their shards in place by then."""
        if self._followed or self._model is None or not self.handles:
            return
        self._followed = True
        named = {self._names[index]: handle for index, handle in self.handles.items()}
        follow(named, self._model, self._parameters)
        if steps_on_partitions(self._model, optimizer):
            refuse_flat(named, self._parameters)

    def _refuse_conflicts(self) -> None:
        """Two inner handles cannot share a parameter; one that steps early shares none with any other."""
        for index, handle in self.handles.items():
            for other, second in self.handles.items():
                alone = handle.early or (handle.inner and second.inner)
                if index == other or not alone:
                    continue
                if {id(p) for p in handle.parameters()} & {id(p) for p in second.parameters()}:
                    raise ConfigError(
                        "two methods cannot act on the steps of the same parameters",
                        where=self._names[index],
                        got=f"{self._names[index]} and {self._names[other]}",
                        fix="step in the usual place (per_layer: false)" if handle.early else "give each its own parts",
                    )
