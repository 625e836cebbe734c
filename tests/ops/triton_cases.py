"""The Triton kernels, run step by step on the CPU by Triton's interpreter; ``test_triton`` starts these in a process of
their own, because the interpreter must be asked for before Triton is imported."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.ops import references

from infosteer.errors import ConfigError
from infosteer.ops import backends, steered, trials
from infosteer.ops.backends import kernels_take, use_backend
from infosteer.ops.entropy import entropy_gradient_rows, key_entropy
from infosteer.ops.gated import gated
from infosteer.ops.inject import inject
from infosteer.ops.intervene import intervene
from infosteer.ops.rows import unpack_entries
from infosteer.ops.together import intervene_and_inject, intervene_with_entropy

WIDTHS = (4864, 8960, 9216, 11008, 18944)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# One step of the type at the largest entry of a row; in float32 what another order of summation leaves.
STEP = {torch.float32: 2e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy, which the interpreter computes with


@pytest.fixture(autouse=True)
def _kernels():
    with use_backend("triton"):
        yield


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


def mask_of(k, m, order, **settings):
    entries = steered.steer_rows(k, m, 1.0, order, "mean", 1.0, None, True, "")[1]
    index, signs = unpack_entries(entries)
    assert torch.equal(signs.float(), torch.sign(k.float().gather(1, index)).nan_to_num())
    assert len(set(map(tuple, index.tolist()))) <= len(index)
    return torch.zeros(k.shape, dtype=torch.bool).scatter(1, index, True)


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


# -- masks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", WIDTHS)
def test_masks_at_real_widths(width, dtype):
    order = "signed" if width % 3 else "magnitude"
    k = hostile(width, dtype)[[3, 6]]
    m = round(0.01 * width) if width % 5 else width // 2
    assert torch.equal(mask_of(k, m, order), references.smallest_mask(k, m, order))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("order", ["magnitude", "signed"])
@pytest.mark.parametrize("fraction", [0.0001, 0.01, 0.5, 1.0])
def test_masks_at_real_widths_all(width, dtype, order, fraction):
    k = hostile(width, dtype)
    m = max(1, round(fraction * width))
    assert torch.equal(mask_of(k, m, order), references.smallest_mask(k, m, order))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("order", ["magnitude", "signed"])
def test_masks_of_hostile_rows(dtype, order):
    k = hostile(37, dtype)
    for m, rows in ((5, k), (37, k[4:7])):
        assert torch.equal(mask_of(rows, m, order), references.smallest_mask(rows, m, order))


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_masks_of_any_bits(data):
    dtype = data.draw(st.sampled_from(DTYPES))
    width = data.draw(st.integers(1, 70))
    kind = torch.int32 if dtype == torch.float32 else torch.int16
    limits = torch.iinfo(kind)
    pool = data.draw(st.lists(st.integers(limits.min, limits.max), min_size=1, max_size=12))
    row = data.draw(st.lists(st.sampled_from(pool), min_size=width, max_size=width))
    k = torch.tensor([row], dtype=kind).view(dtype)
    m = data.draw(st.integers(1, width))
    order = data.draw(st.sampled_from(["magnitude", "signed"]))
    with use_backend("triton"):
        assert torch.equal(mask_of(k, m, order), references.smallest_mask(k, m, order))


# -- values and gradients -------------------------------------------------------------------------------------------


def check_intervene(k, dtype, **settings):
    out, grad = both_ways(lambda x: intervene(x, **settings), k)
    agree(*out, dtype)
    agree(*grad, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_hostile_rows_as_the_reference(dtype):
    check_intervene(hostile(37, dtype), dtype, fraction=0.2, alpha=1.5)


SETTINGS = [
    {"fraction": 0.2, "order": "signed", "reference": "mean"},
    {"fraction": 0.2, "alpha": -0.7, "strength": 0.3},
    {"fraction": 0.2, "alpha": -0.7, "detach_reference": True, "strength": 0.6},
    {"fraction": 1.0, "order": "signed", "alpha": 0.0},
    {"fraction": 1e-6, "reference": "mean"},
]


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


# -- both at once ---------------------------------------------------------------------------------------------------


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


# -- the gated activation -------------------------------------------------------------------------------------------


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


# -- shapes ---------------------------------------------------------------------------------------------------------


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


# -- what is kept for the backward pass -----------------------------------------------------------------------------


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


# -- kernels that fail or differ ------------------------------------------------------------------------------------


@pytest.fixture
def trials_on(monkeypatch):
    monkeypatch.setattr(backends, "INTERPRETED", False)
    monkeypatch.setattr(backends, "_tried", {})
    for module in ("intervene", "entropy", "steered"):
        monkeypatch.setattr(f"infosteer.ops.{module}.kernels_take", lambda k: True)


def test_a_trial_passes(trials_on, caplog):
    k = torch.randn(2, 19)
    with caplog.at_level(logging.WARNING):
        intervene(k.requires_grad_(), 0.2).sum().backward()
        key_entropy(k)
    assert not caplog.records
    assert len(backends._tried) == 3
    assert all(backends._tried.values())


@pytest.mark.parametrize("failure", ["raises", "wrong mask", "wrong values"])
def test_a_kernel_that_fails_is_replaced_with_one_warning(failure, trials_on, monkeypatch, caplog):
    from infosteer.ops.kernels import rows as kernels

    honest = kernels.rows_forward

    def broken(k, buffers, *settings):
        if failure == "raises":
            raise RuntimeError("out of resource: shared memory\nmore")
        honest(k, buffers, *settings)
        if failure == "wrong mask":
            buffers[1][0, 0] = (buffers[1][0, 0] + 4) % 64
        else:
            buffers[0][0, -1] += 1

    monkeypatch.setattr(kernels, "rows_forward", broken)
    k = torch.randn(2, 19)
    with caplog.at_level(logging.WARNING):
        got = [intervene(k, 0.2), intervene(k, 0.2)]
    with use_backend("torch"):
        pass
    assert len(caplog.records) == 1
    assert "rows forward" in caplog.text
    words = {"raises": "out of resource", "wrong mask": "other entries", "wrong values": "edited rows"}
    assert words[failure] in caplog.text
    monkeypatch.setattr("infosteer.ops.intervene.kernels_take", lambda k: False)
    assert all(torch.equal(x, intervene(k, 0.2)) for x in got)


# -- in a session ---------------------------------------------------------------------------------------------------


def session_gradients(methods, backend):
    from transformers import LlamaConfig, LlamaForCausalLM

    import infosteer

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=40, **sizes)
    model = LlamaForCausalLM(config).train()
    ids = torch.randint(2, 40, (1, 4))
    with use_backend(backend), infosteer.steer(model, methods) as session:
        loss = session.loss(model(input_ids=ids, labels=ids).loss)
        loss.backward()
    return loss.detach(), [parameter.grad for parameter in model.parameters()]


@pytest.mark.parametrize(
    ("methods", "launches"),
    [
        ([{"method": "key_lift", "fraction": 0.2}, {"method": "key_entropy", "weight": 0.5}], 2),
        ([{"method": "key_entropy", "weight": 0.5}], 2),
        ([{"method": "key_lift", "fraction": 0.2, "entropy_low": 0.1}, {"method": "key_entropy", "weight": 0.5}], 4),
        ([{"method": "key_lift", "fraction": 0.2}, {"method": "key_norm", "weight": 0.5}], 2),
    ],
    ids=["both", "entropy", "both, lifted by entropy", "another penalty"],
)
def test_a_session_on_the_kernels(methods, launches, monkeypatch):
    """Edit and penalty share a backward pass, one launch a layer, where the edit takes every row."""
    from infosteer.ops.kernels import rows as kernels

    calls = []
    backward = kernels.rows_backward
    monkeypatch.setattr(kernels, "rows_backward", lambda *arguments: (calls.append(1), backward(*arguments)))
    want, want_grads = session_gradients(methods, "torch")
    assert not calls
    loss, grads = session_gradients(methods, "triton")
    assert len(calls) == launches
    torch.testing.assert_close(loss, want)
    for got, expected in zip(grads, want_grads, strict=True):
        assert (got - expected).norm() <= 1e-5 * expected.norm()


# -- in a session ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("methods", [["key_lift"], ["key_entropy"], ["key_lift", "key_entropy"]], ids="+".join)
def test_a_session_trains_on_the_fused_kernels_as_on_pytorch(methods, monkeypatch):
    from tests.models.tiny_models import tiny, tokens

    import infosteer
    from infosteer.core import firing

    calls = []
    monkeypatch.setattr(firing, "gated", lambda *given, **settings: calls.append(1) or gated(*given, **settings))
    lift = "infosteer.methods.interventions.key_lift.method.gated"
    monkeypatch.setattr(lift, lambda *given, **settings: calls.append(1) or gated(*given, **settings))
    chosen = [{"method": name, **({"fraction": 0.2} if name == "key_lift" else {"weight": 0.5})} for name in methods]
    found = []
    for backend in ("triton", "torch"):
        with use_backend(backend):
            model, ids = tiny("llama").train(), tokens()
            optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
            with infosteer.steer(model, chosen) as session:
                for _ in range(2):  # the first step is measured, which takes the coefficients one by one
                    optimizer.zero_grad()
                    loss = session.loss(model(input_ids=ids, labels=ids).loss)
                    loss.backward()
                    optimizer.step()
            found.append([loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
        assert len(calls) == 2  # two layers, on the kernels only
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)
