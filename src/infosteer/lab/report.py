"""The numbers that a base model of the lab is judged by, and that its model card quotes."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np

from infosteer.lab.facts import World, phrasings, recall_prefix
from infosteer.lab.measures import bigram_bits_per_byte, bits_per_byte, complete, token_bytes
from infosteer.lab.words import ATTRIBUTES

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


def measure_recall(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, world: World, *, people: int, seed: int = 0
) -> dict[str, float]:
    """Share of facts completed rightly, over people drawn from the whole world, one random phrasing for each fact.

    Returns:
        ``all``, each attribute's name, and ``statement`` and ``noun`` for the two kinds of phrasing.
    """
    asked = random.Random(seed).sample(world.people, min(people, len(world.people)))
    prompts, answers, labels = [], [], []
    for person in asked:
        for attribute in ATTRIBUTES:
            way = random.Random(f"{seed}/{person.name}/{attribute.name}").randrange(len(phrasings(attribute)))
            prompts.append(recall_prefix(person, attribute, way))
            answers.append(person.facts[attribute.name])
            labels.append((attribute.name, "statement" if way < len(attribute.statements) else "noun"))
    got = complete(model, tokenizer, prompts)
    right = np.asarray([g == a for g, a in zip(got, answers, strict=True)])
    recall = {"all": float(right.mean())}
    for axis in (0, 1):
        for name in sorted({label[axis] for label in labels}):
            recall[name] = float(right[[label[axis] == name for label in labels]].mean())
    return recall


def measure_text(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    *,
    train: np.ndarray,
    held_out: np.ndarray,
    length: int,
) -> dict[str, float]:
    """Bits per byte of held-out text, of the model and of a bigram model trained on ``train``; empty without text."""
    if len(held_out) <= length or len(train) < 2:
        return {}
    n_bytes = token_bytes(tokenizer)
    return {
        "model": bits_per_byte(model, held_out, n_bytes, length=length),
        "bigram": bigram_bits_per_byte(train, held_out, n_bytes, length=length),
    }


def base_report(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    world: World,
    *,
    train: np.ndarray,
    held_out: np.ndarray,
    people: int,
    length: int,
) -> dict[str, Any]:
    """Recall and bits per byte of a base, with the sizes they rest on."""
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "recall": measure_recall(model, tokenizer, world, people=people),
        "recall_questions": min(people, len(world.people)) * len(ATTRIBUTES),
        "bits_per_byte": measure_text(model, tokenizer, train=train, held_out=held_out, length=length),
        "general_tokens_available": len(train),
        "held_out_tokens": len(held_out),
    }
