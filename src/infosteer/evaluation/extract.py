"""From a model's words to right or wrong: one rule a kind of answer, and failures to answer kept apart.

A prediction from which no answer can be read is wrong and counted as such; it is never scored by luck.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from infosteer.lab.reasoning import parse_solution, score
from infosteer.training.answers import find_option, last_number, same_number, show_number

Scoring = Literal["exact_match", "option", "number", "phrase", "process", "text"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What was read from a prediction (None: nothing), whether it is the answer, and further scores by measure."""

    extracted: str | None
    correct: bool
    measures: Mapping[str, float] = field(default_factory=dict)


def normalise_answer(text: str) -> str:
    """Text as it is compared: Unicode NFC, case ignored, white space collapsed, a final full stop dropped."""
    text = re.sub(r"\s+", " ", unicodedata.normalize("NFC", text)).strip()
    return text.removesuffix(".").rstrip().casefold()


def is_worked_solution(text: str) -> bool:
    """Whether an answer is a worked solution of the lab, so that ``process`` can compare its steps."""
    if "Define" not in text:
        return False
    solution = parse_solution(text)
    return bool(solution.steps) and solution.answer is not None


def judge(prediction: str, row: Mapping[str, Any], scoring: Scoring) -> Verdict:
    """Compare a prediction with a row's answer.

    ``exact_match`` compares the normalised texts as wholes; ``option`` the option word that the text names (see
    ``find_option``) and ``number`` its last number, which must agree to 1e-3 or 1e-6 relative. ``process`` takes both
    for worked solutions of the lab, compares the answers at their ends, and has the measures ``verified`` (every step
    and the answer right) and ``process`` (share of right steps).
    """
    if scoring == "process":
        solution = parse_solution(prediction)
        compared = score(solution, row["answer"])
        return Verdict(
            extracted=None if solution.answer is None else str(solution.answer),
            correct=compared.answer,
            measures={"verified": float(compared.verified), "process": compared.process},
        )
    if scoring == "number":
        found, wanted = last_number(prediction), last_number(row["answer"])
        if found is None or wanted is None:
            return Verdict(extracted=None, correct=False)
        return Verdict(extracted=show_number(found), correct=same_number(found, wanted))
    if scoring == "option":
        option = find_option(prediction, row["options"])
        return Verdict(extracted=option, correct=option == row["answer"])
    text = normalise_answer(prediction)
    return Verdict(extracted=text or None, correct=bool(text) and text == normalise_answer(row["answer"]))
