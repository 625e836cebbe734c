"""The gated activation with the edit and the entropy inside it: ``k = act(gate) * up``, one pass over memory each way.

What a gated FFN computes anyway reads gate and up and writes k; here the edited k is written instead, so that steering
adds no trip to memory. Gate and up are kept for the backward pass, of k nothing but three numbers a row.

Shape letters: R rows, M memories, m overwritten entries.
"""

from __future__ import annotations

from torch import Tensor

from infosteer.errors import ConfigError
from infosteer.ops.backends import kernels_take
from infosteer.ops.entropy import NORMALIZATIONS, key_entropy
from infosteer.ops.gated_operator import gated_rows
from infosteer.ops.gated_rows import activate
from infosteer.ops.intervene import REFERENCES, check_finite, intervene, read_strength
from infosteer.ops.select import ORDERS, check_choice, check_floating, count_smallest
from infosteer.ops.steered import split_strength

ACTIVATIONS = ("silu", "gelu_tanh")


def gated(
    gate: Tensor,
    up: Tensor,
    activation: str = "silu",
    fraction: float = 0.0,
    alpha: float = 1.0,
    order: str = "magnitude",
    reference: str = "magnitude_mean",
    detach_reference: bool = False,
    strength: float | Tensor = 1.0,
    normalization: str | None = None,
) -> tuple[Tensor, Tensor | None]:
    """``intervene(act(gate) * up)`` and, with a normalization, the entropy of the result's rows.

    The coefficients are rounded to their type as the plain graph rounds them, so are the gradients on their way; on a
    GPU the kernel's activation may differ from PyTorch's in the last bit, and the mask is that of the kernel's own k.

    Args:
        gate: (..., M) what the activation is applied to.
        up: (..., M) what it is multiplied by, of gate's shape, type and device.
        activation: ``"silu"`` or ``"gelu_tanh"``.
        fraction: share of overwritten entries, and so on to ``strength``, as in ``intervene``; fraction 0 for none.
        normalization: as in ``key_entropy``; None for no entropy.

    Returns:
        Coefficients (..., M) of gate's type, and their entropy (...) in float32 (None without a normalization). Both
        differentiable once in gate and up.

    Raises:
        ConfigError: a setting out of range, an unknown choice, or tensors that do not fit.
    """
    check_choice("activation", activation, ACTIVATIONS)
    check_choice("order", order, ORDERS)
    check_choice("reference", reference, REFERENCES)
    if normalization is not None:
        check_choice("normalization", normalization, NORMALIZATIONS)
    check_floating("gate", gate)
    check_floating("up", up)
    check_finite("alpha", alpha)
    if gate.shape != up.shape or gate.dtype != up.dtype or gate.device != up.device:
        raise ConfigError(
            "Gate and up do not fit.",
            where="up",
            got=f"{up.dtype} {tuple(up.shape)} on {up.device}",
            expected=f"{gate.dtype} {tuple(gate.shape)} on {gate.device}",
        )
    m = count_smallest(fraction, gate.shape[-1])
    factor = read_strength(strength)
    if not isinstance(factor, Tensor) and factor == 0.0:
        m = 0
    if kernels_take(gate) and (m or normalization is not None):
        number, at = split_strength(factor, gate)
        width = gate.shape[-1]
        out, _, _, entropy, _ = gated_rows(
            gate.reshape(-1, width), up.reshape(-1, width), activation, m, float(alpha), order, reference, number, at,
            bool(detach_reference), normalization or "",
        )  # fmt: skip
        return out.view(gate.shape), None if normalization is None else entropy.view(gate.shape[:-1])
    k = activate(gate, activation) * up
    if m:
        k = intervene(k, fraction, alpha, order, reference, detach_reference, strength)
    return k, None if normalization is None else key_entropy(k, normalization)
