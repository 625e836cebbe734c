"""Entropy of coefficients and its closed-form gradient, against autograd on the plain formula in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from infosteer import functional
from infosteer.errors import ConfigError
from infosteer.ops import chunks
from infosteer.ops.entropy import NORMALIZATIONS, entropy_gradient_rows, key_entropy

from . import references


def reference_gradient(k, normalization):
    wide = k.detach().double().requires_grad_()
    return torch.autograd.grad(references.entropy(wide, normalization).sum(), wide)[0]


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_gradcheck(normalization):
    k = torch.randn(2, 3, 17, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda k: key_entropy(k, normalization), (k,))


@settings(max_examples=150, deadline=None)
@given(
    normalization=st.sampled_from(NORMALIZATIONS),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]),
    width=st.integers(1, 300),
    batch=st.sampled_from([(), (4,), (2, 3), (0,)]),
    spread=st.sampled_from([0.01, 1.0, 8.0]),
    seed=st.integers(0, 1000),
)
def test_value_and_gradient(normalization, dtype, width, batch, spread, seed):
    g = torch.Generator().manual_seed(seed)
    k = (spread * torch.randn(*batch, width, generator=g)).to(dtype).requires_grad_()
    h = key_entropy(k, normalization)
    assert h.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    want = references.entropy(k.detach().double(), normalization)
    torch.testing.assert_close(h.double(), want, rtol=2e-6, atol=2e-6)
    (dk,) = torch.autograd.grad(h.sum(), k)
    assert dk.dtype == dtype
    want = reference_gradient(k, normalization)
    if k.numel():
        tolerance = {torch.float64: 1e-11, torch.float32: 2e-6, torch.bfloat16: 8e-3, torch.float16: 1e-3}[dtype]
        # In rows close to one-hot the reference itself loses digits to cancellation; float16 has no digits below 6e-8.
        floor = 6e-8 if dtype == torch.float16 else 1e-13
        bound = tolerance * want.abs().amax(-1, keepdim=True) + floor
        # In rows close to uniform ln |k| and Q / S cancel: what is left of the rounding of ln |k| is divided by S.
        size = k.detach().double().abs()
        rounding = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
        bound = bound + 4 * rounding * (1 + size.log().abs().amax(-1, keepdim=True)) / size.sum(-1, keepdim=True)
        assert bool(((dk.double() - want).abs() < bound).all()) or width == 1


@pytest.mark.parametrize("normalization", ["magnitude", "square"])
def test_zeros(normalization):
    k = torch.randn(5, 40, dtype=torch.float64)
    k[:, ::3] = 0.0
    k[2] = 0.0
    k[3] = 0.0
    k[3, 7] = -2.0
    k.requires_grad_()
    h = key_entropy(k, normalization)
    torch.testing.assert_close(h[:2], references.entropy(k[:2], normalization))
    assert h[2] == 0
    assert h[3] == 0
    (dk,) = torch.autograd.grad(h.sum(), k)
    assert torch.equal(dk[k == 0], torch.zeros_like(dk[k == 0]))
    dense = k.detach()[0][k[0] != 0].requires_grad_()  # zero entries change nothing for the others
    torch.testing.assert_close(
        dk[0][k[0] != 0],
        torch.autograd.grad(references.entropy(dense, normalization), dense)[0],
        rtol=1e-10,
        atol=1e-14,
    )
    assert torch.equal(dk[2:4], torch.zeros_like(dk[2:4]))


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_known_values(normalization, dtype):
    signs = torch.where(torch.arange(96) % 2 == 0, 1.0, -1.0 if normalization != "softmax" else 1.0).to(dtype)
    torch.testing.assert_close(key_entropy(3 * signs, normalization).double().item(), math.log(96), rtol=1e-6, atol=0)
    one_hot = torch.zeros(96, dtype=dtype)
    one_hot[5] = 200.0
    assert key_entropy(one_hot, normalization).item() == pytest.approx(0.0, abs=1e-30)


@pytest.mark.parametrize("size", [1e-37, 1e-30, 1e-20, 1e20, 1e30, 1e37])
@pytest.mark.parametrize("normalization", ["magnitude", "square"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_magnitudes(size, normalization, dtype):
    base = torch.randn(3, 500)
    k = (base * size).to(dtype).requires_grad_()
    h = key_entropy(k, normalization)
    torch.testing.assert_close(h.double(), references.entropy(k.detach().double(), normalization), rtol=2e-6, atol=0)
    (dk,) = torch.autograd.grad(h.sum() * size, k)  # dH/dk itself would leave the range of the dtype
    want = reference_gradient(k, normalization) * size
    scale = want.abs().max()
    if size < 1e30:
        assert ((dk.double() - want).abs() / scale).max() < (1e-2 if dtype == torch.bfloat16 else 3e-6)
    else:
        assert dk.isfinite().all()


def test_infinities_and_nan_propagate():
    k = torch.randn(4, 30)
    k[0, 3], k[1, 3], k[2, 3] = torch.inf, -torch.inf, torch.nan
    for normalization in NORMALIZATIONS:
        twin = k.clone().requires_grad_()
        h = key_entropy(twin, normalization)
        assert h[[0, 2]].isnan().all()
        assert h[3].isfinite()
        (dk,) = torch.autograd.grad(h.sum(), twin)
        assert dk[2].isnan().any()
        assert dk[3].isfinite().all()
        assert normalization == "softmax" or h[1].isnan()


def test_short_and_general_gradient_agree():
    """Rows without zeros take a shorter way; a single odd row must not change what the others get."""
    k = torch.randn(6, 200)
    odd = torch.cat([k, torch.zeros(1, 200)])
    short, general = entropy_gradient_rows(k), entropy_gradient_rows(odd)[:6]
    torch.testing.assert_close(short, general, rtol=2e-6, atol=1e-9)
    torch.testing.assert_close(short.double(), reference_gradient(k, "magnitude"), rtol=1e-5, atol=1e-9)


def test_chunks_and_strides(monkeypatch):
    k = torch.randn(30, 40, 3).transpose(1, 2).requires_grad_()
    weights = torch.randn(30, 3)
    whole = key_entropy(k)
    (dk,) = torch.autograd.grad(whole, k, weights)
    monkeypatch.setattr(chunks, "CHUNK_ELEMENTS", 7 * 40)
    parts = key_entropy(k)
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(torch.autograd.grad(parts, k, weights)[0], dk)
    torch.testing.assert_close(whole.double(), references.entropy(k.detach().double(), "magnitude"))


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_saves_only_k_and_two_numbers_a_row(normalization):
    k = torch.randn(8, 100, requires_grad=True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        key_entropy(k, normalization)
    wide = [t for t in saved if t.numel() > 16]
    assert [t.data_ptr() for t in wide] == [k.data_ptr()]
    assert sum(t.numel() for t in saved if t.numel() <= 16) == 16


def test_second_derivative_is_refused_clearly():
    k = torch.randn(2, 20, requires_grad=True)
    (dk,) = torch.autograd.grad(key_entropy(k).sum(), k, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dk.sum().backward()


def test_compiled():
    compiled = torch.compile(key_entropy, backend="aot_eager", fullgraph=True)
    k = torch.randn(3, 5, 50, requires_grad=True)
    for normalization in NORMALIZATIONS:
        h, want = compiled(k, normalization), key_entropy(k, normalization)
        torch.testing.assert_close(h, want)
        torch.testing.assert_close(
            torch.autograd.grad(h.sum(), k)[0], torch.autograd.grad(want.sum(), k)[0], rtol=1e-5, atol=1e-7
        )


def test_bad_arguments():
    with pytest.raises(ConfigError, match="normalization"):
        key_entropy(torch.randn(3), "l2")
    with pytest.raises(ConfigError, match="coefficients"):
        key_entropy(torch.tensor(1.0))
    assert functional.key_entropy is key_entropy
