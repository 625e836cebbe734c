"""Which back end computes, and the operators in plain PyTorch: what they promise to a compiler."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest
import torch
from tests.scripts import load_script
from torch.utils.checkpoint import checkpoint

from infosteer.errors import ConfigError
from infosteer.experiments.environment import environment
from infosteer.ops import backends
from infosteer.ops.backends import describe, kernels_take, set_backend, tried, use_backend
from infosteer.ops.entropy import key_entropy
from infosteer.ops.gated import gated
from infosteer.ops.gated_operator import gated_rows, gated_rows_backward
from infosteer.ops.inject import inject_value
from infosteer.ops.intervene import intervene
from infosteer.ops.rows import pack_entries, statistics_dtype, unpack_entries
from infosteer.ops.steered import lift, steer_rows, steer_rows_backward
from infosteer.ops.together import intervene_and_inject, intervene_with_entropy

needs_triton = pytest.mark.skipif(not backends._TRITON, reason="needs triton (pip install 'infosteer[kernels]')")


@pytest.fixture(autouse=True)
def _automatic(monkeypatch):
    monkeypatch.setattr(backends, "_environment", None)
    monkeypatch.setattr(backends, "_override", None)
    monkeypatch.setattr(backends, "_tried", {})
    monkeypatch.setattr(backends, "INTERPRETED", False)


def test_cpu_tensors_do_not_go_to_triton():
    assert not kernels_take(torch.randn(2, 3))
    with use_backend("torch"):
        assert describe()["cpu"] == "torch"


@needs_triton
def test_tensors_on_a_gpu_go_to_triton():
    with torch._subclasses.FakeTensorMode():
        k = torch.empty(2, 3, device="cuda", dtype=torch.bfloat16)
        assert kernels_take(k)
        assert not kernels_take(k.double())
        assert not kernels_take(torch.empty(2, backends.WIDEST + 1, device="cuda"))
        with use_backend("torch"):
            assert not kernels_take(k)
        assert kernels_take(k)


def test_without_triton_everything_goes_to_pytorch(monkeypatch):
    monkeypatch.setattr(backends, "_TRITON", False)
    with torch._subclasses.FakeTensorMode():
        assert not kernels_take(torch.empty(2, 3, device="cuda"))
    with pytest.raises(ConfigError, match="not installed"):
        set_backend("triton")
    assert describe()["gpu"] == "torch"


@needs_triton
def test_triton_where_it_cannot_run_is_refused():
    with use_backend("triton"):
        with pytest.raises(ConfigError, match=r"(?s)cannot run here.*cpu.*TRITON_INTERPRET"):
            intervene(torch.randn(2, 30), 0.1)
        with use_backend("torch"):
            intervene(torch.randn(2, 30), 0.1)
        with use_backend(None):
            intervene(torch.randn(2, 30), 0.1)


def test_unknown_names_are_refused(monkeypatch):
    with pytest.raises(ConfigError, match=r"'cuda'"):
        set_backend("cuda")
    monkeypatch.setattr(backends, "_environment", "gpu")
    with pytest.raises(ConfigError, match=r"(?s)INFOSTEER_BACKEND.*'gpu'"):
        intervene(torch.randn(2, 30), 0.1)
    assert "Unknown" in describe()["override"]


def test_a_failure_inside_the_block_gives_the_choice_back():
    with pytest.raises(RuntimeError, match="boom"), use_backend("torch"):
        raise RuntimeError("boom")
    assert backends.chosen_backend() is None


def test_the_environment_is_asked_and_reported():
    code = "from infosteer.ops.backends import chosen_backend; print(chosen_backend())"
    variables = {**os.environ, "INFOSTEER_BACKEND": "torch"}
    result = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True)
    assert result.stdout.strip() == "torch", result.stderr
    assert environment()["kernels"] == describe()


def test_a_trial_is_made_once_and_its_failure_is_one_warning(caplog):
    calls = []

    def fails():
        calls.append(1)
        raise RuntimeError("no such instruction\nlong trace")

    with caplog.at_level(logging.WARNING):
        assert [tried(("a",), "rows forward", fails) for _ in range(3)] == [False] * 3
        assert tried(("b",), "rows forward", lambda: None)
        assert not tried(("c",), "gated", lambda: "it chooses other entries")
    assert len(calls) == 1
    assert [record.getMessage().count("not used") for record in caplog.records] == [1, 1]
    assert "no such instruction" in caplog.text
    assert "long trace" not in caplog.text


# -- the operators in plain PyTorch -----------------------------------------------------------------------------------

ROWS = [
    (4, 1.5, "magnitude", "magnitude_mean", 0.5, False, "magnitude"),
    (4, -1.5, "signed", "mean", 1.0, True, ""),
    (0, 1.0, "magnitude", "mean", 1.0, True, "softmax"),
    (37, 1.0, "signed", "magnitude_mean", 1.0, False, "square"),
]


def row_arguments(case, dtype=torch.float32, at=None):
    m, alpha, order, reference, strength, detach, normalization = case
    k = torch.randn(3, 37).to(dtype)
    return (k, m, alpha, order, reference, strength, at, detach, normalization)


@pytest.mark.parametrize("case", ROWS, ids=str)
def test_operators_keep_their_promises_to_pytorch(case):
    k, *settings = row_arguments(case)
    torch.library.opcheck(steer_rows, (k.requires_grad_(), *settings))
    out, entries, entropy, moments = (x.detach() for x in steer_rows(k, *settings))
    m, alpha, _, reference, strength, detach, normalization = case
    y = out if m else k.detach()
    factor = torch.randn(3) if normalization else None
    arguments = (torch.randn(3, 37), y, entries, moments if normalization else None, factor)
    torch.library.opcheck(steer_rows_backward, (*arguments, alpha, reference, strength, None, detach, normalization))
    assert entropy.shape == ((3,) if normalization else (0,))


@pytest.mark.parametrize("case", ROWS[:3], ids=str)
def test_gated_operators_keep_their_promises_to_pytorch(case):
    gate, *settings = row_arguments(case)
    up = torch.randn(3, 37)
    torch.library.opcheck(gated_rows, (gate.requires_grad_(), up.requires_grad_(), "silu", *settings))
    _, places, means, _, moments = (x.detach() for x in gated_rows(gate, up, "silu", *settings))
    factor = torch.randn(3) if case[-1] else None
    saved = (places, means, moments if case[-1] else None, factor)
    arguments = (torch.randn(3, 37), gate.detach(), up.detach(), *saved, "silu", *settings)
    torch.library.opcheck(gated_rows_backward, arguments)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("case", ROWS, ids=str)
def test_operators_equal_the_functions(case, dtype):
    k, m, alpha, order, reference, strength, _, detach, normalization = row_arguments(case, dtype)
    results = []
    for operator in (True, False):
        leaf = k.clone().requires_grad_()
        if operator:
            out, entropy = lift(leaf, m, alpha, order, reference, detach, strength, normalization)
        else:
            out = intervene(leaf, m / 37, alpha, order, reference, detach, strength)
            entropy = (
                key_entropy(out, normalization) if normalization else torch.empty(0, dtype=statistics_dtype(dtype))
            )
        torch.manual_seed(1)
        total = (out * torch.randn_like(out)).sum() + (entropy * torch.randn_like(entropy)).sum()
        results.append((out, entropy, torch.autograd.grad(total, leaf)[0]))
    (out, entropy, grad), (want, want_entropy, want_grad) = results
    assert torch.equal(out, want)
    torch.testing.assert_close(entropy, want_entropy)
    torch.testing.assert_close(grad, want_grad)


@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
@pytest.mark.parametrize("case", ROWS[:3], ids=str)
def test_gated_operator_equals_the_plain_graph(case, activation):
    m, alpha, order, reference, strength, detach, normalization = case
    gate, up = torch.randn(2, 3, 37).unbind()
    results = []
    for operator in (True, False):
        leaves = gate.clone().requires_grad_(), up.clone().requires_grad_()
        if operator:
            settings = (activation, m, alpha, order, reference, strength, None, detach, normalization)
            out, _, _, entropy, _ = gated_rows(*leaves, *settings)
        else:
            out, entropy = gated(*leaves, activation, m / 37, alpha, order, reference, detach, strength,
                                 normalization or None)  # fmt: skip
        torch.manual_seed(1)
        total = (out * torch.randn_like(out)).sum() + (0 if not normalization else (entropy * torch.randn(3)).sum())
        results.append((out, *torch.autograd.grad(total, leaves)))
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want)


def test_operators_are_one_node_in_a_compiled_graph():
    def function(k):
        out, entropy = lift(k, 4, 1.5, "magnitude", "magnitude_mean", False, 1.0, "magnitude")
        return out.sum() + entropy.sum()

    k = torch.randn(3, 37, requires_grad=True)
    want = torch.autograd.grad(function(k), k)[0]
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(torch.autograd.grad(compiled(k), k)[0], want)


@pytest.mark.parametrize("m", [1, 37])
@pytest.mark.parametrize("width", [37, 1 << 14, (1 << 14) + 1, 1 << 15])
def test_packed_entries(width, m):
    index = torch.randperm(width)[:m].unsqueeze(0)
    index[0, 0] = width - 1
    signs = torch.randint(-1, 2, (1, m), dtype=torch.int8)
    entries = pack_entries(index, signs, width)
    assert entries.dtype == (torch.int16 if width <= 1 << 14 else torch.int32)
    got, got_signs = unpack_entries(entries)
    assert torch.equal(got, index)
    assert torch.equal(got_signs, signs)


# -- functions that join both -----------------------------------------------------------------------------------------


def test_joint_functions_are_their_parts():
    k = torch.randn(2, 3, 40, requires_grad=True)
    edited, entropy = intervene_with_entropy(k, 0.2, normalization="square")
    assert torch.equal(edited, intervene(k, 0.2))
    torch.testing.assert_close(entropy, key_entropy(edited, "square"))
    weight, scale, upstream = torch.rand(6), torch.tensor(0.0), torch.randn(2, 3, 40)
    out = intervene_and_inject(k, weight, scale, 0.2)
    scale.fill_(2.0)
    (got,) = torch.autograd.grad(out, k, upstream)
    edited = intervene(k, 0.2)
    loss = (edited * upstream).sum() + 2 * (weight * key_entropy(edited).view(-1)).sum()
    torch.testing.assert_close(got, torch.autograd.grad(loss, k)[0])


@pytest.mark.parametrize("reentrant", [None, False, True])
def test_the_fused_injection_is_the_explicit_loss(reentrant):
    """In every mode of activation checkpointing, with a scale that is written between forward and backward."""
    gate, up, upstream = torch.randn(3, 2, 3, 40)
    weight, scale = torch.tensor([1.0, 0.0, 2.0, 0.5, 1.0, 1.0]), torch.tensor(0.0)

    def layer(gate, up):
        k, entropy = gated(gate, up, fraction=0.1, normalization="magnitude")
        return inject_value(k, entropy, weight, scale) * 1.0

    leaves = gate.requires_grad_(), up.requires_grad_()
    out = layer(*leaves) if reentrant is None else checkpoint(layer, *leaves, use_reentrant=reentrant)
    scale.fill_(3.0)
    out.backward(upstream)
    got = [leaf.grad for leaf in leaves]
    k = intervene(torch.nn.functional.silu(gate) * up, 0.1)
    loss = (k * upstream).sum() + 3 * (weight * key_entropy(k).view(-1)).sum()
    for left, right in zip(got, torch.autograd.grad(loss, leaves), strict=True):
        torch.testing.assert_close(left, right)


def load_benchmark():
    return load_script("triton_kernels")


def test_the_benchmark_refuses_kindly_and_its_arms_run(capsys):
    benchmark = load_benchmark()
    if not torch.cuda.is_available():
        assert benchmark.main(["--json"]) == 2
        assert "No GPU" in capsys.readouterr().err
    gate, up, upstream = torch.randn(3, 4, 40)
    leaves = gate.requires_grad_(), up.requires_grad_()
    grads = {name: benchmark.run(arm, *leaves, upstream) for name, arm in benchmark.arms(0.1, 4, "cpu").items()}
    for name, (gate_grad, up_grad) in grads.items():
        want = grads["plain" if "plain" in name else f"{name.split(',')[0]}, PyTorch"]
        torch.testing.assert_close(gate_grad, want[0])
        torch.testing.assert_close(up_grad, want[1])
    assert not torch.equal(grads["plain"][0], grads["intervention, PyTorch"][0])
    rows = benchmark.check(37, torch.bfloat16, "cpu", rows=3)
    assert len(rows) > 15
    assert all(row["right"] for row in rows)
    assert "agree" in benchmark.as_tables(rows, [])


def test_hostile_settings():
    k = torch.randn(2, 40)
    for call in (
        lambda: gated(k, k[:1]),
        lambda: gated(k, k.double()),
        lambda: gated(k, k, "relu"),
        lambda: gated(k, k, fraction=2.0),
        lambda: gated(k, k, normalization="l2"),
        lambda: gated(k, k, alpha=float("nan")),
        lambda: gated(k, k, strength=float("inf")),
        lambda: gated([1.0], k),
        lambda: intervene_with_entropy(k, order="largest"),
        lambda: intervene_and_inject(k, torch.ones(3), torch.tensor(1.0)),
        lambda: intervene_and_inject(k, None, torch.ones(2)),
    ):
        with pytest.raises(ConfigError):
            call()
