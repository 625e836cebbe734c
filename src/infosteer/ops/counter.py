"""Random numbers that depend on what a row is, not on where or when it is computed.

A generator's numbers change with batch size, order, padding and every recompute of activation checkpointing. Here each
number is a hash of a row's key and its column, and a row's key is a hash of the tokens up to it: the same text gets the
same numbers wherever it stands in a batch, in whichever process and however often.

Shape letters: B batch, T time, N = B*T rows, M columns.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15, as are the others, in two's complement
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB
_BITS = 23  # so that (n + 1/2) / 2^23 is exact in float32, and neither 0 nor 1


def mix(x: Tensor) -> Tensor:
    """Scrambles int64 values of any shape; a bijection (the finaliser of splitmix64)."""
    x = (x ^ _shift(x, 30)) * _MIX_1
    x = (x ^ _shift(x, 27)) * _MIX_2
    return x ^ _shift(x, 31)


def row_keys(ids: Tensor, mask: Tensor | None = None, positions: Tensor | None = None) -> Tensor:
    """A key for every row of a batch: a hash of the tokens of its own sequence up to and including its own.

    Args:
        ids: (B, T) token numbers.
        mask: (B, T), 0 at padding, which counts for nothing on either side.
        positions: (B, T) position numbers; where they fall back to 0 a new sequence begins (padding-free batches).

    Returns:
        (B*T,) int64.
    """
    kept = torch.ones_like(ids, dtype=torch.long) if mask is None else (mask != 0).long()
    places = kept.cumsum(-1)
    starts = torch.zeros_like(places)
    if positions is not None:
        starts = torch.where(positions == 0, places - kept, starts).cummax(-1).values
    places = places - starts
    values = mix(mix(ids.long() * _GOLDEN) + places * _GOLDEN) * kept
    total = values.cumsum(-1)
    if positions is not None:
        begins = (positions == 0).long()
        # sums of all sequences before this one: what had been summed up when it began
        before = (total - values).gather(-1, _last_start(begins))
        total = total - before
    return mix(total).reshape(-1)


def uniform(keys: Tensor, width: int, seed: int = 0) -> Tensor:
    """Uniform numbers in the open interval (0, 1): keys (N,) int64 -> (N, width) float32."""
    columns = torch.arange(1, width + 1, device=keys.device, dtype=torch.long) * _GOLDEN
    salt = mix(torch.tensor(seed, device=keys.device, dtype=torch.long) * _GOLDEN + 1)
    bits = mix(mix(keys + salt).unsqueeze(-1) + columns)
    return (_shift(bits, 64 - _BITS).float() + 0.5) * 2.0**-_BITS


def normal(keys: Tensor, width: int, seed: int = 0) -> Tensor:
    """Standard normal numbers: keys (N,) int64 -> (N, width) float32 (Box and Muller, 1958)."""
    radius = (-2 * uniform(keys, width, 2 * seed).log()).sqrt()
    return radius * (2 * math.pi * uniform(keys, width, 2 * seed + 1)).cos()


def _shift(x: Tensor, places: int) -> Tensor:
    """Logical shift to the right; torch's own keeps the sign."""
    return (x >> places) & ((1 << (64 - places)) - 1)


def _last_start(begins: Tensor) -> Tensor:
    """Index of the last 1 at or before each place, 0 before the first."""
    places = torch.arange(begins.shape[-1], device=begins.device).expand_as(begins)
    return (places * begins).cummax(-1).values
