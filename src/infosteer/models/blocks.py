"""The outputs of decoder layers: the hidden states between layers, to be read and to be replaced.

Legend: B batch, T time, D hidden, S parallel streams of a family that keeps several (Gemma 3n).
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from typing import Any

from torch import Tensor, nn

from infosteer.errors import ArchitectureError
from infosteer.models.decoder import find_decoder, text_config
from infosteer.models.walk import root_model

Visit = Callable[[int, Tensor], Tensor | None]


def decoder_blocks(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Path and module of every decoder layer, in order; a module that serves several layers comes up for each.

    Raises:
        ArchitectureError: the model's type is not in the table.
    """
    decoder = find_decoder(model)
    if decoder is None:
        raise ArchitectureError(
            "the decoder layers of the model were not found",
            got=type(model).__name__,
            expected="a model whose model_type is in docs/architectures.md",
        )
    return list(decoder.layers)


def states_of(output: Any) -> Tensor:
    """The hidden states in what a decoder layer returns (a tensor, or a tuple that begins with it): (B, T, D), or
    (S, B, T, D) where a family keeps several streams."""
    return output[0] if isinstance(output, tuple) else output


def main_stream(model: nn.Module, states: Tensor) -> Tensor:
    """(B, T, D) of what :func:`states_of` gives: the stream that a family's layers compute on."""
    if states.dim() < 4:
        return states
    found = root_model(model)
    assert found is not None, "streams come from a located decoder"
    return states[text_config(found[1]).altup_active_idx]


@contextlib.contextmanager
def visiting_blocks(model: nn.Module, visit: Visit, layers: Collection[int] | None = None) -> Iterator[None]:
    """Calls ``visit(layer, states)`` whenever a decoder layer has run; a tensor that it returns takes their place.

    Args:
        model: in the table of layouts, wrapped or not.
        visit: gets the zero-based layer and the states, (B, T, D) or (S, B, T, D); must not change them in place.
        layers: the layers to visit; None for all.

    Raises:
        ArchitectureError: the model's type is not in the table.
    """
    served: dict[nn.Module, list[int]] = defaultdict(list)
    for layer, (_, module) in enumerate(decoder_blocks(model)):
        served[module].append(layer)
    handles = [
        module.register_forward_hook(_Visitor(visit, numbers, set(numbers if layers is None else layers)))
        for module, numbers in served.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Visitor:
    """Forward hook of a module that serves these layers, one after the other in every forward."""

    def __init__(self, visit: Visit, numbers: list[int], wanted: set[int]) -> None:
        self.visit, self.numbers, self.wanted, self.fired = visit, numbers, wanted, 0

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        layer = self.numbers[self.fired % len(self.numbers)]
        self.fired += 1
        if layer not in self.wanted:
            return None
        replaced = self.visit(layer, states_of(output))
        if replaced is None:
            return None
        return (replaced, *output[1:]) if isinstance(output, tuple) else replaced
