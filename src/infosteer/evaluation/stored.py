"""Utilisation: of the facts that the base stores, how many a model gives when a question asks for them.

    utilisation = answered / stored = sum_e a_e s_e / sum_e s_e

a_e = 1 when question e is answered rightly, s_e = 1 when the base stores the fact that it asks for: given the beginning
of a pretraining sentence of that person and attribute, greedy decoding ends the sentence with the right value. Only a
world whose facts are known allows it, so it is measured on the lab's question sets alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from infosteer.evaluation.evaluate import Progress, evaluate
from infosteer.evaluation.sets import EvalSet, load_set
from infosteer.lab import load
from infosteer.lab.questions import AXES

Fact = tuple[str, str]  # person, attribute

_LAB = "lab:"
_QUESTIONS = tuple(f"{_LAB}facts/{axis}" for axis in AXES)
_COMPLETIONS = (f"{_LAB}facts/recall", f"{_LAB}facts/recall_unasked")


def facts_asked(evalset: EvalSet) -> list[Fact] | None:
    """The person and attribute that each row of a lab question set asks about; None for every other set."""
    if evalset.source not in _QUESTIONS:
        return None
    facts = {row["prompt"]: (row["person"], row["attribute"]) for row in load(evalset.source.removeprefix(_LAB))}
    asked = [facts.get(row["prompt"]) for row in evalset.rows]
    # Columns that the user renamed make other questions out of the rows: nothing is known about those.
    return None if None in asked else [fact for fact in asked if fact is not None]


def completion_rows(facts: Iterable[Fact]) -> list[dict[str, Any]]:
    """One evaluation row for each fact, in order: the beginning of a pretraining sentence, to be ended rightly.

    They are the rows of ``lab:facts/recall`` and ``lab:facts/recall_unasked``.
    """
    rows: dict[Fact, dict[str, Any]] = {}
    for source in _COMPLETIONS:
        known = {row["prompt"]: (row["person"], row["attribute"]) for row in load(source.removeprefix(_LAB))}
        rows.update({known[row["prompt"]]: {**row, "options": None} for row in load_set("stored", source).rows})
    return [rows[fact] for fact in facts]


def stored_facts(
    model: Any,
    tokenizer: Any,
    sets: Mapping[str, EvalSet],
    *,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> dict[str, list[bool]]:
    """For every lab question set by name, whether ``model``, the base, stores the fact that each row asks for.

    A fact that several sets ask for is completed once. Sets of other kinds are left out.

    Raises: as ``evaluate``.
    """
    asked = {name: facts for name, one in sets.items() if (facts := facts_asked(one)) is not None}
    facts = list(dict.fromkeys(fact for some in asked.values() for fact in some))
    if not facts:
        return {}
    completions = replace(load_set("stored", _COMPLETIONS[0]), rows=completion_rows(facts))
    found = evaluate(model, tokenizer, [completions], batch_size=batch_size, progress=progress)["stored"]
    stored = {fact: right == 1 for fact, right in zip(facts, found.per_example["exact_match"], strict=True)}
    return {name: [stored[fact] for fact in some] for name, some in asked.items()}


def utilisation(answered: Sequence[float], stored: Sequence[bool]) -> list[float]:
    """The score of each example: 1 or 0 as it was answered, NaN where the base does not store the fact.

    Their mean over the examples that have one is the utilisation.
    """
    return [score if known else math.nan for score, known in zip(answered, stored, strict=True)]
