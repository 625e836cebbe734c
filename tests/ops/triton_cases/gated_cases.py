"""The gated activation with edit and entropy inside, and what is kept for its backward pass."""

from __future__ import annotations

import pytest
import torch
from tests.ops import references

from infosteer.ops.backends import use_backend
from infosteer.ops.gated import gated
from infosteer.ops.intervene import intervene

from .support import DTYPES, SETTINGS, agree, both_ways


@pytest.mark.parametrize(("activation", "dtype"), [*(("silu", d) for d in DTYPES), ("gelu_tanh", torch.float32)])
def test_gated(activation, dtype):
    gate, up = torch.randn(2, 2, 41).to(dtype)
    up[1] = torch.round(up[1])
    for setting in ({"fraction": 0.2, "alpha": 1.5}, {"normalization": "magnitude"}):
        for pair in both_ways(lambda g, u, s=setting: gated(g, u, activation, **s), gate, up):
            agree(*pair, dtype, steps=10)


@pytest.mark.parametrize("setting", SETTINGS[:4], ids=str)
def test_gated_settings(setting):
    gate, up = torch.randn(2, 2, 37 if "strength" in setting else 2100)
    up = up.round()  # ties on both sides of a piece's end
    for pair in both_ways(lambda g, u: gated(g, u, normalization="square", **setting), gate, up):
        agree(*pair, torch.float32, steps=10)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gated_overwrites_what_a_separate_edit_would(dtype):
    """The edit inside the activation is the edit of the coefficients that the same kernel writes without one."""
    gate, up = torch.randn(2, 2, 8960).to(dtype)
    k = gated(gate, up, normalization="magnitude")[0]
    for order, reference in (("magnitude", "magnitude_mean"), ("signed", "mean")):
        out = gated(gate, up, fraction=0.01, order=order, reference=reference)[0]
        with use_backend("torch"):
            want = intervene(k, 0.01, order=order, reference=reference)
        mask = references.smallest_mask(k, 90, order)
        assert torch.equal(out[~mask], k[~mask])
        agree(out, want, dtype, steps=1)


def test_what_is_kept_for_the_backward_pass():
    rows, width, m = 4, 640, 64
    gate, up = (torch.randn(rows, width, dtype=torch.bfloat16, requires_grad=True) for _ in range(2))
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor):
        kept[tensor.data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        gated(gate, up, fraction=0.1, normalization="magnitude")
    extra = [tensor for tensor in kept.values() if tensor.data_ptr() not in (gate.data_ptr(), up.data_ptr())]
    assert sum(tensor.numel() * tensor.element_size() for tensor in extra) <= rows * 5 * 4
    kept.clear()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = intervene(gate, 0.1)
    kept.pop(out.data_ptr())  # the down projection keeps it anyway
    assert sum(tensor.numel() * tensor.element_size() for tensor in kept.values()) == rows * m * 2
