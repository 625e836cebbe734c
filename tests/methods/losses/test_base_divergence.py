"""The divergence from the base model against torch's, in a session over several steps, and what its forms come to."""

from __future__ import annotations

import copy
import math
import types

import pytest
import torch
import torch.nn.functional as F
from steered import batch, counted, gradients, llama
from torch import Tensor, nn

import infosteer
from infosteer.errors import ConfigError
from infosteer.methods.losses.base_divergence import BaseDivergence, add_divergence
from infosteer.methods.losses.base_divergence.method import FORMS


def explicit(model: nn.Module, base: nn.Module, rows: dict[str, Tensor], weight: float, form: str) -> Tensor:
    """Task loss and divergence from full logits."""
    inputs = {name: rows[name] for name in ("input_ids", "attention_mask")}
    chosen = counted(rows)[:, :-1]
    targets = rows["input_ids"][:, 1:][chosen]
    log_p = model(**inputs, use_cache=False).logits[:, :-1][chosen].log_softmax(-1)
    with torch.no_grad():
        log_b = base(**inputs, use_cache=False).logits[:, :-1][chosen].log_softmax(-1)
    here = torch.arange(len(targets))
    apart = log_p[here, targets] - log_b[here, targets]
    found = {
        "full": F.kl_div(log_b, log_p, log_target=True, reduction="none").sum(-1),
        "target": apart,
        "absolute": apart.abs(),
        "square": 0.5 * apart**2,
    }[form]
    return (weight * found - log_p[here, targets]).mean()


@pytest.mark.parametrize("form", FORMS)
def test_the_formula(form: str) -> None:
    logits, base = (2 * torch.randn(6, 5, dtype=torch.float64).requires_grad_(True) for _ in range(2))
    logits.retain_grad()
    targets, kept = torch.arange(6) % 5, torch.arange(6) != 2
    losses = F.cross_entropy(logits, targets, reduction="none") * kept
    found = add_divergence(losses, logits, targets, kept, base, weight=0.3, form=form)
    log_p, log_b = logits.log_softmax(-1), base.log_softmax(-1)
    for t in range(6):
        u = float(log_p[t, targets[t]].detach() - log_b[t, targets[t]].detach())
        full = sum(math.exp(p) * (p - b) for p, b in zip(log_p[t].tolist(), log_b[t].tolist(), strict=True))
        d = {"full": full, "target": u, "absolute": abs(u), "square": u * u / 2}[form]
        assert float(found[t].detach()) == pytest.approx(float(losses[t].detach()) + (0.3 * d if t != 2 else 0))
    assert all(value is None for value in torch.autograd.grad(found.sum(), base, allow_unused=True))


def test_impossible_tokens_give_finite_values() -> None:
    logits = torch.tensor([[500.0, -500.0, 0.0]], requires_grad=True)
    base = torch.tensor([[-math.inf, 0.0, 0.0]])
    one = (torch.zeros(1), logits, torch.zeros(1, dtype=torch.long), torch.ones(1, dtype=torch.bool), base)
    found = add_divergence(*one)
    assert float(found.detach()) == pytest.approx(80)
    assert bool(torch.autograd.grad(found.sum(), logits)[0].isfinite().all())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("chunk", [3, 1000])
def test_in_a_session_the_base_stays_what_it_was(form: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infosteer.core.token_losses.CHUNK_ROWS", chunk)
    rows, model = batch(), llama().double()
    base = copy.deepcopy(model).eval()
    method = BaseDivergence(weight=0.7, form=form, strength=0.5)
    with infosteer.steer(model, [method], measure_every=1) as session:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        for _ in range(3):
            wanted = explicit(model, base, rows, 0.35, form)
            expected = gradients(model, wanted)
            loss = session.loss(model(**rows, use_cache=False).loss)
            found = gradients(model, loss)
            torch.testing.assert_close(loss.detach().double(), wanted.detach(), rtol=1e-5, atol=1e-7)
            for name, gradient in expected.items():
                torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-7)
            optimizer.step()
        logged = session.metrics()["infosteer/base_divergence/divergence"]
        assert session.applied.base is not None
    assert session.applied.base is None, "the copy is let go"
    assert logged > 0.01


def test_the_target_form_only_scales_the_likelihoods_gradient() -> None:
    rows, found = batch(), {}
    for weight in (0.0, 0.4, 1.0):
        model = llama().double()
        with infosteer.steer(model, [BaseDivergence(weight=weight, form="target")]) as session:
            found[weight] = gradients(model, session.loss(model(**rows, use_cache=False).loss))
    for name, gradient in found[0.0].items():
        torch.testing.assert_close(found[0.4][name], 0.6 * gradient, rtol=1e-4, atol=1e-7)
        assert float(found[1.0][name].abs().max()) < 1e-6


def test_training_with_it_stays_nearer_to_the_base() -> None:
    rows, apart = batch(), {}
    for weight in (0.0, 5.0):
        model = llama()
        base = copy.deepcopy(model).eval()
        with infosteer.steer(model, [BaseDivergence(weight=weight)]) as session:
            optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
            for _ in range(20):
                optimizer.zero_grad()
                session.loss(model(**rows, use_cache=False).loss).backward()
                optimizer.step()
        likelihood = float(explicit(model, base, rows, 0.0, "full").detach())
        apart[weight] = float(explicit(model, base, rows, 1.0, "full").detach()) - likelihood
    assert apart[5.0] < 0.3 * apart[0.0]


def test_a_forward_that_a_trainer_put_in_its_place_is_not_the_bases() -> None:
    """TRL fuses head and loss by a function that holds the forward of the model it was made for."""
    rows, model = batch(), llama()
    base, original = copy.deepcopy(model).eval(), model.forward
    model.forward = types.MethodType(lambda self, **inputs: original(**inputs), model)  # type: ignore[method-assign]
    with infosteer.steer(model, [BaseDivergence(weight=0.7)]) as session:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.1)
        loss = session.loss(model(**rows, use_cache=False).loss)
        wanted = explicit(model, base, rows, 0.7, "full")
    torch.testing.assert_close(loss.detach(), wanted.detach(), rtol=1e-4, atol=0)
    assert float((wanted - explicit(model, base, rows, 0.0, "full")).detach()) > 0.001


def test_settings_are_checked() -> None:
    for wrong in ({"weight": -1}, {"weight": float("nan")}, {"form": "reverse"}):
        with pytest.raises(ConfigError):
            BaseDivergence(**wrong)
    assert BaseDivergence(weight=0).idle
