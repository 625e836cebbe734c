"""Pairs of prompts for patching: facts of the lab, and true statements with their false twins."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from infosteer.errors import DataError
from infosteer.evaluation.model_state import encode
from infosteer.inspection.patching import Pair
from infosteer.lab.facts import make_world, phrasings, recall_prefix
from infosteer.lab.words import ATTRIBUTES

QUESTION = " This statement is:"
WORDS = (" TRUE", " FALSE")


def lab_pairs(tokenizer: Any, count: int = 64, seed: int = 0) -> list[Pair]:
    """Two people, one sentence of pretraining up to its value: "Mira Kelton was born in", "Otto Dalby was born in".

    Both names have the same number of tokens, and the values begin with different ones. Attributes and phrasings vary.

    Raises:
        DataError: the tokenizer leaves too few such pairs.
    """
    draw = random.Random(f"patching/{seed}")
    people = make_world().test
    pairs: list[Pair] = []
    for _ in range(50 * count):
        if len(pairs) == count:
            break
        first, second = draw.sample(people, 2)
        attribute = draw.choice(ATTRIBUTES)
        phrasing = draw.randrange(len(phrasings(attribute)))
        prompts = encode(tokenizer, [recall_prefix(person, attribute, phrasing) for person in (first, second)])
        answers = [_first_token(tokenizer, f" {person.facts[attribute.name]}") for person in (first, second)]
        if len(prompts[0]) == len(prompts[1]) and answers[0] != answers[1]:
            pairs.append(
                Pair(
                    clean=tuple(prompts[0]),
                    corrupt=tuple(prompts[1]),
                    clean_answer=answers[0],
                    corrupt_answer=answers[1],
                )
            )
    if len(pairs) < count:
        raise DataError("The tokenizer gives too few pairs of equal length.", got=len(pairs), expected=count)
    return pairs


def statement_pairs(
    tokenizer: Any,
    statements: Sequence[str],
    labels: Sequence[int],
    *,
    shots: int = 4,
    count: int = 64,
    seed: int = 0,
) -> list[Pair]:
    """A true and a false statement of one length and one last word, each after the same labelled examples and before
    the question whether it is TRUE.

    Raises:
        DataError: statements and labels that differ in number, one class only, too few examples, or no pair that fits.
    """
    if len(statements) != len(labels) or not statements:
        raise DataError(
            "Statements and labels differ in number, or there are none.", got=f"{len(statements)} and {len(labels)}"
        )
    chosen = {kind: [text for text, label in zip(statements, labels, strict=True) if label == kind] for kind in (0, 1)}
    if min(map(len, chosen.values())) <= shots:
        raise DataError(
            "There are too few statements of a class.",
            got=f"{len(chosen[1])} true, {len(chosen[0])} false",
            expected=f"more than {shots} of each, {shots} being taken as examples",
        )
    draw = random.Random(f"statements/{seed}")
    for texts in chosen.values():
        draw.shuffle(texts)
    examples = [(text, kind) for kind in (0, 1) for text in (chosen[kind].pop() for _ in range(shots // 2))]
    draw.shuffle(examples)
    lead = "".join(f"{text}{QUESTION}{WORDS[1 - kind]}\n" for text, kind in examples)
    fits: dict[tuple[int, str], tuple[list[list[int]], list[list[int]]]] = defaultdict(lambda: ([], []))
    for kind, texts in chosen.items():
        rows = encode(tokenizer, [f"{lead}{text}{QUESTION}" for text in texts])
        for text, row in zip(texts, rows, strict=True):
            fits[len(row), text.split()[-1]][kind].append(row)
    answers = [_first_token(tokenizer, word) for word in WORDS]
    if answers[0] == answers[1]:
        raise DataError("The tokenizer begins TRUE and FALSE with the same token.", got=answers[0])
    pairs = [
        Pair(clean=tuple(true), corrupt=tuple(false), clean_answer=answers[0], corrupt_answer=answers[1])
        for false_rows, true_rows in fits.values()
        for true, false in zip(true_rows, false_rows, strict=False)
    ]
    if not pairs:
        raise DataError(
            "No true statement has the length and the last word of a false one.",
            fix='give statements such as "The city of X is in Y."',
        )
    return draw.sample(pairs, min(count, len(pairs)))


def _first_token(tokenizer: Any, text: str) -> int:
    ids = encode(tokenizer, [text], special=False)[0]
    if not ids:
        raise DataError("The tokenizer leaves nothing of an answer.", got=repr(text))
    return ids[0]
