"""Noise with the mean and the spread of the vector that it is added to.

Shape letters: N rows, D hidden.
"""

from __future__ import annotations

import torch
from torch import Tensor

_LITTLE = 1e-6  # added to the noise's own spread


def match_statistics(noise: Tensor, reference: Tensor) -> Tensor:
    """``v = mean(h) + std(h) (d - mean(d)) / (std(d) + 1e-6)``, mean and std over the entries of each vector.

    Args:
        noise: d (..., D), any direction.
        reference: h (..., D), whose mean and standard deviation v gets.

    Returns:
        (..., D), fp32 (fp64 for fp64); no gradient reaches h or d.

    Source: arXiv 2506.16078 (its code).
    """
    wide = torch.float64 if reference.dtype == torch.float64 else torch.float32
    h, d = reference.detach().to(wide), noise.detach().to(wide)
    d = (d - d.mean(-1, keepdim=True)) / (d.std(-1, keepdim=True) + _LITTLE)
    return h.mean(-1, keepdim=True) + h.std(-1, keepdim=True) * d
