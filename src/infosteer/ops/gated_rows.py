"""The operators of ``ops.gated_operator`` in plain PyTorch, on any device: what the kernels must agree with.

Shape letters: R rows, M memories, m overwritten entries.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from infosteer.ops import reference
from infosteer.ops.rows import moved, pack_entries, unpack_entries
from infosteer.ops.select import smallest
from infosteer.ops.select_rows import INFINITY, bit_pattern


def activate(gate: Tensor, activation: str) -> Tensor:
    """``act(gate)``, of gate's type."""
    return functional.silu(gate) if activation == "silu" else functional.gelu(gate, approximate="tanh")


def gated_buffers(gate: Tensor, m: int, normalization: str) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Room for what ``gated_rows`` gives."""
    rows = gate.shape[0]
    lifted, asked = (rows if m else 0), (rows if normalization else 0)
    return (
        gate.new_empty(gate.shape),
        gate.new_empty((lifted, 2), dtype=torch.int32),
        gate.new_empty(lifted, dtype=torch.float32),
        gate.new_empty(asked, dtype=torch.float32),
        gate.new_empty((asked, 2), dtype=torch.float32),
    )


def gated_forward(
    gate: Tensor,
    up: Tensor,
    activation: str,
    m: int,
    alpha: float,
    order: str,
    rule: str,
    strength: float,
    strength_at: Tensor | None,
    normalization: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """``gated_rows``, which says what the arguments are."""
    k = activate(gate, activation) * up
    out, entries, entropy, moments = reference.rows_forward(
        k, m, alpha, order, rule, strength, strength_at, normalization
    )
    if not m:
        nothing = gate.new_empty((0, 2), dtype=torch.int32)
        return k, nothing, gate.new_empty(0, dtype=torch.float32), entropy, moments
    keys = plain_keys(k, order).gather(1, unpack_entries(entries)[0])
    largest = keys.amax(dim=1, keepdim=True)
    places = torch.cat([largest, (keys == largest).sum(dim=1, keepdim=True)], dim=1).to(torch.int32)
    source = k.abs() if rule == "magnitude_mean" else k
    return out, places, source.mean(dim=1, dtype=torch.float32), entropy, moments


def gated_backward(
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
    rule: str,
    strength: float,
    strength_at: Tensor | None,
    detach_reference: bool,
    normalization: str,
) -> tuple[Tensor, Tensor]:
    """``gated_rows_backward``, which says what the arguments are."""
    active = activate(gate, activation)
    k = active * up
    y, entries = k, k.new_empty((len(k), 0), dtype=torch.int32)
    if m:
        index = smallest(k, m, order)
        before = k.gather(1, index)
        entries = pack_entries(index, torch.sign(before).to(torch.int8), k.shape[1])
        target = (alpha * means).to(k.dtype).unsqueeze(1).expand(-1, m)
        y = k.scatter(1, index, moved(before, target, rule, strength if strength_at is None else strength_at))
    total = reference.rows_backward(
        grad, y, entries, moments, factor, alpha, rule, strength, strength_at, detach_reference, normalization
    )
    return gate_gradients(total, gate, up, activation)


def gate_gradients(total: Tensor, gate: Tensor, up: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    """Gradients of gate and up (R, M) from that of ``act(gate) * up``."""
    active_grad = total * up  # autograd does not record inside an operator
    if activation == "silu":
        gate_grad = torch.ops.aten.silu_backward(active_grad, gate)
    else:
        gate_grad = torch.ops.aten.gelu_backward(active_grad, gate, approximate="tanh")
    return gate_grad, total * activate(gate, activation)


def plain_keys(k: Tensor, order: str) -> Tensor:
    """int32 keys of rows as the kernels have them: they compare as ``|k|`` or ``k`` do, NaN one step above infinity."""
    bits, infinity = bit_pattern(k), INFINITY[k.dtype]
    sign = torch.iinfo(bits.dtype).min
    size = (bits & ~sign).to(torch.int32)
    keys = torch.where(bits < 0, -size, size) if order == "signed" else size
    return keys.masked_fill(size > infinity, infinity + 1)
