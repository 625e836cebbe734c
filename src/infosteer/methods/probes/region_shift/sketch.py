"""Quantiles of magnitudes from one pass and constant memory.

A float32 read as an integer rises with the number, and its upper bits split every power of two into equal parts: with
the lowest 15 bits cut off, 2^8 parts. So counting those integers is a histogram whose bins are all at most 2^-8 = 0.4 %
wide, from the smallest to the largest float, in 65,536 counts. Counting is exact: the order of the numbers, and how
they come in batches, changes nothing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_CUT = 15
_BINS = 1 << (31 - _CUT)
RELATIVE_ERROR = 2.0 ** (_CUT - 23)


class MagnitudeSketch:
    """Histogram of |x|; infinities lie above every number, NaN above them."""

    def __init__(self) -> None:
        self.counts: Tensor | None = None  # (65,536,) int64, on the device of what was seen

    def add(self, x: Tensor) -> None:
        """Counts the magnitudes of a floating tensor of any shape, as float32."""
        bits = x.detach().float().contiguous().view(torch.int32).reshape(-1)
        counts = torch.bincount((bits & 0x7FFFFFFF) >> _CUT, minlength=_BINS)
        self.counts = counts if self.counts is None else self.counts + counts.to(self.counts.device)

    @property
    def total(self) -> int:
        """How many numbers were seen."""
        return 0 if self.counts is None else int(self.counts.sum())

    def quantile(self, q: float) -> float:
        """The magnitude at place floor(q (n - 1)) of the sorted ones, within ``RELATIVE_ERROR`` of it; NaN for n = 0.

        Within a bin the magnitudes are taken to be evenly spread.
        """
        if self.counts is None:
            return float("nan")
        below = self.counts.cumsum(0).cpu()
        place = math.floor(q * (int(below[-1]) - 1))
        index = int((below > place).nonzero()[0])
        if index == 0:  # zeros, and numbers too small to matter
            return 0.0
        before, inside = float(below[index - 1]), float(below[index] - below[index - 1])
        low, high = (_edge(i) for i in (index, index + 1))
        return low + (high - low) * (place - before + 0.5) / inside if high < float("inf") else low


def _edge(index: int) -> float:
    return float(torch.tensor(index << _CUT, dtype=torch.int32).view(torch.float32))
