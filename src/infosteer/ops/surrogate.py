"""What a memory vector says in vocabulary space.

Shape letters: D hidden, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from infosteer.errors import ConfigError

# Entries of the decoding matrix that are widened at a time: 16 M float32 numbers are 64 MiB.
_WIDEN_ELEMENTS = 1 << 24


def information_surrogate(v: Tensor, w_decode: Tensor) -> Tensor:
    """Information surrogate ``phi = v W_decode^T`` of memory vectors.

    Products are summed in float32 and the result is float32, whatever the half precision of the inputs; if either is
    float64, both are taken as float64 and so is the result. A half-precision ``w_decode`` is widened in blocks of the
    vocabulary, so that a large head is never copied whole (unless a gradient is recorded). Differentiable in both.

    Args:
        v: (..., D) memory vectors, rows of W_down (columns of the ``nn.Linear`` weight).
        w_decode: (V, D) decoding matrix, laid out as ``lm_head.weight``.

    Returns:
        (..., V) float32 or float64.

    Raises:
        ConfigError: shapes or dtypes do not fit.

    Source: arXiv 2507.05158, section 4.3.
    """
    if not (isinstance(v, Tensor) and isinstance(w_decode, Tensor)):
        raise ConfigError(
            "Not tensors.",
            where="v, w_decode",
            got=f"{type(v).__name__}, {type(w_decode).__name__}",
            expected="tensors",
        )
    if w_decode.dim() != 2 or v.dim() == 0 or v.shape[-1] != w_decode.shape[1]:
        raise ConfigError(
            "Memory vectors and decoding matrix do not fit.",
            where="w_decode",
            got=f"v {tuple(v.shape)}, w_decode {tuple(w_decode.shape)}",
            expected="v (..., D) and w_decode (V, D)",
            fix="pass lm_head.weight as it is; for memory vectors pass the columns of down_proj.weight (transpose it)",
        )
    if not (v.is_floating_point() and w_decode.is_floating_point()):
        raise ConfigError("Not floating tensors.", where="v, w_decode", got=f"{v.dtype}, {w_decode.dtype}")
    wide = torch.float64 if torch.float64 in (v.dtype, w_decode.dtype) else torch.float32
    with torch.autocast(device_type=v.device.type, enabled=False):
        vectors = v.to(wide)
        if w_decode.dtype == wide or w_decode.numel() == 0:
            return vectors @ w_decode.to(wide).T
        step = max(1, _WIDEN_ELEMENTS // w_decode.shape[1])
        blocks = [vectors @ block.to(wide).T for block in w_decode.split(step)]
        return torch.cat(blocks, dim=-1) if len(blocks) > 1 else blocks[0]
