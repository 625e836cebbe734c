"""Does a direction do anything? Adding it to the hidden states, or taking it out of them, and watching the answers.

Source: arXiv 2504.02904 (its code).
Legend: B batch, T time, D hidden.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from infosteer.errors import ConfigError, DataError
from infosteer.evaluation.decode import decode
from infosteer.evaluation.model_state import device_of, encode, evaluating
from infosteer.evaluation.statistics import compare
from infosteer.inspection.activations import same_length_batches
from infosteer.inspection.fact_pairs import QUESTION, WORDS
from infosteer.methods.probes.latent_perturbation.judging import is_refusal
from infosteer.models import visiting_blocks
from infosteer.ops.separate import check_classes

NEW_TOKENS = 16


@contextlib.contextmanager
def adding(model: nn.Module, vectors: Mapping[int, Tensor], positions: Sequence[int] | None = None) -> Iterator[None]:
    """Adds a vector (D,) to what each of these layers puts out.

    Args:
        vectors: layer -> (D,); a batch may have vectors of its own, (B, D).
        positions: tokens counted from the end of what is fed in (-1 the last); None for all of them.
    """

    def visit(layer: int, states: Tensor) -> Tensor:
        vector = vectors[layer].to(states)
        vector = vector[:, None] if vector.dim() == 2 else vector
        if positions is None:
            return states + vector
        changed = states.clone()
        changed[..., list(positions), :] += vector
        return changed

    with visiting_blocks(model, visit, set(vectors)):
        yield


@contextlib.contextmanager
def removing(model: nn.Module, direction: Tensor, layers: Sequence[int] | None = None) -> Iterator[None]:
    """Takes the component along a direction (D,) out of what layers put out: ``x - (x r) r``, r of length 1.

    Raises:
        ConfigError: a direction of length zero.
    """
    size = float(direction.double().norm())
    if not size > 0:
        raise ConfigError("A direction of length zero cannot be removed.", got=size)
    unit = direction.double() / size

    def visit(layer: int, states: Tensor) -> Tensor:
        r = unit.to(states)
        return states - (states @ r)[..., None] * r

    with visiting_blocks(model, visit, None if layers is None else set(layers)):
        yield


def shift_along(states: Tensor, labels: Tensor, direction: Tensor) -> Tensor:
    """``((mean of positive - mean of negative) u) u``, (D,) float64, u = direction / |direction|: as far along the
    direction as the classes of these states (N, D) lie apart. Another model's direction so gets this one's scale.

    Raises:
        ConfigError: one class only, or a direction of length zero.
    """
    chosen = check_classes(states, labels)
    size = direction.double().norm()
    if not float(size) > 0:
        raise ConfigError("A direction of length zero has no scale.", got=float(size))
    unit = direction.double() / size
    wide = states.double()
    return ((wide[chosen].mean(dim=0) - wide[~chosen].mean(dim=0)) @ unit) * unit


@dataclass(frozen=True, kw_only=True, slots=True)
class TruthEffect:
    """What a vector does to ``P(TRUE) - P(FALSE)``.

    Attributes:
        before_true, before_false: means over true and over false statements as they are.
        toward_truth, toward_low, toward_high: mean change of false statements when the vector is added.
        away_from_truth, away_low, away_high: mean change of true statements when it is subtracted.
        mass: mean of P(TRUE) + P(FALSE) before: near 0, the model does not answer in these words at all.
        n: statements.
    """

    before_true: float
    before_false: float
    toward_truth: float
    toward_low: float
    toward_high: float
    away_from_truth: float
    away_low: float
    away_high: float
    mass: float
    n: int


def truth_effect(
    model: Any,
    tokenizer: Any,
    statements: Sequence[str],
    labels: Sequence[int],
    vectors: Mapping[int, Tensor],
    *,
    examples: Sequence[tuple[str, int]] = (),
) -> TruthEffect:
    """Adds vectors at the end of false statements, subtracts them at the end of true ones, and asks TRUE or FALSE.

    The prompt is labelled examples, the statement, and " This statement is:"; the vectors act at the statement's last
    two tokens.

    Args:
        vectors: layer -> (D,), pointing to truth; see ``shift_along``.
        examples: (statement, label) shown before.

    Raises:
        DataError: no statements, labels that differ in number, one class only, or prompts that do not fit the context.
    """
    if len(statements) != len(labels) or set(labels) != {0, 1}:
        raise DataError(
            "Statements need as many labels, of both classes.",
            got=f"{len(statements)} statements, labels {set(labels)}",
        )
    lead = "".join(f"{text}{QUESTION}{WORDS[1 - label]}\n" for text, label in examples)
    question = encode(tokenizer, [QUESTION], special=False)[0]
    words = [encode(tokenizer, [word], special=False)[0][0] for word in WORDS]
    if words[0] == words[1]:
        raise DataError("The tokenizer begins TRUE and FALSE with the same token.", got=words[0])
    rows = [row + question for row in encode(tokenizer, [lead + text for text in statements])]
    sign = torch.tensor([-1.0 if label else 1.0 for label in labels], dtype=torch.float64)
    places = [-len(question) - 2, -len(question) - 1]
    before, after, mass = torch.zeros(3, len(rows), dtype=torch.float64)
    with evaluating(model):
        for batch in same_length_batches(model, rows):
            ids = torch.tensor([rows[i] for i in batch], device=device_of(model))
            before[batch], mass[batch] = _margin(model, ids, words)
            moved = {layer: sign[batch][:, None] * vector.double()[None] for layer, vector in vectors.items()}
            with adding(model, {layer: rows_of.to(ids.device) for layer, rows_of in moved.items()}, places):
                after[batch], _ = _margin(model, ids, words)
    true = torch.tensor([bool(label) for label in labels])
    toward, away = ((after - before)[chosen].tolist() for chosen in (~true, true))
    changes = [compare({0: part}, {0: [0.0] * len(part)}, resamples=2000) for part in (toward, away)]
    return TruthEffect(
        before_true=float(before[true].mean()),
        before_false=float(before[~true].mean()),
        toward_truth=changes[0].difference,
        toward_low=changes[0].low,
        toward_high=changes[0].high,
        away_from_truth=changes[1].difference,
        away_low=changes[1].low,
        away_high=changes[1].high,
        mass=float(mass.mean()),
        n=len(rows),
    )


def refusal_rate(model: Any, tokenizer: Any, requests: Sequence[Any], *, new_tokens: int = NEW_TOKENS) -> float:
    """Share of greedy answers that begin as refusals do (``is_refusal``); crude, so the raw rates are to be shown.

    Raises:
        DataError: no requests.
    """
    if not len(requests):
        raise DataError("There are no requests.")
    answers = decode(model, tokenizer, list(requests), max_new_tokens=new_tokens)
    return sum(is_refusal(answer.text) for answer in answers) / len(answers)


def _margin(model: Any, ids: Tensor, words: Sequence[int]) -> tuple[Tensor, Tensor]:
    """P(TRUE) - P(FALSE) and P(TRUE) + P(FALSE) of the next token, (B,) float64."""
    found = model(input_ids=ids, use_cache=False).logits[:, -1].double().softmax(dim=-1)[:, list(words)].cpu()
    return found[:, 0] - found[:, 1], found.sum(dim=1)
