"""Answers of a model whose layers are perturbed, every layer by itself: one row of a batch for each.

Legend: L layers under attack, T time, D hidden, R = L rows of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from infosteer.models import main_stream, visiting_blocks
from infosteer.ops.matched_noise import match_statistics


class Perturbed:
    """A model in which row r of every batch is perturbed at one layer, from a position on.

    Args:
        layers: (R,) the layer of each row.
        vectors: (R, D) what is added there.
        begin: first perturbed position of the first forward; later forwards (decoding) are perturbed as a whole.
    """

    def __init__(self, model: nn.Module, layers: Sequence[int], vectors: Tensor, begin: int) -> None:
        self.model, self.begin = model, begin
        self._rows = {layer: [r for r, own in enumerate(layers) if own == layer] for layer in layers}
        self._vectors = vectors

    def __call__(self, ids: Tensor, past: Any = None, *, use_cache: bool = True) -> Any:
        begin = self.begin if past is None else 0

        def visit(layer: int, states: Tensor) -> Tensor:
            rows = self._rows[layer]
            added = torch.zeros_like(states)  # never in place: a layer's output may be needed as it was
            added[..., rows, begin:, :] = self._vectors[rows, None].to(states)
            return states + added

        with visiting_blocks(self.model, visit, set(self._rows)):
            return self.model(input_ids=ids, past_key_values=past, use_cache=use_cache)


def last_states(model: nn.Module, ids: Sequence[int], layers: Sequence[int]) -> Tensor:
    """(L, D) what these layers put out at the last token of a prompt, without perturbation."""
    found: dict[int, Tensor] = {}

    def visit(layer: int, states: Tensor) -> None:
        found[layer] = main_stream(model, states)[0, -1].detach()

    with torch.no_grad(), visiting_blocks(model, visit, set(layers)):
        model(input_ids=torch.tensor([list(ids)], device=_device(model)), use_cache=False)
    return torch.stack([found[layer] for layer in layers])


def gradient_signs(
    model: nn.Module, ids: Sequence[int], target: Sequence[int], layers: Sequence[int], direction: int
) -> Tensor:
    """(L, D) ``direction * sign(dL/dh)`` at the last token but one of prompt and target, L the target's loss.

    Source: arXiv 2506.16078 (ASA_grad), where the direction is +1.
    """
    found: dict[int, Tensor] = {}

    def visit(layer: int, states: Tensor) -> Tensor:
        kept = states if states.requires_grad else states.detach().requires_grad_(True)
        kept.retain_grad()
        found[layer] = kept
        return kept

    whole = torch.tensor([[*ids, *target]], device=_device(model))
    with torch.enable_grad(), visiting_blocks(model, visit, set(layers)):
        logits = model(input_ids=whole, use_cache=False).logits[0, len(ids) - 1 : -1].float()
        loss = F.cross_entropy(logits, whole[0, len(ids) :])
        gradients = torch.autograd.grad(loss, [found[layer] for layer in layers])
    return torch.stack([direction * main_stream(model, g)[0, -2].sign() for g in gradients])


def directions(states: Tensor, raw: Tensor, scale: float) -> Tensor:
    """(L, D) raw directions with the statistics of the states (L, D), times the scale."""
    return scale * match_statistics(raw, states)


@torch.no_grad()
def perturbed_answers(
    model: nn.Module, ids: Sequence[int], layers: Sequence[int], vectors: Tensor, new_tokens: int, ends: Sequence[int]
) -> list[list[int]]:
    """Greedy answers of L rows, row l perturbed at its layer from the last prompt token on; cut at an end token."""
    perturbed = Perturbed(model, layers, vectors, len(ids) - 1)
    feed = torch.tensor([list(ids)] * len(layers), device=_device(model))
    answers: list[list[int]] = [[] for _ in layers]
    closed, past = [False] * len(layers), None
    for _ in range(new_tokens):
        out = perturbed(feed, past)
        past = out.past_key_values
        chosen = out.logits[:, -1].argmax(-1)
        for row, token in enumerate(chosen.tolist()):
            closed[row] = closed[row] or token in ends
            if not closed[row]:
                answers[row].append(token)
        if all(closed):
            break
        feed = chosen[:, None]
    return answers


@torch.no_grad()
def answer_nll(
    model: nn.Module, ids: Sequence[int], answer: Sequence[int], layers: Sequence[int], vectors: Tensor
) -> list[float]:
    """(L,) ``-sum_t ln p(y_t | x, y_<t)`` of an answer, each layer perturbed from the last prompt token on; nats."""
    perturbed = Perturbed(model, layers, vectors, len(ids) - 1)
    whole = torch.tensor([[*ids, *answer]] * len(layers), device=_device(model))
    logits = perturbed(whole, use_cache=False).logits[:, len(ids) - 1 : -1].float()
    each = F.cross_entropy(logits.transpose(1, 2), whole[:, len(ids) :], reduction="none")
    found: list[float] = each.sum(1).tolist()
    return found


def end_tokens(model: Any, tokenizer: Any) -> set[int]:
    """Tokens that end an answer, by the model's generation settings and by the tokenizer."""
    own = getattr(model.generation_config, "eos_token_id", None)
    listed: list[int | None] = [*(own if isinstance(own, list) else [own]), tokenizer.eos_token_id]
    return {token for token in listed if token is not None}


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
