"""How a model repeats itself: what a repeated context does to its probabilities, and what loops its own texts hold.

Legend: S sentences, N copies, l tokens of a copy.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from infosteer.errors import ConfigError, DataError
from infosteer.evaluation.model_state import context_length, device_of, evaluating

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


@dataclass(frozen=True, kw_only=True, slots=True)
class SelfReinforcement:
    """What the n-th copy of a sentence meets, n = 1 ... N; each a list of S lists of N numbers.

    Attributes:
        probability: TP_n, mean probability of the copy's tokens.
        increased: IP_n, share of its tokens that are likelier than in the first copy (0 for n = 1).
        winners: WR_n, share of its tokens that are the likeliest token at their place.
        kept: number of the sentence among those given; too long ones are left out.
    """

    probability: list[list[float]]
    increased: list[list[float]]
    winners: list[list[float]]
    kept: list[int]

    def mean(self, measure: str, n: int) -> float:
        """Mean over the sentences of ``probability``, ``increased`` or ``winners`` at copy n."""
        rows = {"probability": self.probability, "increased": self.increased, "winners": self.winners}[measure]
        return sum(row[n - 1] for row in rows) / len(rows)

    def ratios(self) -> list[float]:
        """TP_n / TP_(n-1) of the means, n = 2 ... N; above 1 throughout is self-reinforcement."""
        copies = len(self.probability[0])
        means = [self.mean("probability", n) for n in range(1, copies + 1)]
        return [after / before for before, after in itertools.pairwise(means)]


@torch.no_grad()
def self_reinforcement(
    model: Any,
    tokenizer: Any,
    sentences: Sequence[tuple[str, str]],
    *,
    copies: int = 8,
    batch_size: int = 16,
) -> SelfReinforcement:
    """Feeds ``before s s ... s`` and reads the probabilities of every copy; copies are repeated as tokens.

    Args:
        sentences: (what comes before, sentence); the sentence begins with the white space that parts the two.
        copies: N.

    Raises:
        ConfigError: fewer than two copies.
        DataError: no sentence is left: all are empty or too long for the model's context.

    Source: arXiv 2206.02369, section 3 (the metrics' names).
    """
    if copies < 2:
        raise ConfigError("repetition needs two copies", where="copies", got=copies)
    room = context_length(model)
    parts = []
    for number, (before, sentence) in enumerate(sentences):
        head = list(tokenizer(before)["input_ids"]) if before else []
        body = list(tokenizer(sentence, add_special_tokens=False)["input_ids"])
        # the very first token of a text is never predicted
        if head and body and (room is None or len(head) + copies * len(body) <= room):
            parts.append((number, head, body))
    if not parts:
        raise DataError(
            "no sentence is left to repeat",
            got=f"{len(sentences)} sentences, all empty, without a beginning, or too long {copies} times",
        )
    parts.sort(key=lambda part: len(part[1]) + copies * len(part[2]))
    found: dict[int, tuple[list[float], list[float], list[float]]] = {}
    with evaluating(model):
        for start in range(0, len(parts), batch_size):
            part = parts[start : start + batch_size]
            rows = [head + body * copies for _, head, body in part]
            longest = max(map(len, rows))
            ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=device_of(model))
            mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=ids.device)
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1].float()
            p = (-F.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")).exp()
            best = logits.argmax(-1) == ids[:, 1:]
            for row, (number, head, body) in enumerate(part):
                here = slice(len(head) - 1, len(head) - 1 + copies * len(body))
                each, won = (values[row, here].view(copies, -1) for values in (p, best.float()))  # (N, l)
                grown = (each > each[0]).float().mean(1)
                found[number] = (each.mean(1).tolist(), grown.tolist(), won.mean(1).tolist())
    kept = sorted(found)
    probability, increased, winners = ([found[number][k] for number in kept] for k in range(3))
    return SelfReinforcement(probability=probability, increased=increased, winners=winners, kept=kept)


def repeated_ngrams(tokens: Sequence[Any], n: int = 4) -> float:
    """rep-n: ``1 - distinct / all`` n-grams of a text's tokens; 0 for fewer than n."""
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def repeated_sentences(text: str) -> float:
    """``1 - distinct / all`` sentences of a text, white space around them left out; 0 for a text without any."""
    found = [sentence.strip() for sentence in _SENTENCE_END.split(text) if sentence.strip()]
    return 1 - len(set(found)) / len(found) if found else 0.0
