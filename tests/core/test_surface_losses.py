"""The seam of losses: by token against explicit log-probabilities, in chunks, with prompts, at borders of packing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import pytest
import torch
import torch.nn.functional as F
from tests.methods.steered import VOCABULARY, batch, gradients, llama
from torch import Tensor, nn

import infosteer
from infosteer.core.contract import Context
from infosteer.core.surfaces import LossMethod, Tokens
from infosteer.core.token_losses import next_tokens
from infosteer.errors import AttachError, NoEffectError


@dataclasses.dataclass(kw_only=True)
class Smoothing(LossMethod):
    share: float = 0.2

    def per_token(self, losses: Tensor, tokens: Tokens, context: Context) -> Tensor:
        uniform_loss = -tokens.logits.log_softmax(-1).mean(-1)
        return torch.where(tokens.counted, (1 - self.share) * losses + self.share * uniform_loss, losses)


@dataclasses.dataclass(kw_only=True)
class Prompts(LossMethod):
    reads_prompts = True

    def per_token(self, losses: Tensor, tokens: Tokens, context: Context) -> Tensor:
        return losses + 0.5 * F.cross_entropy(tokens.logits, tokens.targets, reduction="none") * ~tokens.counted


def close(found: Tensor, wanted: Tensor) -> None:
    """transformers computes the task loss in float32 whatever the model's dtype."""
    torch.testing.assert_close(found.double(), wanted.double(), rtol=1e-6, atol=0)


def explicit(model: nn.Module, rows: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities (N, V), next tokens (N,), rows that carry loss (N,)."""
    logits = model(input_ids=rows["input_ids"], attention_mask=rows["attention_mask"], use_cache=False).logits
    logp = logits[:, :-1].reshape(-1, VOCABULARY).log_softmax(-1)
    return logp, rows["input_ids"][:, 1:].reshape(-1), (rows["labels"][:, 1:] != -100).reshape(-1)


def test_a_loss_by_token_equals_label_smoothing_of_torch() -> None:
    rows, model = batch(), llama().double()
    logp, targets, counted = explicit(model, rows)
    wanted = F.cross_entropy(logp[counted], targets[counted], label_smoothing=0.2)
    expected = gradients(model, wanted)
    with infosteer.steer(model, [Smoothing()]) as session:
        loss = session.loss(model(**rows, use_cache=False).loss)
        close(loss, wanted)
        found = gradients(model, loss)
        assert session.metrics()["infosteer/loss_change"] != 0
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("strength", [0.0, 0.5])
def test_its_strength_scales_the_change_alone(strength: float) -> None:
    rows, model = batch(), llama().double()
    logp, targets, counted = explicit(model, rows)
    plain = F.cross_entropy(logp[counted], targets[counted])
    smooth = F.cross_entropy(logp[counted], targets[counted], label_smoothing=0.2)
    with infosteer.steer(model, [Smoothing(strength=strength)]) as session:
        loss = session.loss(model(**rows, use_cache=False).loss)
    close(loss, plain + strength * (smooth - plain))


def test_prompts_are_read_on_request_and_padding_never() -> None:
    rows, model = batch(), llama().double()
    logp, targets, counted = explicit(model, rows)
    inside = ((rows["attention_mask"][:, 1:] != 0) & (rows["attention_mask"][:, :-1] != 0)).reshape(-1)
    nll = -logp.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    wanted = (nll[counted].sum() + 0.5 * nll[inside & ~counted].sum()) / counted.sum()
    with infosteer.steer(model, [Prompts()]) as session:
        close(session.loss(model(**rows, use_cache=False).loss), wanted)


def test_many_rows_are_done_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = batch()

    def once() -> tuple[Tensor, dict[str, Tensor]]:
        model = llama()
        with infosteer.steer(model, [Smoothing(), Prompts()]) as session:
            loss = session.loss(model(**rows, use_cache=False).loss)
            return loss, gradients(model, loss)

    whole = once()
    monkeypatch.setattr("infosteer.core.token_losses.CHUNK_ROWS", 5)
    parts = once()
    torch.testing.assert_close(whole[0], parts[0])
    for name, value in whole[1].items():
        torch.testing.assert_close(parts[1][name], value)


def test_losses_need_labels_and_must_change_something() -> None:
    rows, model = batch(), llama()
    with infosteer.steer(model, [Smoothing()]) as session:
        logits = model(input_ids=rows["input_ids"], use_cache=False).logits
        with pytest.raises(AttachError, match="labels"):
            session.loss(logits.mean())
    with infosteer.steer(model, [Smoothing(share=0.0)]) as session:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        session.loss(model(**rows, use_cache=False).loss).backward()
        with pytest.raises(NoEffectError, match="no token's loss"):
            optimizer.step()


def test_next_tokens_stop_at_the_borders_of_packed_sequences() -> None:
    model, seen = llama(), {}

    class Spy(Smoothing):
        def per_token(self, losses: Tensor, tokens: Tokens, context: Context) -> Tensor:
            seen["targets"], seen["counted"] = tokens.targets, tokens.counted
            return losses * 2

    ids = torch.tensor([[5, 6, 7, 8, 9, 10]])
    positions = torch.tensor([[0, 1, 2, 0, 1, 2]])
    with infosteer.steer(model, [Spy()]) as session:
        labels = torch.tensor([[-100, 6, 7, -100, 9, 10]])
        session.loss(model(input_ids=ids, position_ids=positions, labels=labels, use_cache=False).loss)
        assert session.calls.last is not None
        following, known = next_tokens(session.calls.last)
    assert seen["targets"].tolist() == [6, 7, 9, 10]
    assert known.tolist() == [True, True, False, True, True, False]
    assert following[known].tolist() == [6, 7, 9, 10]
