"""key_entropy_target and key_norm against explicit formulas in float64, alone and inside a session."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from steered import batch, counted, gradients, llama, watch
from torch import Tensor

import infosteer
from infosteer.errors import ConfigError
from infosteer.methods.penalties.key_entropy_target import EntropyTarget, entropy_deviation
from infosteer.methods.penalties.key_norm import KeyNorm, key_norm


def shares(k: Tensor, normalization: str) -> Tensor:
    if normalization == "softmax":
        return torch.softmax(k, -1)
    weight = k.abs() if normalization == "magnitude" else k.square()
    return weight / weight.sum(-1, keepdim=True)


def deviation(k: Tensor, target: float, normalization: str) -> Tensor:
    p = shares(k, normalization)
    return (-(p * p.log()).sum(-1) / math.log(k.shape[-1]) - target) ** 2


def norm(k: Tensor, kind: str) -> Tensor:
    return (k.abs() if kind == "l1" else k * k).sum(-1) / k.shape[-1]


@pytest.mark.parametrize("normalization", ["magnitude", "square", "softmax"])
@pytest.mark.parametrize("target", [0.0, 0.6, 1.0])
def test_the_deviation_and_its_gradient(normalization: str, target: float) -> None:
    k = torch.randn(7, 11, dtype=torch.float64, requires_grad=True)
    wanted = deviation(k, target, normalization)
    torch.testing.assert_close(entropy_deviation(k, target, normalization), wanted)
    (gradient,) = torch.autograd.grad(wanted.sum(), k)
    method = EntropyTarget(target=target, normalization=normalization)
    torch.testing.assert_close(method.rows_gradient(k.detach()), gradient, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", ["l1", "l2"])
def test_the_norm_and_its_gradient(kind: str) -> None:
    k = torch.randn(2, 3, 11, dtype=torch.float64, requires_grad=True)
    wanted = norm(k, kind)
    torch.testing.assert_close(key_norm(k, kind), wanted)
    (gradient,) = torch.autograd.grad(wanted.sum(), k)
    torch.testing.assert_close(KeyNorm(norm=kind).rows_gradient(k.detach()), gradient)


def test_following_the_penalty_holds_the_target_from_either_side() -> None:
    even = 1 + 0.05 * torch.randn(20, 50, dtype=torch.float64)
    spiky = torch.randn(20, 50, dtype=torch.float64) ** 5
    for k, side in ((even, 1.0), (spiky, -1.0)):
        method = EntropyTarget(target=0.8)
        assert bool(
            (side * (-(shares(k, "magnitude") * shares(k, "magnitude").log()).sum(-1) / math.log(50) - 0.8) > 0).all()
        )
        before = float(method.rows(k).max())
        for _ in range(1000):
            step = method.rows_gradient(k)
            k = k - 0.1 * step / (1e-3 + step.norm(dim=-1, keepdim=True))
        assert float(method.rows(k).max()) < 0.01 * before


def test_rows_on_the_edge() -> None:
    zeros = torch.zeros(2, 8)
    assert entropy_deviation(zeros, 0.9).tolist() == pytest.approx([0.81, 0.81])
    assert torch.equal(EntropyTarget().rows_gradient(zeros), zeros)
    assert entropy_deviation(torch.ones(2, 1), 0.5).tolist() == [0.25, 0.25], "a row of one memory has entropy 0"
    assert torch.equal(KeyNorm(norm="l1").rows_gradient(zeros), zeros)
    for dtype in (torch.bfloat16, torch.float16):
        assert key_norm(torch.full((2, 70000), 8.0, dtype=dtype), "l2").tolist() == [64.0, 64.0], "summed in fp32"


def test_settings_are_checked() -> None:
    for wrong in ({"target": 1.1}, {"target": -0.1}, {"weight": -1.0}, {"normalization": "sum"}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            EntropyTarget(**wrong)
    with pytest.raises(ConfigError, match="norm"):
        KeyNorm(norm="l3")
    with pytest.raises(ConfigError, match="norm"):
        key_norm(torch.ones(1, 2), "max")
    assert KeyNorm(weight=0.0).idle
    assert EntropyTarget(weight=0.0).idle


@pytest.mark.parametrize(
    ("method", "value"),
    [
        (EntropyTarget(target=0.95, weight=3.0), lambda k: 3.0 * deviation(k, 0.95, "magnitude")),
        (KeyNorm(norm="l1", weight=0.5), lambda k: 0.5 * norm(k, "l1")),
        (KeyNorm(norm="l2", weight=-0.5, strength=0.5), lambda k: -0.25 * norm(k, "l2")),
    ],
    ids=["target", "l1", "l2"],
)
def test_in_a_session_they_are_a_mean_over_layers_and_tokens_that_carry_loss(method: Any, value: Any) -> None:
    rows, model = batch(), llama().double()
    seen, chosen = watch(model), counted(rows)
    loss = model(**rows, use_cache=False).loss
    wanted = loss + sum(value(k[0][chosen]).sum() for k in seen.values()) / (len(seen) * chosen.sum())
    expected = gradients(model, wanted)
    with infosteer.steer(model, [method]) as session:
        steered = session.loss(model(**rows, use_cache=False).loss)
        found = gradients(model, steered)
    torch.testing.assert_close(steered.double(), wanted.double(), rtol=1e-6, atol=0)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-7)
