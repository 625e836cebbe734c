"""How the kernels are launched: one program a row, the whole row on chip."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
import triton
from torch import Tensor

NORMS = {"": 0, "magnitude": 1, "square": 2, "softmax": 3}
ACTIVATIONS = {"silu": 1, "gelu_tanh": 2}

_ENTRIES_A_WARP = 1024  # 32 entries a thread: what a program keeps of a row then stays in registers

_PIECE = 2048


def rows_of(x: Tensor) -> Tensor:
    """Rows (R, M) whose entries lie side by side; a copy only where they do not."""
    return x if x.stride(1) == 1 or x.shape[1] == 1 else x.contiguous()


def launch_options(width: int) -> dict[str, Any]:
    """Block and warps for rows of M entries; products and sums are not contracted, as in the reference."""
    block = triton.next_power_of_2(width)
    return {"BLOCK": block, "num_warps": min(32, max(4, block // _ENTRIES_A_WARP)), "enable_fp_fusion": False}


def piece_options(width: int) -> dict[str, Any]:
    """The same for kernels that go through a row in pieces."""
    chunk = min(_PIECE, triton.next_power_of_2(width))
    return {"CHUNK": chunk, "num_warps": 8 if chunk == _PIECE else 4, "enable_fp_fusion": False}


def on_device(x: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Makes x's device the current one, on which Triton launches."""
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()
