"""Which rows of a batch carry loss, and means over them.

Shape letters: B batch, T time.
"""

from __future__ import annotations

import torch
from torch import Tensor

from infosteer.errors import ConfigError


def loss_rows(labels: Tensor, ignore_index: int = -100, shifted: bool = False) -> Tensor:
    """Rows whose prediction enters a causal language model's loss.

    Row t predicts token t + 1, so it counts when ``labels[:, t + 1] != ignore_index``; the last row predicts nothing.
    Labels that are already shifted (``shift_labels``) say it in place: row t counts when ``labels[:, t]`` is not it.

    Args:
        labels: (B, T) integer labels (any leading shape).
        ignore_index: the label that carries no loss.
        shifted: the labels are already shifted by one.

    Returns:
        (B, T) bool.

    Raises:
        ConfigError: labels are not integers or have no time dimension.
    """
    if labels.dim() == 0 or labels.is_floating_point() or labels.dtype == torch.bool:
        raise ConfigError(
            "Labels are not a tensor of token numbers.",
            where="labels",
            got=f"{labels.dtype} with shape {tuple(labels.shape)}",
            expected="an integer tensor of shape (B, T)",
        )
    counted = labels != ignore_index
    if shifted:
        return counted
    return torch.cat([counted[..., 1:], torch.zeros_like(counted[..., :1])], dim=-1)


def masked_sum(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Sum of ``x`` where ``mask`` holds, in float32 (float64 stays).

    Entries outside the mask do not count, whatever they are (NaN too). Differentiable.

    Args:
        x: tensor of any shape.
        mask: bool, broadcastable to ``x``; None for all entries.

    Returns:
        0-dim tensor, 0 for an empty mask.

    Raises:
        ConfigError: the mask is not bool or does not broadcast to ``x``.
    """
    wide = x.to(torch.float64 if x.dtype == torch.float64 else torch.float32)
    if mask is None:
        return wide.sum()
    return torch.where(_expanded(mask, x), wide, torch.zeros((), dtype=wide.dtype, device=wide.device)).sum()


def masked_mean(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean of ``x`` where ``mask`` holds, in float32 (float64 stays); 0 for an empty mask.

    Args and errors as ``masked_sum``.

    Returns:
        0-dim tensor.
    """
    count = x.numel() if mask is None else _expanded(mask, x).sum()
    total = masked_sum(x, mask)
    return total / (max(1, count) if isinstance(count, int) else count.clamp_min(1))


def _expanded(mask: Tensor, x: Tensor) -> Tensor:
    if mask.dtype == torch.bool:
        try:
            return mask.expand(x.shape)
        except RuntimeError:
            pass
    raise ConfigError(
        "The mask does not fit the values.",
        where="mask",
        got=f"{mask.dtype} with shape {tuple(mask.shape)}",
        expected=f"bool, broadcastable to {tuple(x.shape)}",
    )
