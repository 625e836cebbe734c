"""Distributions instead of single answers: what a model's samples cover, how its probabilities meet a target's, and how
it follows the examples in a sequence.

Shape letters: T time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from infosteer.errors import ConfigError, DataError
from infosteer.evaluation.loglik import score_options
from infosteer.evaluation.model_state import context_length, device_of, evaluating
from infosteer.evaluation.sampling import sample
from infosteer.methods.probes.spectrum import Coverage, coverage, divergence
from infosteer.models import CHUNK_ROWS
from infosteer.training.segments import segment_tokens


def sampled_coverage(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    valid: Callable[[int, str], bool],
    *,
    samples: int = 100,
    temperature: float = 1.0,
    max_new_tokens: int = 64,
    seed: int = 0,
    stop: Sequence[str] = (),
    batch_size: int = 64,
) -> list[Coverage]:
    """Coverage of every prompt by samples; white space around a sample does not count.

    Args:
        prompts: as the model reads them (``infosteer.methods.data.spectrum.prompt_text``).
        valid: ``valid(number of the prompt, text of a sample)``; a sample that did not end is never valid.
        stop: texts that end a sample, beside the end tokens.

    Raises: as ``infosteer.evaluation.sampling.sample``.
    """
    drawn = sample(
        model, tokenizer, prompts, samples=samples, temperature=temperature, seed=seed, max_new_tokens=max_new_tokens,
        stops=[tuple(stop)] * len(prompts), batch_size=batch_size,
    )  # fmt: skip
    found = []
    for number, ones in enumerate(drawn):
        texts = [one.text.strip() for one in ones]
        verdicts = [one.finished and valid(number, text) for one, text in zip(ones, texts, strict=True)]
        found.append(coverage(texts, verdicts))
    return found


def answer_distribution(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    answers: Sequence[Sequence[str]],
    *,
    end: str = "",
    batch_size: int = 64,
) -> list[list[float]]:
    """A model's probabilities of the listed answers of every prompt, divided by their sum.

    Args:
        end: the delimiter that ends an answer and counts to it, so that "1" is not also "10".

    Raises:
        DataError: a prompt that does not fit the model's context.
    """
    ended = [[answer + end for answer in ones] for ones in answers]
    found = []
    for number, scores in enumerate(score_options(model, tokenizer, prompts, ended, batch_size=batch_size), start=1):
        if scores.too_long:
            raise DataError("a prompt is longer than the model's context", where=f"prompt {number}")
        top = float(scores.total.max())
        weights = [math.exp(float(total) - top) for total in scores.total]
        found.append([weight / sum(weights) for weight in weights])
    return found


def alignment(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    targets: Sequence[Mapping[str, float]],
    *,
    end: str = "",
    batch_size: int = 64,
) -> list[float]:
    """Jensen-Shannon divergence, in nats, of the model's probabilities over the listed answers from the target's.

    Args:
        targets: for every prompt, answer -> weight.

    Raises:
        ConfigError: weights that are no distribution, or targets of another number than prompts.
        DataError: a prompt that does not fit the model's context.
    """
    if len(prompts) != len(targets):
        raise ConfigError("each prompt has a target", where="targets", got=f"{len(prompts)} and {len(targets)}")
    mine = answer_distribution(
        model, tokenizer, prompts, [list(target) for target in targets], end=end, batch_size=batch_size
    )
    return [divergence(p, list(target.values())) for p, target in zip(mine, targets, strict=True)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Steered:
    """How the outputs of one sequence are predicted, in their order; nats an output, its end included.

    Attributes:
        nll: negative log-likelihood of every output.
        right: whether each of its tokens is the likeliest.
    """

    nll: list[float]
    right: list[bool]

    def geq(self, start: int = 1) -> tuple[float, float]:
        """Mean NLL and accuracy of the outputs from number ``start`` on; NaN where there is none."""
        kept = list(zip(self.nll[start:], self.right[start:], strict=True))
        if not kept:
            return math.nan, math.nan
        return sum(nll for nll, _ in kept) / len(kept), sum(right for _, right in kept) / len(kept)


def steerability(model: Any, tokenizer: Any, rows: Sequence[Mapping[str, Any]]) -> list[Steered]:
    """Reads rows of segments and judges every output: a run of segments that carry loss.

    Raises:
        DataError: a row longer than the model's context, or without an output.

    Source: arXiv 2510.06084, section 4.
    """
    room, found = context_length(model), []
    with evaluating(model):
        for number, row in enumerate(rows, start=1):
            ids, learnt = segment_tokens(row, tokenizer)
            if (room is not None and len(ids) > room) or not any(learnt[1:]):
                raise DataError(
                    "a sequence cannot be read", where=f"row {number}", got=f"{len(ids)} tokens, {sum(learnt)} learnt"
                )
            tokens = torch.tensor([ids], device=device_of(model))
            logits = model(input_ids=tokens, use_cache=False).logits[0, :-1]
            found.append(_judged(logits, ids, learnt))
    return found


def _judged(logits: torch.Tensor, ids: Sequence[int], learnt: Sequence[bool]) -> Steered:
    nll: list[float] = []
    right: list[bool] = []
    for start in range(0, len(logits), CHUNK_ROWS):
        piece = logits[start : start + CHUNK_ROWS].float()
        wanted = torch.tensor(ids[start + 1 : start + 1 + len(piece)], device=piece.device)
        losses = torch.nn.functional.cross_entropy(piece, wanted, reduction="none").tolist()
        likeliest = (piece.argmax(-1) == wanted).tolist()
        for t, (loss, top) in enumerate(zip(losses, likeliest, strict=True), start=start + 1):
            if not learnt[t]:
                continue
            if t == 1 or not learnt[t - 1]:
                nll.append(0.0)
                right.append(True)
            nll[-1] += loss
            right[-1] = right[-1] and top
    return Steered(nll=nll, right=right)
