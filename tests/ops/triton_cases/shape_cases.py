"""Shapes and strides, empty batches, edits that do nothing, and what the kernels do not cover."""

from __future__ import annotations

import pytest
import torch

from infosteer.errors import ConfigError
from infosteer.ops import backends
from infosteer.ops.backends import kernels_take, use_backend
from infosteer.ops.entropy import key_entropy
from infosteer.ops.gated import gated
from infosteer.ops.intervene import intervene
from infosteer.ops.together import intervene_with_entropy

from .support import agree


def test_shapes_and_strides():
    k = torch.randn(2, 37, 3).transpose(1, 2)
    expanded = torch.randn(37).expand(2, 37)
    for x in (k, k[:, :1], expanded, torch.randn(37), torch.randn(4, 74)[:, ::2]):
        with use_backend("torch"):
            want, entropy = intervene(x, 0.1), key_entropy(x)
        agree(intervene(x, 0.1), want, torch.float32)
        agree(key_entropy(x), entropy, torch.float32)
    leaf = k.clone().requires_grad_()
    intervene(leaf, 0.1).sum().backward()  # an expanded gradient
    assert leaf.grad is not None
    before = k.clone()
    intervene(k, 0.5)
    assert torch.equal(k, before)


def test_empty_batches():
    for shape in ((0, 37), (2, 0, 37)):
        leaf = torch.randn(shape, requires_grad=True)
        assert intervene(leaf, 0.1).shape == shape
        assert key_entropy(leaf).shape == shape[:-1]
        out, entropy = gated(leaf, leaf, fraction=0.1, normalization="magnitude")
        (out.sum() + entropy.sum()).backward()
        assert leaf.grad.shape == shape


def test_fraction_and_strength_zero_give_k_itself():
    k = torch.randn(2, 37)
    assert intervene(k, 0.0) is k
    assert intervene(k, 0.1, strength=0.0) is k
    edited, entropy = intervene_with_entropy(k, 0.0)
    assert edited is k
    agree(entropy, key_entropy(k), torch.float32)


def test_second_derivatives_are_refused():
    k = torch.randn(2, 37, requires_grad=True)
    (grad,) = torch.autograd.grad(key_entropy(k).sum(), k, create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula"):
        grad.sum().backward()


def test_rows_that_the_kernels_do_not_cover():
    wide = torch.randn(1, backends.WIDEST + 1)
    assert not kernels_take(wide)
    assert not kernels_take(torch.randn(2, 37, dtype=torch.float64))
    assert intervene(wide, 0.5).shape == wide.shape
    with pytest.raises(ConfigError, match="no entropy"):
        key_entropy(torch.empty(2, 0))
