"""The injected gradient equals that of the loss written out, in every mode of training."""

from __future__ import annotations

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from infosteer.errors import ConfigError
from infosteer.ops import chunks
from infosteer.ops.entropy import NORMALIZATIONS, entropy_gradient_rows
from infosteer.ops.inject import inject

from . import references

ROWS, D, M, LAYERS = 13, 12, 48, 3


def inject_entropy(k, weight, scale, normalization="magnitude"):
    """The penalty ``-H``: what the entropy regulariser injects."""
    return inject(k, weight, scale, lambda rows: -entropy_gradient_rows(rows, normalization))


def scaled_by(loss, scales, factors):
    """Lets the backward of ``loss`` write its own scale, as a session does."""

    def write(grad):
        for scale, factor in zip(scales, factors, strict=True):
            scale.data.copy_(grad * factor)

    loss.register_hook(write)
    return loss


def parameters(dtype=torch.float64):
    g = torch.Generator().manual_seed(1)
    layers = []
    for _ in range(LAYERS):
        up, down = torch.randn(D, M, generator=g) / D**0.5, torch.randn(M, D, generator=g) / M**0.5
        layers.append((up.to(dtype).requires_grad_(), down.to(dtype).requires_grad_()))
    return layers


def batch(dtype=torch.float64):
    g = torch.Generator().manual_seed(2)
    h = torch.randn(ROWS, D, generator=g).to(dtype)
    weight = torch.rand(ROWS, generator=g)
    weight[[0, 1, 5, 12]] = 0.0
    return h, weight


def explicit(layers, h, weight, factor, multiplier, normalization):
    """Gradient of ``multiplier * (task - factor * sum_l sum_r w_r H)`` written out, in float64."""
    layers = [tuple(w.detach().double().requires_grad_() for w in layer) for layer in layers]
    h, penalty = h.double(), 0.0
    for up, down in layers:
        k = torch.nn.functional.gelu(h @ up)
        entropy = references.entropy(k, normalization)
        penalty = penalty + (entropy.sum() if weight is None else (entropy * weight.double()).sum())
        h = h + k @ down
    loss = multiplier * (h.square().mean() - factor * penalty)
    return torch.autograd.grad(loss, [w for layer in layers for w in layer])


def injected(layers, h, weight, factor, multiplier, normalization, run):
    scale = torch.full((), float("nan"))  # a value read too early would show

    def block(h, up, down):
        k = torch.nn.functional.gelu(h @ up)
        return h + inject_entropy(k, weight, scale, normalization) @ down

    h = h.clone().requires_grad_()
    for up, down in layers:
        h = run(block, h, up, down)
    loss = scaled_by(h.square().mean(), [scale], [factor])
    (loss * multiplier).backward()
    grads = [w.grad.clone() for layer in layers for w in layer]
    for layer in layers:
        for w in layer:
            w.grad = None
    return grads


MODES = {
    "plain": lambda f, *args: f(*args),
    "non-reentrant": lambda f, *args: checkpoint(f, *args, use_reentrant=False),
    "reentrant": lambda f, *args: checkpoint(f, *args, use_reentrant=True),
}


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("weighted", [True, False])
def test_equals_the_explicit_loss(mode, normalization, weighted):
    h, weight = batch(torch.float32)
    weight = weight if weighted else None
    layers = parameters(torch.float32)
    for multiplier in (1.0, 0.125):
        got = injected(layers, h, weight, 0.05, multiplier, normalization, MODES[mode])
        want = explicit(layers, h, weight, 0.05, multiplier, normalization)
        for a, b in zip(got, want, strict=True):
            assert (a.double() - b).norm() / b.norm() < 1e-6


@pytest.mark.parametrize("mode", MODES)
def test_penalty_alone_with_the_task_multiplied_by_zero(mode):
    layers, (h, weight) = parameters(), batch()

    def penalty_only(block, *args):
        return MODES[mode](block, *args)

    got = injected(layers, h, weight, 1.0, 1.0, "magnitude", penalty_only)
    full = explicit(layers, h, weight, 1.0, 1.0, "magnitude")
    task = explicit(layers, h, weight, 0.0, 1.0, "magnitude")
    plain = injected(layers, h, weight, 0.0, 1.0, "magnitude", penalty_only)
    for a, b, c, d in zip(got, full, task, plain, strict=True):
        torch.testing.assert_close(d, c, rtol=1e-12, atol=1e-14)
        # The scale is float32 and the probe's factor with it; the maths is float64.
        torch.testing.assert_close(a - d, b - c, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    k = torch.randn(6, 200).to(dtype).requires_grad_()
    grad = torch.randn(6, 200).to(dtype)
    inject_entropy(k, None, torch.tensor(3.0)).backward(grad)
    wide = k.detach().double().requires_grad_()
    (dh,) = torch.autograd.grad(references.entropy(wide, "magnitude").sum(), wide)
    want = grad.double() - 3.0 * dh
    torch.testing.assert_close(k.grad.double(), want, rtol=1e-2 if dtype == torch.bfloat16 else 1e-3, atol=1e-3)


def test_identity_view_and_saves_only_k():
    h = torch.randn(5, 40, requires_grad=True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        k = h * 1.0
        saved.clear()
        out = inject_entropy(k, torch.ones(5), torch.tensor(1.0))
    assert out.data_ptr() == k.data_ptr()
    assert torch.equal(out, k)
    assert [t.data_ptr() for t in saved] == [k.data_ptr()]


def test_idle_rows_and_zero_scale_are_left_alone_to_the_bit(monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK_ELEMENTS", 4 * M)
    g = torch.randn(ROWS, M)
    weight = batch()[1]
    k = torch.randn(ROWS, M)
    k[5] = torch.nan  # weight 0 in the middle of active rows
    k.requires_grad_()
    inject_entropy(k, weight, torch.tensor(2.0)).backward(g)
    idle = weight == 0
    assert torch.equal(k.grad[idle], g[idle])
    wide = k.detach().double()[~idle].requires_grad_()
    (dh,) = torch.autograd.grad((references.entropy(wide, "magnitude") * weight[~idle].double()).sum(), wide)
    torch.testing.assert_close(k.grad[~idle].double(), g[~idle].double() - 2.0 * dh, rtol=1e-6, atol=1e-6)
    k.grad = None
    inject_entropy(k, weight, torch.tensor(0.0)).backward(g)
    assert torch.equal(k.grad, g)


def test_other_penalties_can_use_it():
    def gradient_rows(k):  # of the sum of fourth powers
        return 4 * k.float() ** 3

    k = torch.randn(3, 4, 10, requires_grad=True)
    weight = torch.rand(3, 4)
    scale = torch.tensor(0.7)
    loss = inject(k, weight, scale, gradient_rows).sin().sum()
    (got,) = torch.autograd.grad(loss, k)
    (want,) = torch.autograd.grad(k.sin().sum() + 0.7 * (weight * k.pow(4).sum(-1)).sum(), k)
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_compiled_follows_the_scale(backend, normalization):
    scale, weight = torch.zeros(()), torch.rand(7)

    def model(h, w):  # the scale is captured, as a hook captures it
        return (inject_entropy(torch.tanh(h), weight, scale, normalization) @ w).square().sum()

    compiled = torch.compile(model, backend=backend, fullgraph=True)
    h, w = torch.randn(7, 30, requires_grad=True), torch.randn(30, 5)
    for factor in (0.5, 2.0, 0.0, -1.0):
        grads = []
        for f in (model, compiled):
            scale.data.fill_(99.0)  # what is there in the forward pass must not count
            loss = scaled_by(f(h, w), [scale], [factor])
            grads.append(torch.autograd.grad(loss, h)[0])
        torch.testing.assert_close(grads[1], grads[0], rtol=1e-5, atol=1e-6)
        plain = torch.autograd.grad((torch.tanh(h) @ w).square().sum(), h)[0]
        want = torch.autograd.grad((references.entropy(torch.tanh(h), normalization) * weight).sum(), h)[0]
        torch.testing.assert_close(grads[1], plain - factor * want, rtol=1e-5, atol=1e-5)


def test_compiled_inside_a_checkpoint():
    scale = torch.zeros(())

    def block(h, w):
        return inject_entropy(torch.tanh(h), None, scale) @ w

    def model(h, w):
        return checkpoint(block, h, w, use_reentrant=False).square().sum()

    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    h, w = torch.randn(7, 30, requires_grad=True), torch.randn(30, 5)
    for factor in (0.5, 2.0):
        got, want = (torch.autograd.grad(scaled_by(f(h, w), [scale], [factor]), h)[0] for f in (compiled, model))
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


def test_the_scale_is_read_in_the_backward_and_no_version_counter_moves():
    h = torch.randn(4, 30, requires_grad=True)
    a, b = torch.zeros(()), torch.zeros((), dtype=torch.float64)
    loss = scaled_by(inject_entropy(h, None, a).square().sum(), [a, b], [3.0, 0.5])
    version = a._version
    (loss * 0.25 / 2).backward()
    assert (a.item(), b.item()) == (0.375, 0.0625)
    assert a._version == version
    wide = h.detach().double().requires_grad_()
    (want,) = torch.autograd.grad(
        0.125 * wide.square().sum() - 0.375 * references.entropy(wide, "magnitude").sum(), wide
    )
    torch.testing.assert_close(h.grad.double(), want, rtol=1e-6, atol=1e-6)


def test_bad_arguments():
    k, one = torch.randn(3, 5), torch.tensor(1.0)
    with pytest.raises(ConfigError, match="row weights"):
        inject_entropy(k, torch.ones(4), one)
    with pytest.raises(ConfigError, match="row weights"):
        inject_entropy(k, torch.ones(3, dtype=torch.bool), one)
    with pytest.raises(ConfigError, match="scale"):
        inject_entropy(k, None, torch.ones(1))


def test_second_derivative_is_refused_clearly():
    k = torch.randn(2, 20, requires_grad=True)
    (dk,) = torch.autograd.grad(inject_entropy(k, None, torch.tensor(1.0)).sum(), k, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dk.sum().backward()
