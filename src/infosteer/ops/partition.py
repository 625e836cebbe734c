"""Order statistics of rows of integers on the CPU, without sorting them.

NumPy's partition uses the wide registers of a CPU, which PyTorch's top-k does not, but it runs on one thread; with many
threads PyTorch, which splits the rows among them, takes its place. What comes out is the same.
"""

from __future__ import annotations

import torch
from torch import Tensor

# From here on so many threads outweigh the wide registers.
MANY_THREADS = 8


def least_rows(numbers: Tensor, n: int) -> Tensor:
    """The n smallest numbers of each row (R, N), 0 < n <= N, the largest of them last, the others in any sequence.

    ``numbers`` may be overwritten: it must be contiguous and the caller's own.
    """
    if n == numbers.shape[1] or torch.get_num_threads() >= MANY_THREADS:
        return numbers.topk(n, dim=1, largest=False, sorted=True).values
    numbers.numpy().partition(n - 1, axis=1)
    return numbers[:, :n]


def neighbours(numbers: Tensor, m: int) -> tuple[Tensor, Tensor]:
    """The m-th smallest number of each row (R, N), 0 < m < N, and the one after it, each (R, 1)."""
    if torch.get_num_threads() >= MANY_THREADS:
        return (
            numbers.kthvalue(m, dim=1, keepdim=True).values,
            numbers.kthvalue(m + 1, dim=1, keepdim=True).values,
        )
    parted = numbers.clone(memory_format=torch.contiguous_format)
    parted.numpy().partition(m - 1, axis=1)
    return parted[:, m - 1 : m], parted[:, m:].amin(dim=1, keepdim=True)
