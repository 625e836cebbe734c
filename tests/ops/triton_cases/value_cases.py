"""Edits and entropies of rows, apart and in one pass: values and gradients as in PyTorch and in float64."""

from __future__ import annotations

import pytest
import torch
from tests.ops import references

from infosteer.ops import steered
from infosteer.ops.backends import use_backend
from infosteer.ops.entropy import entropy_gradient_rows, key_entropy
from infosteer.ops.inject import inject
from infosteer.ops.intervene import intervene
from infosteer.ops.together import intervene_and_inject, intervene_with_entropy

from .support import DTYPES, SETTINGS, agree, both_ways, hostile


def check_intervene(k, dtype, **settings):
    out, grad = both_ways(lambda x: intervene(x, **settings), k)
    agree(*out, dtype)
    agree(*grad, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_hostile_rows_as_the_reference(dtype):
    check_intervene(hostile(37, dtype), dtype, fraction=0.2, alpha=1.5)


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_settings_as_the_reference(setting):
    check_intervene(hostile(40, torch.bfloat16)[[0, 3, 4]], torch.bfloat16, **setting)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("order", ["magnitude", "signed"])
@pytest.mark.parametrize("reference", ["magnitude_mean", "mean"])
@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("strength", [0.25, 1.0])
@pytest.mark.parametrize("alpha", [-1.5, 0.8])
def test_settings_as_the_reference_all(dtype, order, reference, detach, strength, alpha):
    check_intervene(
        hostile(37, dtype), dtype, fraction=0.3, alpha=alpha, order=order, reference=reference,
        detach_reference=detach, strength=strength,
    )  # fmt: skip


def test_intervene_as_an_independent_statement():
    k = torch.randn(3, 300, requires_grad=True)
    out = intervene(k, 0.1, 1.3, strength=0.4)
    weights = torch.randn_like(out)
    (got,) = torch.autograd.grad(out, k, weights)
    wide = k.detach().double().requires_grad_()
    want = references.intervene(wide, 30, 1.3, "magnitude", "magnitude_mean", strength=0.4)
    (want_grad,) = torch.autograd.grad(want, wide, weights.double())
    torch.testing.assert_close(out.double(), want, rtol=0, atol=1e-6)
    torch.testing.assert_close(got.double(), want_grad, rtol=0, atol=1e-6)


@pytest.mark.parametrize("strength", [0.0, 0.4, 1.0])
def test_strength_as_a_tensor(strength):
    k = hostile(37, torch.float16)[[0, 3, 5]]
    at = torch.tensor(strength)
    got = steered.steer_rows(k, 7, 1.2, "magnitude", "magnitude_mean", 1.0, at, False, "")
    want = intervene(k, 7 / 37, 1.2, strength=strength)
    assert torch.equal(got[0].nan_to_num(), want.nan_to_num())
    if strength == 0.0:
        assert torch.equal(got[0].nan_to_num(7.0), k.nan_to_num(7.0))
    backward = [
        steered.steer_rows_backward(k.flip(0), got[0], got[1], None, None, 1.2, "magnitude_mean", s, t, False, "")
        for s, t in ((1.0, at), (strength, None))
    ]
    agree(*backward, torch.float16)


@pytest.mark.parametrize("width", [4864, 18944])
def test_values_at_real_widths(width):
    check_intervene(hostile(width, torch.bfloat16)[[0, 3]], torch.bfloat16, fraction=0.01)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("normalization", ["magnitude", "square", "softmax"])
def test_entropy_as_the_reference(normalization, dtype):
    k = hostile(37, dtype)[[1, 4, 5] if dtype == torch.float16 else [0, 4, 6]]
    value, grad = both_ways(lambda x: key_entropy(x, normalization), k)
    agree(*value, torch.float32, steps=4)
    agree(*grad, dtype, steps=10)


def test_entropy_as_an_independent_statement():
    k = torch.randn(2, 4864, requires_grad=True)
    for normalization in ("magnitude", "square", "softmax"):
        entropy = key_entropy(k, normalization)
        wide = k.detach().double().requires_grad_()
        want = references.entropy(wide, normalization)
        torch.testing.assert_close(entropy.double(), want, rtol=1e-6, atol=0)
        (got,), (want_grad,) = (torch.autograd.grad(h.sum(), x) for h, x in ((entropy, k), (want, wide)))
        torch.testing.assert_close(got.double(), want_grad, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize(("normalization", "setting"), [("magnitude", SETTINGS[1]), ("softmax", SETTINGS[0])])
def test_both_in_one_pass(normalization, setting):
    k = hostile(37, torch.float32)[[0, 3, 4, 6]]
    pairs = list(both_ways(lambda x: intervene_with_entropy(x, normalization=normalization, **setting), k))
    for pair in pairs:
        agree(*pair, torch.float32, steps=10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_injection(dtype):
    """The scale is written between forward and backward; rows of weight 0 are left alone even where H is NaN."""
    k = hostile(37, dtype)[[0, 3, 4, 6]]
    weight = torch.tensor([1.0, 0.5, 2.0, 0.0])
    upstream = torch.randn(k.shape).to(dtype)
    results = []
    for name, together in (("triton", True), ("triton", False), ("torch", False)):
        with use_backend(name):
            leaf, scale = k.clone().requires_grad_(), torch.tensor(0.0)
            if together:
                out = intervene_and_inject(leaf, weight, scale, 0.2, 1.5)
            else:

                def add(rows, grad, factor):
                    return steered.add_entropy_gradient(rows, grad, factor, "magnitude")

                out = inject(intervene(leaf, 0.2, 1.5), weight, scale, entropy_gradient_rows, add)
            scale.fill_(3.0)
            results.append((out.detach(), torch.autograd.grad(out, leaf, upstream)[0]))
    for out, grad in results[:2]:
        agree(out, results[2][0], dtype)
        agree(grad, results[2][1], dtype, steps=10)
    assert not torch.equal(results[2][1][0], torch.autograd.grad(intervene(leaf, 0.2, 1.5), leaf, upstream)[0][0])
