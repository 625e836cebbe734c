"""Around optimizer steps: params methods act, steps are counted, and methods that did nothing are found out.

torch's global optimizer hooks see every optimizer that derives from ``torch.optim.Optimizer``, whoever made it and
however it is wrapped, so neither a trainer's nor an own loop's optimizer has to be handed over. They hold the session
weakly: a model that is dropped with its session takes the hooks along.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from infosteer.core.calls import Calls
from infosteer.core.ledger import Call
from infosteer.core.sharding import steps_on_partitions

_in_parts: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()


@contextlib.contextmanager
def part_of_a_step(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Within it the optimizer steps on some of its parameters: no session takes that for a step of training."""
    _in_parts.add(optimizer)
    try:
        yield
    finally:
        _in_parts.discard(optimizer)


class Stepper(Protocol):
    """What the hooks need of a session."""

    model: nn.Module
    calls: Calls

    def before_step(self, optimizer: torch.optim.Optimizer) -> None:
        """An optimizer that holds one of the model's parameters is about to step."""

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """It has stepped."""


def watch_steps(session: Stepper) -> Callable[[], None]:
    """Calls ``session.before_step`` and ``after_step`` around steps of optimizers that hold the model's parameters.

    Returns:
        A function that takes the hooks away; safe to call twice.
    """
    known = weakref.ref(session)
    ours: weakref.WeakKeyDictionary[torch.optim.Optimizer, tuple[int, bool]] = weakref.WeakKeyDictionary()
    # DeepSpeed has its optimizer step once for every group of parameters: one step a forward is counted
    in_pieces: weakref.WeakKeyDictionary[torch.optim.Optimizer, Call | None] = weakref.WeakKeyDictionary()

    def is_ours(found: Stepper, optimizer: Any) -> bool:
        if optimizer in _in_parts:
            return False
        size = sum(len(group["params"]) for group in optimizer.param_groups)  # groups may be added later
        if ours.get(optimizer, (-1, False))[0] != size:
            ids = {id(parameter) for parameter in found.model.parameters()}
            own = any(id(p) in ids for group in optimizer.param_groups for p in group["params"])
            if not own and steps_on_partitions(found.model, optimizer):
                own = True
                in_pieces[optimizer] = None
            ours[optimizer] = size, own
        return ours[optimizer][1]

    def before(optimizer: Any, *_: Any) -> None:
        if (found := known()) is not None and is_ours(found, optimizer):
            found.before_step(optimizer)

    def after(optimizer: Any, *_: Any) -> None:
        if (found := known()) is None or not is_ours(found, optimizer):
            return
        if optimizer in in_pieces:
            if in_pieces[optimizer] is found.calls.last:
                return
            in_pieces[optimizer] = found.calls.last
        found.after_step(optimizer)

    handles = [register_optimizer_step_pre_hook(before), register_optimizer_step_post_hook(after)]

    def remove() -> None:
        while handles:
            handles.pop().remove()

    weakref.finalize(session, remove)
    return remove
