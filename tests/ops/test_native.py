"""Native code for rows on the CPU: the bits of PyTorch's edit, float64's gradients, and what it leaves to PyTorch."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from infosteer.ops import cpu, cpu_rows
from infosteer.ops.backends import use_backend
from infosteer.ops.entropy import entropy_gradient_rows, key_entropy
from infosteer.ops.inject import inject
from infosteer.ops.intervene import intervene
from infosteer.ops.native import build, trial
from infosteer.ops.native import rows as native
from infosteer.ops.rows import mean_of, unpack_entries
from infosteer.ops.steered import add_entropy_gradient
from infosteer.ops.together import intervene_and_inject
from infosteer.ops.trials import awkward_rows

from . import references

DTYPES = [torch.float32, torch.bfloat16]
pytestmark = pytest.mark.skipif(isinstance(build.native_code(), str), reason=f"no native code: {build.native_code()}")
SCALES = st.sampled_from([1.0, 1e-4, 1e-30, 1e-44, 1e30])


def rows_of(kind: str, seed: int, count: int, width: int, dtype: torch.dtype, scale: float) -> torch.Tensor:
    numbers = torch.Generator().manual_seed(seed)
    rows = torch.randn(count, width, generator=numbers) * torch.randn(count, 1, generator=numbers).exp()
    if kind == "sparse":
        rows = torch.where(rows > 0.5, rows, 0.0)
    elif kind == "ties":
        rows = (rows * 2).round() / 2
    elif kind == "equal":
        rows = torch.full_like(rows, -0.5)
    elif kind == "heavy":
        rows = rows**5
    elif kind == "not finite":
        rows[:, 0], rows[:, width // 2] = math.nan, -math.inf
    return (rows * scale).to(dtype)


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from(["ordinary", "sparse", "ties", "equal", "heavy", "not finite"]),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 10_000),
    count=st.integers(0, 5),
    width=st.integers(2, 150),
    share=st.floats(0, 1),
    order=st.sampled_from(["magnitude", "signed"]),
    reference=st.sampled_from(["magnitude_mean", "mean"]),
    strength=st.sampled_from([1.0, 0.3, -2.0, 1 - 1e-9]),
    alpha=st.sampled_from([1.0, -1.5]),
    scale=SCALES,
    threads=st.sampled_from([1, 3]),
)
def test_the_edit_has_pytorchs_bits_however_it_is_named(
    kind, dtype, seed, count, width, share, order, reference, strength, alpha, scale, threads
):
    rows = rows_of(kind, seed, count, width, dtype, scale)
    m = min(width - 1, max(1, round(share * width)))
    torch.set_num_threads(threads)
    want = references.smallest_mask(rows, m, order)
    index = torch.arange(width).expand(count, width)[want].reshape(count, m)
    expected = cpu_rows.edit_rows(rows, m, index, alpha, reference, strength)
    for named in ("places", "mask", "packed"):
        before = rows.clone()
        got = native.edit_rows(rows, mean_of(rows, reference), m, order, alpha, reference, strength, named)
        assert torch.equal(rows.view(got.out.dtype).nan_to_num(7.0), before.nan_to_num(7.0))  # k is never written to
        torch.testing.assert_close(got.out, expected.out, rtol=0, atol=0, equal_nan=True)
        if named == "mask":
            assert torch.equal(got.where != 0, want)
            assert got.odd == bool((~(rows.abs() > 0)).any())
            where, signs = index, (-2 - got.where)[want].reshape(count, m)
        elif named == "places":
            where, signs = got.where, got.signs
        else:
            where, signs = unpack_entries(got.where)
        assert torch.equal(where.long(), index)
        assert torch.equal(signs, expected.signs)


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(["ordinary", "sparse", "ties", "equal"]),
    seed=st.integers(0, 10_000),
    width=st.integers(2, 150),
    fraction=st.floats(0.01, 1),
    order=st.sampled_from(["magnitude", "signed"]),
    reference=st.sampled_from(["magnitude_mean", "mean"]),
    strength=st.sampled_from([1.0, 0.3]),
    alpha=st.sampled_from([1.0, -1.5]),
    detach=st.booleans(),
    with_entropy=st.booleans(),
)
def test_gradients_are_those_of_the_formulas_in_float64(
    kind, seed, width, fraction, order, reference, strength, alpha, detach, with_entropy
):
    k = rows_of(kind, seed, 4, width, torch.float32, 1.0)
    numbers = torch.Generator().manual_seed(seed)
    grad = torch.randn(k.shape, generator=numbers)
    weight, scale = torch.tensor([1.0, 0.0, 0.5, 2.0]), torch.tensor(-0.7)
    leaf, wide = k.clone().requires_grad_(), k.double().requires_grad_()
    m = max(1, round(fraction * width))
    edited = references.intervene(wide, m, alpha, order, reference, detach, strength)
    loss = (edited * grad.double()).sum()
    chosen = {"fraction": fraction, "alpha": alpha, "order": order, "reference": reference, "strength": strength}
    with use_backend("native"):
        if with_entropy:
            out = intervene_and_inject(leaf, weight, scale, **chosen, detach_reference=detach)
            entropy = key_entropy(edited)  # of float64; its own gradient is tested against autograd elsewhere
            loss = loss + float(scale) * (entropy * weight).sum()
        else:
            out = intervene(leaf, **chosen, detach_reference=detach)
        (got,) = torch.autograd.grad(out, leaf, grad)
    (want,) = torch.autograd.grad(loss, wide)
    # the mean's sign at a zero is 0 in autograd's formula too; entries at exactly 0 have no entropy gradient of ours
    torch.testing.assert_close(got.double(), want, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("width", [4864, 8960, 9216, 11008, 18944])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_widths_of_real_models(width, dtype):
    k = awkward_rows(width, dtype, torch.device("cpu"))
    grad, factor = k.flip(0).contiguous(), torch.full((8,), -0.01)
    for fraction in (0.01, 0.5):
        found = []
        for backend in ("torch", "native"):
            with use_backend(backend):
                edit = cpu.edit_rows(k, round(fraction * width), "magnitude", 1.0, "magnitude_mean", 1.0)
                back = cpu.edit_gradient(grad, edit, 1 / width, 1.0, True)
                entropy = cpu.add_entropy_gradient(k[:5], grad[3:], factor[:5])
            found.append((edit.out, back, entropy))
        torch.testing.assert_close(found[1][0], found[0][0], rtol=0, atol=0, equal_nan=True)
        for fast, slow in zip(found[1][1:], found[0][1:], strict=True):
            assert (fast is None) == (slow is None)
            if slow is not None:
                assert trial.close(slow, fast, trial.TOLERANCES[dtype])


def test_numbers_below_the_normal_ones_have_their_logarithm():
    k = torch.rand(1, 64)
    k[0, :4] = torch.tensor([1e-38, 1e-40, 1e-44, 0.0])
    wide = k.double().requires_grad_()
    (want,) = torch.autograd.grad(key_entropy(wide).sum(), wide)
    got = native.gradient_rows(torch.zeros(1, 64), k, None, torch.ones(1), None, 1.0, False)
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-6)


def test_threads_do_not_change_a_bit():
    k, grad = torch.randn(37, 500), torch.randn(37, 500)
    found = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        edit = native.edit_rows(k, mean_of(k, "magnitude_mean"), 9, "magnitude", 1.0, "magnitude_mean", 1.0, "places")
        factor = torch.linspace(-1, 1, 37)
        found.append((edit.out, native.gradient_rows(grad, edit.out, edit, factor, 1 / 500, 1.0, True)))
    for out, back in found[1:]:
        assert torch.equal(out, found[0][0])
        assert torch.equal(back, found[0][1])


def test_rows_that_float32_does_not_carry_go_to_pytorch():
    k = torch.full((2, 8), 1e7)
    assert native.gradient_rows(torch.ones(2, 8), k, None, torch.ones(2), None, 1.0, False) is None
    k = torch.randn(2, 8)
    k[1, 3] = math.nan
    assert native.gradient_rows(torch.ones(2, 8), k, None, torch.ones(2), None, 1.0, False) is None
    assert native.gradient_rows(torch.ones(2, 8), k, None, torch.tensor([1.0, 0.0]), None, 1.0, False) is not None


class Tagged(torch.Tensor):
    """A tensor of another class, as DTensor is one: its memory may not be what it seems."""


def test_what_native_code_cannot_read_goes_to_pytorch(monkeypatch):
    k = torch.randn(3, 40)
    assert native.fits(k, k.clone())
    for rows in (k.double(), k.half(), k[:, :0], k.as_subclass(Tagged)):
        assert not native.fits(rows)
    assert not native.fits(k, k.bfloat16())
    assert not native.fits(k, torch.randn(3, 41))
    with torch._subclasses.FakeTensorMode():
        assert not native.fits(torch.empty(3, 40))
    for odd in (torch._neg_view(k), torch._efficientzerotensor((3, 40)), k.to("meta"), k.to_sparse()):
        assert not native.fits(odd)
    torch.func.functionalize(lambda rows: cpu.edit_rows(rows, 4, "magnitude", 1.0, "mean", 1.0).out)(k)
    with torch.device("meta"):  # where new tensors go is not where these rows are
        assert (
            native.edit_rows(k, mean_of(k, "mean"), 4, "magnitude", 1.0, "mean", 1.0, "places").out.device == k.device
        )
    leaf = torch.randn(6, 80, requires_grad=True)
    strided = leaf[::2, ::2]
    out = intervene(strided, 0.1)
    torch.testing.assert_close(out, intervene(strided.detach().clone(), 0.1), rtol=0, atol=0)
    (got,) = torch.autograd.grad(out, leaf, torch.ones(3, 1).expand(3, 40))
    assert got[1::2].abs().sum() == 0
    assert got[::2, ::2].abs().sum() > 0


def test_a_compiled_graph_uses_it_too(monkeypatch):
    assert trial.takes(torch.randn(5, 90))  # its trial calls it too
    calls = []
    gradient = native.gradient_rows
    monkeypatch.setattr(native, "gradient_rows", lambda *given: calls.append(1) or gradient(*given))
    k, grad = torch.randn(5, 90), torch.randn(5, 90)
    for fraction in (0.05, 0.5):
        found = []
        for call in (intervene, torch.compile(intervene, backend="aot_eager", fullgraph=True)):
            leaf = k.clone().requires_grad_()
            out = call(leaf, fraction)
            found.append((out.detach(), *torch.autograd.grad(out, leaf, grad)))
        assert torch.equal(found[0][0], found[1][0])
        torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-6, atol=1e-6)
    assert len(calls) == 4


def test_a_penalty_in_a_compiled_graph_uses_it_too(monkeypatch):
    assert trial.takes(torch.randn(5, 90))  # its trial calls it too
    calls = []
    gradient = native.gradient_rows
    monkeypatch.setattr(native, "gradient_rows", lambda *given: calls.append(1) or gradient(*given))
    k, grad, weight = torch.randn(5, 90), torch.randn(5, 90), torch.tensor([1.0, 0.0, 2.0, 1.0, 1.0])
    scale = torch.tensor(-0.3)

    def penalised(k):
        def add(rows, gradient, factor):
            return add_entropy_gradient(rows, gradient, factor, "magnitude")

        return inject(k, weight, scale, entropy_gradient_rows, add)

    found = []
    for call in (penalised, torch.compile(penalised, backend="aot_eager", fullgraph=True)):
        leaf = k.clone().requires_grad_()
        found.append(torch.autograd.grad(call(leaf), leaf, grad)[0])
    torch.testing.assert_close(found[1], found[0], rtol=1e-6, atol=1e-6)
    assert torch.equal(found[1][1], grad[1])
    assert len(calls) == 2
