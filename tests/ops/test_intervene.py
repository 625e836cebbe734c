"""The intervention, against the plain formula in float64."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint

from infosteer import functional
from infosteer.errors import ConfigError
from infosteer.ops import chunks
from infosteer.ops import intervene as module
from infosteer.ops.intervene import intervene

from . import references

SETTINGS = list(itertools.product(["magnitude", "signed"], ["magnitude_mean", "mean"], [False, True], [1.0, 0.3, -0.5]))


def with_zeros(*shape, dtype=torch.float64):
    k = torch.randn(*shape, dtype=dtype)
    k[..., 3] = 0.0
    k[0, 0] = 0.0
    k[0, 1, : shape[-1] // 2] = -0.0
    return k


@pytest.mark.parametrize(("order", "reference", "detach", "strength"), SETTINGS)
@pytest.mark.parametrize("m", [1, 7, 36, 37])
def test_value_and_gradient(order, reference, detach, strength, m):
    k = with_zeros(3, 5, 37).requires_grad_()
    got = intervene(k, m / 37, 1.7, order, reference, detach, strength)
    want = references.intervene(k, m, 1.7, order, reference, detach, strength)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-14)
    weights = torch.randn_like(got)
    (dk,) = torch.autograd.grad(got, k, weights)
    (dk_want,) = torch.autograd.grad(want, k, weights)
    torch.testing.assert_close(dk, dk_want, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("order", "reference", "strength"), itertools.product(*(x for x in (
    ["magnitude", "signed"], ["magnitude_mean", "mean"], [1.0, 0.6]))))  # fmt: skip
def test_gradcheck(order, reference, strength):
    k = torch.randn(4, 30, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda k: intervene(k, 0.2, 1.3, order, reference, False, strength), (k,))


@settings(max_examples=150, deadline=None)
@given(
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]),
    width=st.integers(1, 200),
    batch=st.sampled_from([(), (4,), (2, 3), (0,)]),
    fraction=st.floats(0, 1),
    alpha=st.floats(-3, 3),
    order=st.sampled_from(["magnitude", "signed"]),
    reference=st.sampled_from(["magnitude_mean", "mean"]),
    zeros=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
def test_any_shape(dtype, width, batch, fraction, alpha, order, reference, zeros, seed):
    g = torch.Generator().manual_seed(seed)
    k = torch.randn(*batch, width, generator=g) * (torch.rand(*batch, width, generator=g) >= zeros)
    k = k.to(dtype)
    before = k.clone()
    got = intervene(k, fraction, alpha, order, reference)
    assert got.dtype == dtype
    assert got.shape == k.shape
    assert torch.equal(k, before)
    m = 0 if fraction == 0 else max(1, round(fraction * width))
    if m == 0:
        assert got is k
        return
    mask = references.smallest_mask(k, m, order)
    assert torch.equal(got[~mask], k[~mask])
    want = references.intervene(k.double(), m, alpha, order, reference).to(dtype)
    tolerance = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 1e-2, torch.float16: 2e-3}[dtype]
    torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_overwrite_is_exact_in_the_input_dtype(dtype):
    k = torch.randn(6, 500).to(dtype)
    mean = 1.5 * torch.mean(k.abs(), dim=-1, keepdim=True, dtype=torch.float32)
    mask = references.smallest_mask(k, 5, "magnitude")
    want = torch.where(mask, torch.where(k < 0, -mean, mean).to(dtype), k)
    assert torch.equal(intervene(k, 0.01, 1.5), want)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gradient(dtype):
    k = torch.randn(6, 300).to(dtype).requires_grad_()
    weights = torch.randn(6, 300).to(dtype)
    (dk,) = torch.autograd.grad(intervene(k, 0.3), k, weights)
    wide = k.detach().double().requires_grad_()
    (want,) = torch.autograd.grad(
        references.intervene(wide, 90, 1.0, "magnitude", "magnitude_mean"), wide, weights.double()
    )
    assert dk.dtype == dtype
    tolerance = 1e-2 if dtype == torch.bfloat16 else 1e-3
    torch.testing.assert_close(dk.double(), want, rtol=tolerance, atol=tolerance)


def test_chunks_give_the_same_bits(monkeypatch):
    k = torch.randn(23, 64, requires_grad=True)
    weights = torch.randn(23, 64)
    whole = intervene(k, 0.1)
    (dk,) = torch.autograd.grad(whole, k, weights)
    monkeypatch.setattr(chunks, "CHUNK_ELEMENTS", 5 * 64)
    parts = intervene(k, 0.1)
    assert torch.equal(parts, whole)
    assert torch.equal(torch.autograd.grad(parts, k, weights)[0], dk)


def test_strength_ends():
    k = torch.randn(3, 50, requires_grad=True)
    assert intervene(k, 0.1, strength=0.0) is k
    assert intervene(k, 0.1, strength=torch.tensor(0.0)) is k
    assert intervene(k, 0.0) is k
    full = intervene(k, 0.1)
    assert torch.equal(intervene(k, 0.1, strength=torch.tensor(1.0)), full)
    half = intervene(k, 0.1, strength=torch.tensor(0.5))
    torch.testing.assert_close(half, k + 0.5 * (full - k))


def test_strength_as_a_tensor_that_is_never_read(monkeypatch):
    """What accelerators and compilers run: the strength stays a tensor."""
    monkeypatch.setattr(module, "read_strength", lambda strength: strength)
    for s in (0.0, 0.4, 1.0):
        k = with_zeros(2, 3, 40).requires_grad_()
        got = intervene(k, 0.2, 1.2, strength=torch.tensor(s, dtype=torch.float64))
        want = references.intervene(k, 8, 1.2, "magnitude", "magnitude_mean", strength=s)
        torch.testing.assert_close(got, want, rtol=0, atol=1e-14)
        weights = torch.randn_like(got)
        dk, dk_want = (torch.autograd.grad(y, k, weights)[0] for y in (got, want))
        torch.testing.assert_close(dk, dk_want, rtol=0, atol=1e-13)
        if s == 0.0:
            assert torch.equal(got, k)
            assert torch.equal(dk, weights)


def test_special_rows():
    k = torch.randn(4, 20)
    k[0] = 0.0
    k[1, 4] = torch.inf
    k[2, 4] = torch.nan
    got = intervene(k, 0.25)
    assert torch.equal(got[0], torch.zeros(20))
    mask = references.smallest_mask(k, 5, "magnitude")
    assert not mask[1, 4]
    assert not mask[2, 4]
    assert got[1][mask[1]].isinf().all()
    assert got[2][mask[2]].isnan().all()
    assert torch.equal(got[:3][~mask[:3]].nan_to_num(7.0), k[:3][~mask[:3]].nan_to_num(7.0))
    assert intervene(k, 1.0)[3].abs().unique().numel() == 1


def test_not_in_place_and_strides():
    k = torch.randn(8, 30, 5).transpose(1, 2).requires_grad_()
    got = intervene(k, 0.1)
    assert torch.equal(got, intervene(k.detach().contiguous(), 0.1))
    (dk,) = torch.autograd.grad(got, k, torch.ones(1, 1, 1).expand_as(got))
    twin = k.detach().contiguous().requires_grad_()
    assert torch.equal(dk, torch.autograd.grad(intervene(twin, 0.1), twin, torch.ones_like(twin))[0])


@pytest.mark.parametrize("reference", ["magnitude_mean", "mean"])
@pytest.mark.parametrize("detach", [False, True])
def test_saves_nothing_wide_but_what_the_down_projection_saves(reference, detach):
    down = torch.nn.Linear(200, 10)
    h = torch.randn(7, 200, requires_grad=True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        k = h * 1.0
        saved.clear()
        edited = intervene(k, 0.03, reference=reference, detach_reference=detach)
        down(edited)
    wide = {t.untyped_storage().data_ptr() for t in saved if t.numel() >= 7 * 100 and t.shape != down.weight.T.shape}
    assert wide == {edited.untyped_storage().data_ptr()}


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointed(use_reentrant):
    weight = torch.randn(60, 8)

    def block(h):
        return intervene(torch.relu(h), 0.2) @ weight

    h = torch.randn(9, 60, requires_grad=True)
    block(h).square().sum().backward()
    want, h.grad = h.grad, None
    checkpoint(block, h, use_reentrant=use_reentrant).square().sum().backward()
    assert torch.equal(h.grad, want)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled(backend):
    strength = torch.tensor(1.0)

    def step(k, order, reference):
        return intervene(k, 0.1, 1.5, order, reference, strength=strength)

    compiled = torch.compile(step, backend=backend, fullgraph=True)
    k = with_zeros(3, 4, 90, dtype=torch.float32).requires_grad_()
    weights = torch.randn_like(k)
    for order, reference in (("magnitude", "magnitude_mean"), ("signed", "mean")):
        for value in (1.0, 0.25, 0.0):  # the same graph must follow the schedule
            strength.fill_(value)
            plain, fast = step(k, order, reference), compiled(k, order, reference)
            torch.testing.assert_close(fast, plain, rtol=1e-6, atol=1e-7)
            assert torch.equal(fast != k, plain != k)
            dk, dk_fast = (torch.autograd.grad(y, k, weights)[0] for y in (plain, fast))
            torch.testing.assert_close(dk_fast, dk, rtol=1e-5, atol=1e-6)


def test_second_derivative_is_refused_clearly():
    k = torch.randn(2, 20, requires_grad=True)
    (dk,) = torch.autograd.grad(intervene(k, 0.2).square().sum(), k, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dk.sum().backward()


def test_bad_arguments():
    k = torch.randn(2, 5)
    for bad in (
        {"fraction": 2},
        {"alpha": float("inf")},
        {"order": "abs"},
        {"reference": "median"},
        {"strength": float("nan")},
        {"strength": torch.ones(2)},
        {"strength": torch.tensor(1.0, requires_grad=True)},
    ):
        with pytest.raises(ConfigError):
            intervene(k, **bad)
    with pytest.raises(ConfigError):
        intervene(torch.arange(5))


def test_public_name():
    assert functional.intervene is intervene
