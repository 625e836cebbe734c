"""output_entropy and label_smoothing against torch, transformers and explicit sums."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from steered import VOCABULARY, batch, counted, gradients, llama
from torch import Tensor
from transformers.trainer_pt_utils import LabelSmoother

import infosteer
from infosteer.core.contract import Context
from infosteer.core.surfaces import LossMethod, Tokens
from infosteer.errors import ConfigError
from infosteer.methods.losses.label_smoothing import LabelSmoothing, smooth_labels
from infosteer.methods.losses.output_entropy import OutputEntropy, reward_entropy


def rows_of(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Negative log-likelihoods of random targets, and the targets."""
    targets = torch.randint(logits.shape[-1], logits.shape[:1])
    return F.cross_entropy(logits, targets, reduction="none"), targets


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 1.0])
def test_smoothing_is_torchs(epsilon: float) -> None:
    logits = 3 * torch.randn(12, 9, dtype=torch.float64, requires_grad=True)
    losses, targets = rows_of(logits)
    counted_rows = torch.arange(12) % 3 > 0
    found = smooth_labels(losses, logits, counted_rows, epsilon)
    wanted = F.cross_entropy(logits, targets, reduction="none", label_smoothing=epsilon)
    torch.testing.assert_close(found, torch.where(counted_rows, wanted, losses))
    torch.testing.assert_close(
        torch.autograd.grad(found[counted_rows].sum(), logits, retain_graph=True)[0],
        torch.autograd.grad(wanted[counted_rows].sum(), logits)[0],
    )


@pytest.mark.parametrize("weight", [0.2, -0.2])
def test_the_entropy_is_explicit(weight: float) -> None:
    logits = 3 * torch.randn(12, 9, dtype=torch.float64, requires_grad=True)
    losses, _ = rows_of(logits)
    counted_rows = torch.arange(12) % 3 > 0
    p = logits.exp() / logits.exp().sum(-1, keepdim=True)
    entropy = torch.stack([-sum(x * x.log() for x in row) for row in p])
    wanted = losses - weight * entropy * counted_rows
    found = reward_entropy(losses, logits, counted_rows, weight)
    torch.testing.assert_close(found, wanted)
    project = torch.randn(12, dtype=torch.float64)
    torch.testing.assert_close(
        torch.autograd.grad((found * project).sum(), logits, retain_graph=True)[0],
        torch.autograd.grad((wanted * project).sum(), logits)[0],
    )


def test_impossible_tokens_count_for_nothing() -> None:
    logits = torch.tensor([[0.0, 0.0, -math.inf, -math.inf], [500.0, -500.0, -500.0, 0.0]], requires_grad=True)
    found = reward_entropy(torch.zeros(2), logits, torch.ones(2, dtype=torch.bool), 1.0)
    assert found.tolist() == pytest.approx([-math.log(2), 0.0])
    (gradient,) = torch.autograd.grad(found.sum(), logits)
    assert bool(gradient.isfinite().all())


def log_p(model: torch.nn.Module, rows: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Log-probabilities (n, V) and targets (n,) of the rows that carry loss."""
    logits = model(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"], use_cache=False).logits
    chosen = counted(rows)[:, :-1]
    return logits[:, :-1][chosen].log_softmax(-1), rows["input_ids"][:, 1:][chosen]


def test_in_a_session_smoothing_is_torchs_and_transformers() -> None:
    rows, model = batch(), llama().double()
    found_log_p, targets = log_p(model, rows)
    wanted = F.cross_entropy(found_log_p, targets, label_smoothing=0.3)
    expected = gradients(model, wanted)
    logits = model(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"]).logits
    theirs = LabelSmoother(epsilon=0.3)({"logits": logits}, rows["labels"], shift_labels=True)
    torch.testing.assert_close(theirs.double(), wanted.double(), rtol=1e-6, atol=0)
    with infosteer.steer(model, [LabelSmoothing(epsilon=0.3)]) as session:
        loss = session.loss(model(**rows, use_cache=False).loss)
        found = gradients(model, loss)
    torch.testing.assert_close(loss.double(), wanted.double(), rtol=1e-6, atol=0)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("weight", "strength"), [(0.5, 1.0), (-0.5, 0.4)])
def test_in_a_session_the_entropy_bonus_is_a_mean_over_tokens_that_carry_loss(weight: float, strength: float) -> None:
    rows, model = batch(), llama().double()
    found_log_p, targets = log_p(model, rows)
    entropy = -(found_log_p.exp() * found_log_p).sum(-1)
    wanted = F.nll_loss(found_log_p, targets) - strength * weight * entropy.mean()
    expected = gradients(model, wanted)
    with infosteer.steer(model, [OutputEntropy(weight=weight, strength=strength)]) as session:
        loss = session.loss(model(**rows, use_cache=False).loss)
        found = gradients(model, loss)
    torch.testing.assert_close(loss.double(), wanted.double(), rtol=1e-6, atol=0)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-7)


@dataclasses.dataclass(kw_only=True)
class Reader(LossMethod):
    """Asks for prompts and changes nothing."""

    reads_prompts = True

    def per_token(self, losses: Tensor, tokens: Tokens, context: Context) -> Tensor:
        assert not bool(tokens.counted.all())
        return losses


def test_prompts_stay_out_when_another_method_reads_them() -> None:
    rows, values = batch(), []
    for methods in ([OutputEntropy(), LabelSmoothing()], [Reader(), OutputEntropy(), LabelSmoothing()]):
        model = llama()
        with infosteer.steer(model, methods) as session:
            values.append(float(session.loss(model(**rows, use_cache=False).loss).detach()))
    assert values[0] == pytest.approx(values[1], rel=1e-6)


def test_more_entropy_is_what_training_with_it_gives() -> None:
    rows, ends = batch(), {}
    for weight in (-0.3, 0.0, 0.3):
        model = llama()
        with infosteer.steer(model, [OutputEntropy(weight=weight)]) as session:
            optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
            for _ in range(15):
                optimizer.zero_grad()
                session.loss(model(**rows, use_cache=False).loss).backward()
                optimizer.step()
        with torch.no_grad():
            found, _ = log_p(model, rows)
        ends[weight] = float(-(found.exp() * found).sum(-1).mean())
    assert ends[-0.3] < ends[0.0] < ends[0.3] < math.log(VOCABULARY)


def test_settings_are_checked() -> None:
    for wrong in (-0.1, 1.1, math.nan, "0.1"):
        with pytest.raises(ConfigError, match="epsilon"):
            LabelSmoothing(epsilon=wrong)
    with pytest.raises(ConfigError, match="weight"):
        OutputEntropy(weight=math.inf)
    assert OutputEntropy(weight=0.0).idle
    assert LabelSmoothing(epsilon=0.0).idle
