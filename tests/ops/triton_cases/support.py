"""Hostile rows, settings, and how closely kernels have to agree with PyTorch."""

from __future__ import annotations

import math

import torch

from infosteer.ops import trials
from infosteer.ops.backends import use_backend

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# One step of the type at the largest entry of a row; in float32 what another order of summation leaves.
STEP = {torch.float32: 2e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}
SETTINGS = [
    {"fraction": 0.2, "order": "signed", "reference": "mean"},
    {"fraction": 0.2, "alpha": -0.7, "strength": 0.3},
    {"fraction": 0.2, "alpha": -0.7, "detach_reference": True, "strength": 0.6},
    {"fraction": 1.0, "order": "signed", "alpha": 0.0},
    {"fraction": 1e-6, "reference": "mean"},
]


def hostile(width, dtype, rows=8):
    """Ordinary, all zero, all equal, many ties, zeros of both signs, infinities, NaN, tiny."""
    k = torch.randn(8, width)
    k[1] = 0.0
    k[2] = 0.25
    k[3] = torch.randint(-3, 4, (width,)) / 2
    k[4, ::2] = -0.0
    k[4, 1::4] = 0.0
    k[5, 0], k[5, width // 2] = math.inf, -math.inf
    k[6, width // 3 :: 7] = math.nan
    k[7] *= 1e-6
    return k[:rows].to(dtype)


def agree(got, want, dtype, steps=2.0):
    """Within a few steps of the type at each row's largest finite entry; NaN and infinities in the same places."""
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    assert trials.close(want, got, steps * STEP[dtype])


def both_ways(function, *tensors):
    """Outputs and gradients on the kernels and in PyTorch, for the same upstream gradients."""
    results = []
    for name in ("triton", "torch"):
        with use_backend(name):
            leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
            out = function(*leaves)
            outs = [o for o in (out if isinstance(out, tuple) else (out,)) if o is not None]
            torch.manual_seed(1)
            grads = torch.autograd.grad(outs, leaves, [torch.randn(o.shape).to(o.dtype) for o in outs])
            results.append([*(o.detach() for o in outs), *grads])
    return zip(*results, strict=True)
