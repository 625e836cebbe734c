"""The CPU path against plain operators and autograd in float64: few entries and many, both ways at once, odd rows."""

from __future__ import annotations

import pytest
import torch

from infosteer.ops import chunks, masked_rows, partition
from infosteer.ops.backends import use_backend
from infosteer.ops.entropy import key_entropy
from infosteer.ops.intervene import intervene
from infosteer.ops.native.build import native_code
from infosteer.ops.select import smallest
from infosteer.ops.together import intervene_and_inject

from . import references

ROWS, WIDTH = 19, 300


@pytest.fixture(params=["torch", "native"], autouse=True)
def _backend(request):
    """Everything here holds for PyTorch and for native code, which has the same entries and the same bits."""
    if request.param == "native" and isinstance(native_code(), str):
        pytest.skip(f"no native code: {native_code()}")
    with use_backend(request.param):
        yield


DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def odd_rows(dtype: torch.dtype) -> torch.Tensor:
    """Ordinary rows, and rows with ties, zeros of both signs, nothing but zeros, equal values, an infinity, a NaN."""
    k = torch.randn(ROWS, WIDTH)
    k[1] = torch.randint(-2, 3, (WIDTH,)).float()
    k[2, ::2] = 0.0
    k[2, 1::4] = -0.0
    k[3] = 0.0
    k[4] = 0.5
    k[5, 7] = torch.inf
    k[6, 9] = torch.nan
    k[7] = -torch.rand(WIDTH) - 0.1
    return k.to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("order", ["magnitude", "signed"])
@pytest.mark.parametrize("threads", ["few", "many"])
def test_places_and_mask_agree_with_a_stable_sort(dtype, order, threads, monkeypatch):
    if threads == "many":
        monkeypatch.setattr(partition, "MANY_THREADS", 1)
    monkeypatch.setattr(chunks, "CHUNK_ELEMENTS", 5 * WIDTH)
    k = odd_rows(dtype)
    for m in (1, 3, 30, 150, WIDTH - 1):
        want = references.smallest_mask(k, m, order)
        places = torch.zeros(k.shape, dtype=torch.bool).scatter_(1, smallest(k, m, order), True)
        assert torch.equal(places, want), m
        from infosteer.ops.select_rows import smallest_mask

        assert torch.equal(smallest_mask(k, m, order, k.abs()), want), m


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("order", ["magnitude", "signed"])
@pytest.mark.parametrize("reference", ["magnitude_mean", "mean"])
@pytest.mark.parametrize("settings", [{}, {"strength": 0.3}, {"alpha": -1.5}, {"detach_reference": True}], ids=str)
def test_a_mask_gives_what_places_give(dtype, order, reference, settings, monkeypatch):
    k, grad = odd_rows(dtype), torch.randn(ROWS, WIDTH).to(dtype)
    found = []
    for share in (1.0, 0.0):  # never a mask, always a mask
        monkeypatch.setattr("infosteer.ops.masked_rows.MASK_FROM", share)
        leaf = k.clone().requires_grad_()
        out = intervene(leaf, 0.4, order=order, reference=reference, **settings)
        found.append((out.detach(), *torch.autograd.grad(out, leaf, grad)))
    (by_places, slow), (by_mask, fast) = found
    torch.testing.assert_close(by_mask, by_places, rtol=0, atol=0, equal_nan=True)
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}[dtype]
    torch.testing.assert_close(fast, slow, rtol=tolerance, atol=tolerance, equal_nan=True)


@pytest.mark.parametrize("fraction", [0.01, 0.5])
@pytest.mark.parametrize("reference", ["magnitude_mean", "mean"])
@pytest.mark.parametrize("normalization", ["magnitude", "square", "softmax"])
@pytest.mark.parametrize("settings", [{}, {"strength": 0.3, "alpha": 2.0}, {"detach_reference": True}], ids=str)
def test_both_at_once_is_autograd_of_the_explicit_loss(fraction, reference, normalization, settings, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_ELEMENTS", 4 * WIDTH)
    k = torch.randn(3, 7, WIDTH)
    weight = torch.rand(3, 7)
    weight[0] = 0.0  # rows of a prompt: whole chunks, beginnings and ends without the penalty
    weight[1, 2] = 0.0
    grad, scale = torch.randn(k.shape), torch.tensor(-0.7)
    leaf = k.clone().requires_grad_()
    out = intervene_and_inject(
        leaf, weight, scale, fraction, reference=reference, normalization=normalization, **settings
    )
    (got,) = torch.autograd.grad(out, leaf, grad)

    wide = k.double().requires_grad_()
    edited = intervene(wide, fraction, reference=reference, **settings)
    loss = (edited * grad.double()).sum() + float(scale) * (weight * key_entropy(edited, normalization)).sum()
    (want,) = torch.autograd.grad(loss, wide)
    torch.testing.assert_close(out.detach().double(), edited.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("fraction", [0.01, 0.5])
def test_both_at_once_with_odd_rows_is_one_after_the_other(dtype, fraction, monkeypatch):
    """Zeros stay on the short way; an infinity or a NaN in a row with weight sends its chunk the careful way."""
    k, grad, scale = odd_rows(dtype), torch.randn(ROWS, WIDTH).to(dtype), torch.tensor(-0.7)
    tolerance = {torch.float64: 1e-9, torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}[dtype]
    for silent in ([], [5, 6]):
        weight = torch.ones(ROWS)
        weight[silent] = 0.0
        leaf = k.clone().requires_grad_()
        (got,) = torch.autograd.grad(intervene_and_inject(leaf, weight, scale, fraction), leaf, grad)
        leaf = k.clone().requires_grad_()
        edited = intervene(leaf, fraction)
        ordinary = (weight != 0) & ~edited.detach().isnan().any(1) & ~edited.detach().isinf().any(1)
        slope = torch.zeros(k.shape, dtype=torch.float64)
        there = edited.detach().double()[ordinary].requires_grad_()
        (slope[ordinary],) = torch.autograd.grad(key_entropy(there).sum(), there)
        total = (grad.double() + float(scale) * slope).to(dtype)
        (want,) = torch.autograd.grad(edited, leaf, total)
        rows = ordinary | (weight == 0)
        torch.testing.assert_close(got[rows], want[rows], rtol=tolerance, atol=tolerance, equal_nan=True)
        if not silent:
            assert got[6].isnan().any()  # never hidden


def test_nothing_to_add_gives_the_gradient_itself():
    k = torch.randn(4, 64, requires_grad=True)
    grad = torch.randn(4, 64)
    plain = torch.autograd.grad(intervene(k, 0.1), k, grad)[0]
    for weight, scale in ((torch.zeros(4), torch.tensor(-1.0)), (torch.ones(4), torch.tensor(0.0))):
        both = torch.autograd.grad(intervene_and_inject(k, weight, scale, 0.1), k, grad)[0]
        torch.testing.assert_close(both, plain, rtol=0, atol=1e-7)


def test_the_mask_starts_where_it_is_named():
    """Both ways are taken by the public function, at the shares that the docs name."""
    k = torch.randn(2, 640, requires_grad=True)
    kept = [intervene(k, share).grad_fn.saved_tensors[0] for share in (masked_rows.MASK_FROM, 0.04, 0.5)]
    assert [(where.dtype, where.shape[1]) for where in kept] == [
        (torch.int32, 20),
        (torch.int8, 640),
        (torch.int8, 640),
    ]
