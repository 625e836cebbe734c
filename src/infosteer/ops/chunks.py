"""Rows a few at a time, so that what is computed between two of them stays in a processor's cache."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

# Elements of a chunk of rows: large enough that calls into torch cost nothing, small enough for a cache.
CHUNK_ELEMENTS = 1 << 19


def eager_on_cpu(k: Tensor) -> bool:
    """Whether rows like k go in chunks: elsewhere launches cost more than memory, and a compiler fuses by itself."""
    return k.device.type == "cpu" and not torch.compiler.is_compiling()


def rows_per_chunk(width: int) -> int:
    """Rows that are processed together so that the temporaries of width ``width`` stay in cache."""
    return max(1, CHUNK_ELEMENTS // max(1, width))


def row_chunks(rows: Tensor, width: int | None = None) -> Iterator[slice]:
    """Slices of rows (R, M), one chunk each; ``width`` where temporaries are of another width than M."""
    step = rows_per_chunk(rows.shape[1] if width is None else width)
    for start in range(0, rows.shape[0], step):
        yield slice(start, start + step)
