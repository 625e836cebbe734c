"""Scores of a worked solution against the gold one: every step, or the answer alone."""

from __future__ import annotations

from dataclasses import dataclass

from infosteer.errors import DataError
from infosteer.lab.reasoning.parse import Solution, parse_solution


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """How a solution compares with the gold one.

    Attributes:
        process: ProcessAcc = mean over gold quantities v of s(v); s(v) = 1 where v is defined with the same set of
            parents and the same value. Quantities that the gold solution lacks are free.
        answer: whether the answers are equal.
        extra: defined quantities that the gold solution lacks.
        wrong: gold quantities with s(v) = 0.
        size: gold quantities |V|.
    """

    process: float
    answer: bool
    extra: int
    wrong: int
    size: int

    @property
    def verified(self) -> bool:
        """VerifiedCorrect: every step right, and the answer."""
        return self.wrong == 0 and self.answer


def gold_solution(text: str) -> Solution:
    """A gold completion, parsed. Raises: DataError for a text without steps or without an answer."""
    gold = parse_solution(text)
    if not gold.steps or gold.answer is None:
        raise DataError(
            "This gold answer is no worked solution.",
            got=repr(text[:80]),
            expected="Define <name> as U; so U = 3. ... </solution> <answer> 3 </answer>",
        )
    return gold


def score(prediction: str | Solution, gold: str | Solution) -> Score:
    """Compare a completion with the gold one; texts are parsed (Interplay, arXiv 2512.07783, process verification).

    Raises: DataError for a gold text that is no solution.
    """
    found = parse_solution(prediction) if isinstance(prediction, str) else prediction
    wanted = gold_solution(gold) if isinstance(gold, str) else gold
    right = sum(found.steps.get(name) == step for name, step in wanted.steps.items())
    size = len(wanted.steps)
    return Score(
        process=right / size,
        answer=found.answer is not None and found.answer == wanted.answer,
        extra=len(found.steps.keys() - wanted.steps.keys()),
        wrong=size - right,
        size=size,
    )


def process_accuracy(prediction: str | Solution, gold: str | Solution) -> float:
    """``ProcessAcc`` of ``Score``, in [0, 1]. Raises: as ``score``."""
    return score(prediction, gold).process


def verified_correct(prediction: str | Solution, gold: str | Solution) -> bool:
    """``VerifiedCorrect`` of ``Score``. Raises: as ``score``."""
    return score(prediction, gold).verified
