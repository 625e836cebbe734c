"""The contract of every function of rows: equal to its class, row by row, in its dtype, differentiated rightly."""

from __future__ import annotations

import inspect
import sys
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from every import every_model_method, kind, only_for
from world import VOCABULARY, make

from infosteer.core.contract import Context
from infosteer.core.surfaces import InterventionMethod, LossMethod, PenaltyMethod, Tokens
from infosteer.ops.counter import mix


def context_of(method: Any, rows: torch.Tensor | None, strength: float = 1.0) -> Context:
    """The context at layer 0 of a step, with one key a row where the method draws random numbers."""
    return Context(layer=0, step=0, strength=strength, keys=rows if method.random else None)


def tokens_of(count: int) -> tuple[torch.Tensor, Tokens]:
    """Losses and tokens of some rows, every third without loss; marks in turn, and the likelihoods of earlier rows."""
    logits, targets = torch.randn(count, VOCABULARY), torch.arange(count) % VOCABULARY
    counted = torch.arange(count) % 3 != 0
    losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none") * counted
    return losses, Tokens(
        logits=logits,
        targets=targets,
        counted=counted,
        marks=torch.arange(count).float() % 4 - 1,
        earlier=lambda lags: torch.where(lags >= 1, -0.3 * lags, torch.nan),
        base=torch.randn(count, VOCABULARY),
    )


@every_model_method
def test_function_equals_class(key: str) -> None:
    only_for(key, InterventionMethod, PenaltyMethod, LossMethod, reason="no function of one tensor")
    package = inspect.getmodule(kind(key)).__name__.removesuffix(".method")
    module = sys.modules[package]
    functions = [getattr(module, name) for name in module.__all__ if inspect.isfunction(getattr(module, name))]
    assert functions, "the folder exports no function"
    method, k = make(key), torch.randn(5, 40)
    context, (losses, tokens) = context_of(method, mix(torch.arange(5))), tokens_of(5)
    offered = {"keys": context.keys, **{field.name: getattr(tokens, field.name) for field in fields(tokens)}}
    for function in functions:
        accepted = inspect.signature(function).parameters
        settings = {name: value for name, value in {**method.to_config(), **offered}.items() if name in accepted}
        if isinstance(method, LossMethod):
            assert torch.equal(function(losses, **settings), method.per_token(losses, tokens, context))
        else:
            by_class = method.edit(k, context) if isinstance(method, InterventionMethod) else method.rows(k)
            assert torch.equal(function(k, **settings), by_class)


@every_model_method
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_rows_are_independent_and_dtypes_kept(key: str, dtype: torch.dtype) -> None:
    only_for(key, InterventionMethod, PenaltyMethod, reason="it gets no key coefficients")
    method, k = make(key), torch.randn(3, 4, 40).to(dtype)
    order, keys = torch.tensor([2, 0, 1]), mix(torch.arange(12)).view(3, 4)
    if isinstance(method, InterventionMethod):
        before = k.clone()
        edited = method.edit(k, context_of(method, keys.flatten()))
        assert edited.dtype == dtype
        assert edited.shape == k.shape
        assert torch.equal(k, before), "edited in place"
        assert torch.equal(method.edit(k[order], context_of(method, keys[order].flatten())), edited[order])
        last = context_of(method, keys[:, -1].flatten())
        assert torch.equal(method.edit(k[:, -1:], last), edited[:, -1:]), "decoding steps have T = 1"
        assert method.edit(k, context_of(method, keys.flatten(), strength=0.0)) is k
        return
    values = method.rows(k)
    assert values.shape == k.shape[:-1]
    assert values.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.equal(method.rows(k[order]), values[order])


@every_model_method
def test_a_tokens_loss_depends_on_its_own_row_alone(key: str) -> None:
    only_for(key, LossMethod, reason="no loss by token")
    method, (losses, tokens) = make(key), tokens_of(9)
    new = method.per_token(losses, tokens, context_of(method, mix(torch.arange(9))))
    assert new.shape == losses.shape
    order = torch.tensor([4, 8, 0, 2, 6, 1, 3, 7, 5])
    cut = {name: getattr(tokens, name)[order] for name in ("logits", "targets", "counted", "marks", "base")}
    again = method.per_token(losses[order], replace(tokens, **cut), context_of(method, mix(torch.arange(9))[order]))
    torch.testing.assert_close(again, new[order])


@every_model_method
def test_penalty_gradient_matches_autograd(key: str) -> None:
    only_for(key, PenaltyMethod, reason="no penalty")
    method, k = make(key), torch.randn(6, 40, dtype=torch.float64, requires_grad=True)
    (wanted,) = torch.autograd.grad(method.rows(k).sum(), k)
    assert torch.allclose(method.rows_gradient(k.detach()), wanted, rtol=1e-9, atol=1e-12)
    assert torch.autograd.gradcheck(lambda x: method.rows(x), (k,))
