"""Which root forward a firing, a recompute or a loss belongs to.

Open calls form a stack, since a hook may call the model inside its own forward. A recompute (activation
checkpointing) runs inside a backward: it belongs to the call whose output that backward has last gone through (autograd
runs the nodes of later forwards first), else to a call that was coupled to its loss, else to the last forward that ran
with gradients. A loss belongs to the calls that its graph reaches: the nodes of their outputs carry a tag.
"""

from __future__ import annotations

import functools
import itertools
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from infosteer.core.ledger import Call

_TAG = "infosteer.call"
_MOST_PENDING = 256  # training forwards whose loss was thrown away; older ones are forgotten
_numbers = itertools.count()


class Calls:
    """The calls of one session."""

    def __init__(self) -> None:
        self.last: Call | None = None  # most recent forward with gradients
        self._stack: list[_Opened] = []
        self._pending: list[Call] = []
        self._backward: tuple[int, Sequence[Call]] = (-1, ())
        self._inside: tuple[int, Call | None] = (-1, None)  # a backward, and the call that it has come to

    @property
    def current(self) -> Call | None:
        """The innermost open call."""
        return self._stack[-1].call if self._stack else None

    def enter(self, module: nn.Module) -> bool:
        """A module that encloses all sites is entered; says whether this begins a new call."""
        while self._stack and not self._stack[-1].running():
            self._stack.pop().call.open = False  # cut off by KeyboardInterrupt, for which torch runs no hook
        if self._stack and id(module) not in self._stack[-1].entered:
            self._stack[-1].entered.add(id(module))
            return False
        return self._stack != [] or not in_backward()

    def open(self, call: Call, module: nn.Module) -> None:
        """Begins a call at its outermost module."""
        self._stack.append(_Opened(call, module))
        if torch.is_grad_enabled():
            self.last = call

    def leave(self, module: nn.Module) -> Call | None:
        """A module is left; gives the call if that ends it."""
        if not self._stack:
            return None
        top = self._stack[-1]
        top.entered.discard(id(module))
        if top.module is not module:
            return None
        self._stack.pop().call.open = False
        return top.call

    def opened_by(self, module: nn.Module) -> bool:
        """Whether the innermost open call began at this module."""
        return bool(self._stack) and self._stack[-1].module is module

    def told(self, module: nn.Module, kwargs: Mapping[str, Any]) -> bool:
        """Whether a module inside the open call, which gets these arguments, can tell it nothing new: it sees the token
        positions that the call has read already (prompt tuning adds some on the way in)."""
        if not self._stack or self._stack[-1].module is module:
            return False
        ids, embedded = self._stack[-1].call.ids, kwargs.get("inputs_embeds")
        seen = kwargs.get("input_ids") if embedded is None else embedded
        return ids is not None and seen is not None and seen.shape[:2] == ids.shape

    def await_loss(self, call: Call, output: Any) -> None:
        """Keeps a closed call until a loss that depends on its output is coupled."""
        call.number = next(_numbers)
        for tensor in _tensors(output):
            if tensor.grad_fn is not None:
                _metadata(tensor.grad_fn)[_TAG] = call.number
                tensor.grad_fn.register_prehook(functools.partial(self._come_to, call))
        self._pending = [*self._pending, call][-_MOST_PENDING:]

    def take(self, loss: Tensor) -> list[Call]:
        """The waiting calls that ``loss`` depends on; all of them where none of their outputs is found in its graph."""
        waiting = self._pending
        if len(waiting) > 1:
            reached = _reached(loss, {call.number for call in waiting})
            waiting = [call for call in waiting if call.number in reached] or waiting
        self._pending = [call for call in self._pending if call not in waiting]
        return waiting

    def forget_waiting(self) -> None:
        """An optimizer has stepped: losses of earlier forwards will not come any more."""
        self._pending, self._inside = [], (-1, None)

    def begin_backward(self, calls: Sequence[Call]) -> None:
        """The backward of a loss begins; recomputes in it belong to these calls."""
        self._backward = (torch._C._current_graph_task_id(), calls)

    def of(self, k: Tensor) -> Call | None:
        """The call that a firing with coefficients k (..., M) belongs to; None for modules called by hand."""
        if self._stack:
            return self._stack[-1].call
        if torch.compiler.is_compiling() or not in_backward():
            return None
        now = torch._C._current_graph_task_id()
        task, inside = self._inside
        if task == now and inside is not None and inside.matches(k):
            return inside
        task, calls = self._backward
        if task == now:
            for call in calls:
                if call.matches(k):
                    return call
        return self.last

    def _come_to(self, call: Call, *_: Any) -> None:
        """A backward goes through an output of a call."""
        self._inside = (torch._C._current_graph_task_id(), call)


class _Opened:
    """An open call with the module and the frame that opened it."""

    def __init__(self, call: Call, module: nn.Module) -> None:
        self.call, self.module, self.entered = call, module, {id(module)}
        self.thread, self.frame = threading.get_ident(), _forward_frame()

    def running(self) -> bool:
        """Whether the frame is still on this thread's stack."""
        if self.frame is None or self.thread != threading.get_ident():
            return True
        frame: FrameType | None = sys._getframe()
        while frame is not None and frame is not self.frame:
            frame = frame.f_back
        return frame is not None


def in_backward() -> bool:
    """Whether this thread runs inside a backward pass."""
    return torch._C._current_graph_task_id() != -1


def _forward_frame() -> FrameType | None:
    frame: FrameType | None = sys._getframe()
    while frame is not None and not frame.f_code.co_filename.endswith(
        ("nn/modules/module.py", "nn\\modules\\module.py")
    ):
        frame = frame.f_back
    return frame


def _tensors(output: Any) -> Iterable[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        yield from itertools.chain.from_iterable(_tensors(value) for value in output.values())
    elif isinstance(output, (tuple, list)):
        yield from itertools.chain.from_iterable(_tensors(value) for value in output)


def _reached(loss: Tensor, numbers: set[int]) -> set[int]:
    found: set[int] = set()
    seen: set[Any] = set()
    queue = [loss.grad_fn]
    while queue and found != numbers:
        node = queue.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        number = _metadata(node).get(_TAG)
        if number in numbers:
            found.add(number)  # what lies behind an output belongs to its call
        else:
            queue.extend(following for following, _ in node.next_functions)
    return found


def _metadata(node: Any) -> dict[Any, Any]:
    found: dict[Any, Any] = node.metadata  # torch's stubs take this property for a method
    return found
