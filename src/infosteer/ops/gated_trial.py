"""The trial of the fused kernels, forward and backward at once, as in ``ops.trials``."""

from __future__ import annotations

import torch
from torch import Tensor

from infosteer.ops import backends
from infosteer.ops.gated_rows import activate, gate_gradients, gated_buffers, plain_keys
from infosteer.ops.reference import rows_backward, rows_forward
from infosteer.ops.rows import unpack_entries
from infosteer.ops.trials import TOLERANCES, awkward_rows, close, differences

Edit = tuple[int, float, str, str, float, Tensor | None]
Buffers = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def gated_agrees(
    gate: Tensor,
    activation: str,
    m: int,
    alpha: float,
    order: str,
    rule: str,
    strength: float,
    strength_at: Tensor | None,
    detach_reference: bool,
    normalization: str,
) -> bool:
    """Whether the fused kernels may be used with these settings on tensors like gate.

    The kernel's own k may differ from PyTorch's in the last bit, so the mask is compared with that of its own k.
    """
    if backends.INTERPRETED:  # the tests compare; a trial takes seconds there
        return True
    full = strength_at is None and strength == 1.0
    settings = (order, rule, full, strength_at is not None, detach_reference) if m else ()
    variant = ("gated", gate.device, gate.dtype, gate.shape[1], m > 0, activation, *settings, normalization)

    def trial() -> str | None:
        from infosteer.ops.kernels import gated as kernels

        def kernel_forward(gate: Tensor, up: Tensor, activation: str, edit: Edit, normalization: str) -> Buffers:
            buffers = gated_buffers(gate, edit[0], normalization)
            kernels.gated_forward(gate, up, buffers, activation, *edit, normalization)
            return buffers

        gate_rows = awkward_rows(gate.shape[1], gate.dtype, gate.device)
        up_rows = gate_rows.flip(1).contiguous()
        edit = (m, alpha, order, rule, strength, strength_at)
        got = kernel_forward(gate_rows, up_rows, activation, edit, normalization)
        k = kernel_forward(gate_rows, up_rows, activation, (0, *edit[1:]), "")[0]
        if not close(activate(gate_rows, activation) * up_rows, k, TOLERANCES[gate.dtype]):
            return "its activation differs from the reference"
        edited, entries, entropy, moments = rows_forward(k, *edit, normalization)
        if m and not torch.equal(chosen_by(plain_keys(k, order), got[1]), mask_of(entries, k)):
            return "it chooses other entries"
        y = edited if m else k
        names = ("edited rows", "entropy", "moments")
        problem = differences(names, (y, entropy, moments), (got[0], *got[3:]), gate.dtype)
        if problem is not None:
            return problem
        factor = torch.linspace(-1, 1, len(k), device=gate.device) if normalization else None
        kept = moments if normalization else None
        flags = (alpha, rule, strength, strength_at, detach_reference, normalization)
        total = rows_backward(up_rows, y, entries, kept, factor, *flags)
        results = (torch.empty_like(k), torch.empty_like(k))
        saved = (got[1], got[2], kept, factor)
        kernels.gated_backward(
            up_rows, gate_rows, up_rows, saved, results, activation, *edit, detach_reference, normalization
        )
        expected = gate_gradients(total, gate_rows, up_rows, activation)
        return differences(("gate gradients", "up gradients"), expected, results, gate.dtype)

    with torch.no_grad():
        return backends.tried(variant, "gated", trial)


def chosen_by(keys: Tensor, places: Tensor) -> Tensor:
    """Mask of the entries below the threshold of each row, and of the first ones at it."""
    threshold, ties = places.split(1, dim=1)
    equal = keys == threshold
    return (keys < threshold) | (equal & (equal.cumsum(dim=1) <= ties))


def mask_of(entries: Tensor, k: Tensor) -> Tensor:
    """Mask (R, M) of packed entries (R, m)."""
    return torch.zeros_like(k, dtype=torch.bool).scatter(1, unpack_entries(entries)[0], True)
