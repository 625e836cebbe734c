"""``ops.gated`` as operators that PyTorch knows: one forward, one backward, by kernels or in plain PyTorch.

Kept a row for the backward pass, besides gate and up: the largest overwritten key and how many entries at it were
taken (two int32), the mean (float32), and two moments of the entropy (float32).

Shape letters: R rows, M memories, m overwritten entries.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from infosteer.ops.backends import kernels_take
from infosteer.ops.gated_rows import gated_backward, gated_buffers, gated_forward

_SETTINGS = (
    "str activation, SymInt m, float alpha, str order, str reference, float strength, Tensor? strength_at, "
    "bool detach_reference, str normalization"
)


@torch.library.custom_op(
    "infosteer::gated_rows",
    mutates_args=(),
    schema=f"(Tensor gate, Tensor up, {_SETTINGS}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def gated_rows(
    gate: Tensor,
    up: Tensor,
    activation: str,
    m: int,
    alpha: float,
    order: str,
    reference: str,
    strength: float,
    strength_at: Tensor | None,
    detach_reference: bool,
    normalization: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Edited rows (R, M), places (R, 2) int32, means (R,), entropy (R,), moments (R, 2); empty where not asked for.

    Args:
        gate: (R, M), float32, bfloat16 or float16.
        up: (R, M) of the same type.
        activation: as in ``gated``; the others as in ``ops.steered.steer_rows``.
    """
    settings = (activation, m, alpha, order, reference, strength, strength_at)
    if kernels_take(gate):
        from infosteer.ops.gated_trial import gated_agrees
        from infosteer.ops.kernels import gated as kernels

        if gated_agrees(gate, *settings, detach_reference, normalization):
            buffers = gated_buffers(gate, m, normalization)
            kernels.gated_forward(gate, up, buffers, *settings, normalization)
            return buffers
    return gated_forward(gate, up, *settings, normalization)


@gated_rows.register_fake
def _(
    gate: Tensor, up: Tensor, activation: str, m: int, *settings: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    return gated_buffers(gate, m, settings[-1])


@torch.library.custom_op(
    "infosteer::gated_rows_backward",
    mutates_args=(),
    schema="(Tensor? grad, Tensor gate, Tensor up, Tensor places, Tensor means, Tensor? moments, Tensor? factor, "
    f"{_SETTINGS}) -> (Tensor, Tensor)",
)
def gated_rows_backward(
    grad: Tensor | None,
    gate: Tensor,
    up: Tensor,
    places: Tensor,
    means: Tensor,
    moments: Tensor | None,
    factor: Tensor | None,
    activation: str,
    m: int,
    alpha: float,
    order: str,
    reference: str,
    strength: float,
    strength_at: Tensor | None,
    detach_reference: bool,
    normalization: str,
) -> tuple[Tensor, Tensor]:
    """Gradients (R, M) for gate and up.

    Args:
        grad: (R, M) gradient of the edited rows, None for zero.
        places, means, moments: as ``gated_rows`` gave them; moments None to take them again.
        factor: (R,) gradient of the entropy, None for zero.
    """
    settings = (activation, m, alpha, order, reference, strength, strength_at, detach_reference, normalization)
    if kernels_take(gate):
        from infosteer.ops.gated_trial import gated_agrees
        from infosteer.ops.kernels import gated as kernels

        if gated_agrees(gate, *settings):
            results = (gate.new_empty(gate.shape), gate.new_empty(gate.shape))
            kernels.gated_backward(grad, gate, up, (places, means, moments, factor), results, *settings)
            return results
    return gated_backward(grad, gate, up, places, means, moments, factor, *settings)


@gated_rows_backward.register_fake
def _(grad: Tensor | None, gate: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    return gate.new_empty(gate.shape), gate.new_empty(gate.shape)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor, Tensor, Tensor]) -> None:
    gate, up, activation, m, alpha, order, reference, strength, strength_at, detach_reference, normalization = inputs
    _, places, means, _, moments = output
    ctx.set_materialize_grads(False)
    ctx.settings = (activation, m, alpha, order, reference, strength)
    ctx.flags = (detach_reference, normalization)
    ctx.save_for_backward(gate, up, places, means, moments if normalization else None, strength_at)


def _backward(
    ctx: Any, grad: Tensor | None, _places: None, _means: None, factor: Tensor | None, _moments: None
) -> tuple[Any, ...]:
    *saved, strength_at = ctx.saved_tensors
    factor = factor if ctx.flags[1] else None  # an entropy that was not asked for is empty
    results: tuple[Any, ...] = (None, None)
    if grad is not None or factor is not None:
        results = gated_rows_backward(grad, *saved, factor, *ctx.settings, strength_at, *ctx.flags)
    return (*results, *(None,) * 9)


gated_rows.register_autograd(_backward, setup_context=_setup_context)
