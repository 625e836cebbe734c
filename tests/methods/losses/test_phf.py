"""The losses by reward against explicit formulas; what they log, and what they refuse."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from phf_rows import ROWS
from steered import batch, llama

import infosteer
from infosteer.errors import AttachError, ConfigError, DataError
from infosteer.methods.losses.phf import PreferenceLoss, weigh_by_reward
from infosteer.training.encode import encode_rows
from infosteer.training.loading import load_tokenizer


def rows_of(count: int = 9) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    logits = (2 * torch.randn(count, 5, dtype=torch.float64)).requires_grad_(True)
    targets = torch.arange(count) % 5
    return logits, targets, F.cross_entropy(logits, targets, reduction="none")


REWARDS = torch.tensor([0.0, -0.1, -0.5, -1.0, math.nan, -0.5, 0.3, -2.0, 0.0])


@pytest.mark.parametrize(
    "settings",
    [
        {"objective": "unlikelihood", "threshold": -0.5, "alpha": 0.3},
        {"objective": "unlikelihood", "threshold": None, "alpha": 0.3},
        {"objective": "rwr", "beta": 0.2},
        {"objective": "awr", "beta": 0.2, "alpha": 0.3},
    ],
)
def test_the_formulas(settings: dict[str, Any]) -> None:
    logits, targets, losses = rows_of()
    values = torch.linspace(-0.9, -0.1, 9, dtype=torch.float64, requires_grad=True)
    counted = torch.arange(9) != 5
    found = weigh_by_reward(losses, logits, targets, counted, REWARDS, values, **settings)
    p = logits.softmax(-1)[torch.arange(9), targets]
    alpha, beta = settings.get("alpha", 1.0), settings.get("beta", 1.0)
    wanted = []
    for t in range(9):
        reward, loss = float(REWARDS[t]), -p[t].log()
        if math.isnan(reward) or not counted[t]:
            wanted.append(loss)
        elif settings["objective"] == "rwr":
            wanted.append(math.exp(reward / beta) * loss)
        elif settings["objective"] == "awr":
            weight = math.exp((reward - float(values[t].detach())) / beta)
            wanted.append(alpha * weight * loss + (1 - alpha) * (reward - values[t]) ** 2)
        elif settings["threshold"] is None:
            bad = min(max(-reward, 0), 1)
            wanted.append((1 - bad) * loss - bad * alpha * (1 - p[t]).log())
        else:
            wanted.append(loss if reward >= -0.5 else -alpha * (1 - p[t]).log())  # a tie is aligned
    torch.testing.assert_close(found, torch.stack(wanted), rtol=1e-6, atol=1e-8)
    both = (logits, values) if settings["objective"] == "awr" else (logits,)
    project = torch.randn(9, dtype=torch.float64)
    ours = torch.autograd.grad((found * project).sum(), both, retain_graph=True)
    theirs = torch.autograd.grad((torch.stack(wanted) * project).sum(), both)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8)


def test_with_rewards_of_zero_they_are_the_likelihood() -> None:
    logits, targets, losses = rows_of()
    arguments = (losses, logits, targets, torch.ones(9, dtype=torch.bool), torch.zeros(9))
    torch.testing.assert_close(weigh_by_reward(*arguments), losses)
    torch.testing.assert_close(weigh_by_reward(*arguments, objective="unlikelihood", threshold=None), losses)
    torch.testing.assert_close(weigh_by_reward(*arguments, objective="rwr", beta=3.0), losses)
    constant = weigh_by_reward(*arguments, objective="awr", beta=0.5) / losses
    torch.testing.assert_close(constant, torch.full_like(losses, math.exp(0.5 / 0.5)))


def test_weights_have_an_end_and_sure_tokens_a_floor() -> None:
    logits = torch.tensor([[200.0, 0.0]], requires_grad=True)
    one, target, counted = torch.ones(1), torch.zeros(1, dtype=torch.long), torch.ones(1, dtype=torch.bool)
    found = weigh_by_reward(one, logits, target, counted, -one)
    assert float(found.detach()) == pytest.approx(-math.log(1e-20))
    assert bool(torch.autograd.grad(found.sum(), logits)[0].isfinite().all())
    for objective in ("rwr", "awr"):
        heavy = weigh_by_reward(one, logits, target, counted, 90 * one, objective=objective, beta=0.1)
        assert float(heavy.detach()) == pytest.approx(1000, rel=1e-4)


def test_what_is_logged() -> None:
    rows, model = batch(), llama()
    marks = torch.where(rows["input_ids"] % 2 == 0, -1.0, 0.0)
    marks[0] = math.nan
    counted = (rows["labels"] != -100)[:, 1:] & ~marks[:, 1:].isnan()
    reward = marks[:, 1:][counted]
    with infosteer.steer(model, [PreferenceLoss(objective="rwr", beta=0.5)]) as session:
        session.loss(model(**rows, marks_phf=marks, use_cache=False).loss)
        logged = session.metrics()
    assert logged["infosteer/phf/reward"] == pytest.approx(float(reward.mean()))
    assert logged["infosteer/phf/misaligned"] == pytest.approx(float((reward < 0).float().mean()))
    assert logged["infosteer/phf/weight"] == pytest.approx(float((reward / 0.5).exp().mean()))
    assert logged["infosteer/phf/weight_square"] == pytest.approx(float((reward / 0.25).exp().mean()))


def test_settings_batches_and_rows_are_checked() -> None:
    for wrong in ({"objective": "dpo"}, {"threshold": "high"}, {"threshold": True}, {"beta": 0}, {"alpha": -1}):
        with pytest.raises(ConfigError):
            PreferenceLoss(**wrong)
    with pytest.raises(ConfigError, match="at most 1"):
        PreferenceLoss(objective="awr", alpha=1.5)
    with infosteer.steer(llama(), [PreferenceLoss()]) as session, pytest.raises(AttachError, match="what reward"):
        session.loss(session.model(**batch(), use_cache=False).loss)
    with pytest.raises(DataError, match="No training row has rewards"):
        encode_rows(ROWS, load_tokenizer("embedded"), methods=[PreferenceLoss()])
