"""Two rules that read an answer out of a model's words, side by side: the suite's and a strict one.

The suite's rule is that of the published evaluation scripts of LLM-Adapters (Hu et al. 2023; ``evaluate.py`` and
``commonsense_evaluate.py``), written anew here: the last number, or whatever option is named first. It answers even
where the text decides nothing: "answer1 answer2" names answer1, a list of options names its first, "Because" names the
option B, and "10-5" ends in -5. The strict rule reads an answer only where the text leaves no doubt: it is stated
("the correct answer is X"), or nothing else is named. Neither guesses; where one reads nothing it gives None.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from infosteer.training.answers import CUE, NUMBER, named_options, numbers_in

# The script looks for the same words in every row of a task, also for those that a row does not offer.
_ALWAYS = {"answer": 5}
_ALWAYS_LETTERS = "ABCDE"
_SUITE_NUMBER = re.compile(r"-?\d+\.?\d*")
_MARK = re.compile(rf"{CUE.pattern}|####|\\boxed\s*\{{", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|\n")
_BEFORE_OPTION = re.compile(r"[^\w.!?]*(?:(?:option|choice|letter)\s+[^\w.!?]*)?", re.IGNORECASE)
_LEAD = re.compile(r"^\s*(?:so\W+)?(?:the\s+)?(?:correct\s+|final\s+)?answer\s*(?:is|:|=)\s*", re.IGNORECASE)


def suite_number(text: str) -> float | None:
    """The last run of digits, with commas taken out and a hyphen before it as its sign; None without any.

    Numbers too large for a float are none. A prediction is right when it is within 1e-3 of the answer.
    """
    found = _SUITE_NUMBER.findall(text.replace(",", ""))
    value = float(found[-1]) if found else math.inf
    return value if math.isfinite(value) else None


def suite_option(text: str, options: Sequence[str]) -> str | None:
    """The option whose letters come first in ``text``, case counting and word limits not; None without any.

    What is named need not be one of the row's options: the script knows answer1 to answer5 and A to E.
    """
    if all(len(option) == 1 for option in options):
        names = {*options, *_ALWAYS_LETTERS}
    else:
        names = set(options)
        for word, count in _ALWAYS.items():
            if any(re.fullmatch(rf"{word}\d", option) for option in options):
                names |= {f"{word}{place}" for place in range(1, count + 1)}
    # Longest first: of two options that begin alike, the one that is spelt out.
    found = re.search("|".join(map(re.escape, sorted(names, key=lambda name: (-len(name), name)))), text)
    return found[0] if found else None


def strict_number(text: str) -> float | None:
    r"""The number that ``text`` states as its answer.

    Statements begin with "answer is", "####" or ``\boxed{``; each must hold one number, or end in "= number", and all
    must agree. Without a statement the last sentence is read the same way.
    """
    marks = list(_MARK.finditer(text))
    if marks:
        ends = [mark.start() for mark in marks[1:]] + [len(text)]
        clauses = [_clause(text[mark.end() : end], mark[0]) for mark, end in zip(marks, ends, strict=True)]
        # "The answer is \boxed{5}" is one statement: the first mark only leads to the second.
        told = [clause for clause in clauses[:-1] if numbers_in(clause)] + clauses[-1:]
        stated = {_one_number(clause) for clause in told}
        return stated.pop() if len(stated) == 1 else None
    sentences = [part for part in _SENTENCE_END.split(text) if part.strip()]
    return _one_number(sentences[-1]) if sentences else None


def _clause(text: str, mark: str) -> str:
    if mark.endswith("{"):
        return text.partition("}")[0]
    text = text.lstrip()  # "#### \n 5" and "answer is:\n5" state 5
    end = _SENTENCE_END.search(text)
    return text[: end.start()] if end else text


def _one_number(text: str) -> float | None:
    found = numbers_in(text)
    if len(set(found)) > 1:
        left, mark, right = text.rpartition("=")
        at_end = numbers_in(right) if mark and NUMBER.search(left) else []
        found = at_end if len(at_end) == 1 else []
    return found[0] if found else None


def strict_option(text: str, options: Sequence[str]) -> str | None:
    """The option that ``text`` states as its answer, as a whole word, case not counting (letters: as a label).

    Every "answer is" must be followed by an option, the same one each time. Without such a statement the text must name
    one option and no other.
    """
    named = named_options(text, options)
    cues = [cue.end() for cue in CUE.finditer(text)]
    if not cues:
        return named[0][2] if len({name for *_, name in named}) == 1 else None
    stated = {_option_at(text, cue, options) for cue in cues}
    return stated.pop() if len(stated) == 1 else None


def _option_at(text: str, place: int, options: Sequence[str]) -> str | None:
    before = _BEFORE_OPTION.match(text, place)
    place = before.end() if before else place
    letters = all(len(option) == 1 for option in options)
    for option in sorted(options, key=len, reverse=True):
        found = re.match(rf"{re.escape(option)}(?!\w)", text[place:], 0 if letters else re.IGNORECASE)
        if found:
            return option
    return None


def phrase_after_lead(text: str) -> str:
    """``text`` without "the answer is", or a like beginning, before it."""
    return _LEAD.sub("", text)
