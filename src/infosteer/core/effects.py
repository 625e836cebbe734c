"""Reading what ``steer`` accepts, and finding out methods that do nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from infosteer.core.config import load_yaml
from infosteer.core.contract import Method
from infosteer.core.data import DataMethod
from infosteer.core.measure import FirstBatch
from infosteer.core.params import Handle
from infosteer.core.registry import build_method, key_of
from infosteer.core.surfaces import InterventionMethod, LossMethod, PenaltyMethod, ProbeMethod
from infosteer.errors import AttachError, ConfigError, NoEffectError

_EXPECTED = "[infosteer.Intervention()], [{'method': 'key_lift'}], or a recipe with one arm"

Methods = Method | Mapping[str, Any] | Sequence[Any] | Path


def as_methods(methods: Methods) -> list[Method]:
    """Reads what ``steer`` and ``attach`` accept.

    That is: methods, an arm's mappings, or a recipe with one arm (a mapping, or the path of a YAML file).

    Raises:
        ConfigError: anything else, or a recipe with several arms.
    """
    if isinstance(methods, (str, Path)) and Path(methods).suffix in (".yaml", ".yml"):
        methods = load_yaml(Path(methods))
    if isinstance(methods, Method):
        return [methods]
    if isinstance(methods, Mapping):
        if "method" in methods:
            return [build_method(methods)]
        arms = methods.get("arms")
        if not isinstance(arms, Mapping) or len(arms) != 1:
            raise ConfigError(
                "a recipe given to steer or attach must have one arm",
                where="arms",
                got=list(arms) if isinstance(arms, Mapping) else arms,
                fix="pass the list of one arm's methods",
            )
        arm = next(iter(arms.values()))
        # an arm with settings of its own; those are a run's, and here the trainer has its own
        methods = (arm.get("methods") if isinstance(arm, Mapping) else arm) or []
    if isinstance(methods, str) or not isinstance(methods, Sequence):
        raise ConfigError("expected a list of methods", where="methods", got=methods, expected=_EXPECTED)
    return [
        item if isinstance(item, Method) else build_method(item, where=f"methods[{i}]")
        for i, item in enumerate(methods)
    ]


def refuse_data_methods(methods: Sequence[Method]) -> None:
    """Data methods change rows before a trainer is built, which neither a model nor a trainer can do afterwards.

    Raises:
        AttachError: naming the first data method that is not off.
    """
    for method in methods:
        if isinstance(method, DataMethod) and not method.off:
            raise AttachError(
                "a data method changes the training rows, and this one's have not been changed",
                where=key_of(type(method)),
                fix="build the trainer on infosteer.transform_rows(rows, methods), then attach with "
                "rows_transformed=True",
            )


class Effects:
    """What a session has seen of each method's effect, until each one's first step with strength > 0 is over.

    Attributes:
        first_batch: measures the edits of the first batch; None once it has reported, or where nothing edits.
        edits_changed: whether those edits changed any coefficient; None where none were due yet.
    """

    def __init__(self, methods: Sequence[Method]) -> None:
        self._methods = methods
        self._unproven = {index for index, method in enumerate(methods) if not method.off}
        self._in_loss: set[int] = set()
        edits = any(isinstance(methods[index], InterventionMethod) for index in self._unproven)
        self.first_batch: FirstBatch | None = FirstBatch() if edits else None
        self.edits_changed: bool | None = None

    @property
    def proven(self) -> bool:
        """Whether nothing is left to be seen."""
        return not self._unproven

    def add_to_loss(self, indices: Collection[int], change: Tensor | None = None) -> None:
        """These penalties, or losses whose sum of changes is ``change``, have been added to a task loss."""
        if change is None or not self._unproven & set(indices) or bool(change.detach() != 0):
            self._in_loss |= set(indices)

    def close_first_batch(self) -> None:
        """The first batch with edits has been seen whole."""
        if self.first_batch is not None:
            self.first_batch.report()
            self.edits_changed, self.first_batch = self.first_batch.changed, None

    def check(self, strengths: Sequence[float], seen_training: bool, handles: Mapping[int, Handle]) -> None:
        """Called after every optimizer step.

        Args:
            strengths: of all methods in that step.
            seen_training: whether a training forward of the model was seen.
            handles: what params methods left, by index of the method.

        Raises:
            NoEffectError: a method whose first step with strength > 0 this was, and which changed nothing.
        """
        due = {index for index in self._unproven if strengths[index] != 0}
        self._unproven -= due
        for index in sorted(due):
            self._check(index, self._methods[index], seen_training, handles)

    def _check(self, index: int, method: Method, seen_training: bool, handles: Mapping[int, Handle]) -> None:
        where = key_of(type(method))
        reads_forward = isinstance(method, (InterventionMethod, PenaltyMethod, LossMethod, ProbeMethod))
        if reads_forward and not seen_training:
            raise NoEffectError(
                "an optimizer stepped, but no training forward of the steered model was seen",
                where=where,
                fix="call the model that was given to steer() in training mode, with gradients enabled",
            )
        if isinstance(method, InterventionMethod) and self.edits_changed is False and method.scope != "evaluation":
            raise NoEffectError(
                "the interventions changed no coefficient in the first training batch",
                where=where,
                fix="a larger fraction, another alpha, or bounds on rows that some row of a batch meets",
            )
        if isinstance(method, (PenaltyMethod, LossMethod)) and index not in self._in_loss:
            raise NoEffectError(
                "the penalty was never added to a loss"
                if isinstance(method, PenaltyMethod)
                else "the method changed no token's loss",
                where=where,
                fix="call loss = session.loss(loss) before loss.backward(), or use infosteer.attach(trainer, ...)",
            )
        if index in handles and not handles[index].touched():
            raise NoEffectError(
                "none of the parameters that the method acts on is being trained",
                where=where,
                fix="choose layers and roles that are trained (with LoRA: name them in target_modules)",
            )
