"""What an optimizer holds, measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass


def state_bytes(optimizer: torch.optim.Optimizer, parameters: Iterable[Tensor] | None = None) -> int:
    """Bytes of all tensors in an optimizer's state (moments, bases, scales of quantised moments), each storage once.

    Args:
        parameters: only what is held for these.
    """
    wanted = None if parameters is None else {id(parameter) for parameter in parameters}
    sizes: dict[int, int] = {}
    for parameter, held in optimizer.state.items():
        if wanted is None or id(parameter) in wanted:
            for tensor in _tensors(held):
                storage = tensor.untyped_storage()
                sizes[storage.data_ptr()] = storage.nbytes()
    return sum(sizes.values())


def _tensors(held: Any) -> Iterable[Tensor]:
    if isinstance(held, Tensor):
        if is_traceable_wrapper_subclass(held):  # quantised: the numbers and their scales
            for name in held.__tensor_flatten__()[0]:
                yield from _tensors(getattr(held, name))
        else:
            yield held
    elif isinstance(held, Mapping):
        for value in held.values():
            yield from _tensors(value)
