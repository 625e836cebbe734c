"""From a model's words to right or wrong: the rules of each kind of answer, and failures to answer kept apart.

A prediction from which no answer can be read is wrong and counted as such; it is never scored by luck. Questions with
options, for numbers and for phrases are judged twice, by the rule that published scores go by and by a strict one.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from infosteer.evaluation.rouge import rouge
from infosteer.evaluation.rules import phrase_after_lead, strict_number, strict_option, suite_number, suite_option
from infosteer.lab.reasoning import parse_solution, score
from infosteer.training.answers import last_number, same_number, show_number

Scoring = Literal["exact_match", "option", "number", "phrase", "process", "rouge", "text"]


TOLERANCE = 1e-3  # of numbers, under the suite's rule


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What one rule read from a prediction (None: nothing), and whether it is the answer."""

    extracted: str | None
    correct: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What was read from a prediction (None: nothing), whether it is the answer, and further scores by measure.

    Attributes:
        strict: the same by the strict rule, where the scoring has two.
    """

    extracted: str | None
    correct: bool
    strict: Reading | None = None
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

    ``exact_match`` compares the normalised texts as wholes; ``rouge`` does so too, and has the measures ``rouge1``,
    ``rouge2`` and ``rougeL``, of the answer or alias that is nearest. ``process`` takes both for worked solutions of
    the lab, compares the answers at their ends, and has the measures ``verified`` (every step and the answer right) and
    ``process`` (share of right steps). The others are judged by two rules (see ``infosteer.evaluation.rules``):

    - ``option``: the option named first, as the suite has it; strictly, the one that is stated, or the only one named;
    - ``number``: the last number, to 1e-3; strictly, the one that is stated, or that of the last sentence, to 1e-3 or
      1e-6 relative;
    - ``phrase``: an answer (or alias of it) at the beginning of the text, "the answer is" before it not counting;
      strictly, nothing behind it.
    """
    if scoring == "process":
        solution = parse_solution(prediction)
        compared = score(solution, row["answer"])
        return Verdict(
            extracted=None if solution.answer is None else str(solution.answer),
            correct=compared.answer,
            measures={"verified": float(compared.verified), "process": compared.process},
        )
    if scoring in _RULES:
        first, strict = _RULES[scoring](prediction, row)
        return Verdict(extracted=first.extracted, correct=first.correct, strict=strict)
    text = normalise_answer(prediction)
    measures = rouge(prediction, [row["answer"], *(row.get("aliases") or [])]) if scoring == "rouge" else {}
    correct = bool(text) and text == normalise_answer(row["answer"])
    return Verdict(extracted=text or None, correct=correct, measures=measures)


def _number(prediction: str, row: Mapping[str, Any]) -> tuple[Reading, Reading]:
    wanted = last_number(row["answer"])
    found, stated = suite_number(prediction), strict_number(prediction)
    return (
        _read(found, show_number, found is not None and wanted is not None and abs(found - wanted) <= TOLERANCE),
        _read(stated, show_number, stated is not None and wanted is not None and same_number(stated, wanted)),
    )


def _option(prediction: str, row: Mapping[str, Any]) -> tuple[Reading, Reading]:
    found, stated = suite_option(prediction, row["options"]), strict_option(prediction, row["options"])
    return _read(found, str, found == row["answer"]), _read(stated, str, stated == row["answer"])


def _phrase(prediction: str, row: Mapping[str, Any]) -> tuple[Reading, Reading]:
    text = _words(phrase_after_lead(prediction))
    wanted = {_words(phrase) for phrase in [row["answer"], *row.get("aliases", [])]} - {""}
    begins = any(text == phrase or text.startswith(phrase + " ") for phrase in wanted)
    return _read(text or None, str, begins), _read(text or None, str, text in wanted)


def _words(text: str) -> str:
    """A phrase as it is compared: case, punctuation and articles do not count."""
    words = re.sub(r"[^\w\s]|_", " ", normalise_answer(text).replace("'", "").replace("\u2019", "")).split()
    return " ".join(word for word in words if word not in ("a", "an", "the")) or " ".join(words)


def _read(found: Any, show: Callable[[Any], str], correct: bool) -> Reading:
    return Reading(extracted=None if found is None else show(found), correct=bool(correct))


_RULES: Mapping[str, Callable[[str, Mapping[str, Any]], tuple[Reading, Reading]]] = {
    "number": _number,
    "option": _option,
    "phrase": _phrase,
}
