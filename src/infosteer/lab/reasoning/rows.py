"""Rows of the reasoning half: those to tune on, and one evaluation set for every axis.

The axes differ from what pretraining told in one thing each: depth (edge, hard), the story (new context), the direction
(reverse). All evaluation rows are of the evaluation split, whose problems no training row can be.
"""

from __future__ import annotations

from functools import cache
from itertools import islice
from typing import Any

from infosteer.lab.reasoning.problems import Settings, problems
from infosteer.lab.reasoning.render import Problem

TEST_ROWS = 500
AXES = {
    "id": Settings(operations=(1, 4), contexts="AB"),
    "edge": Settings(operations=(5, 6), contexts="AB"),
    "hard": Settings(operations=(7, 8), contexts="AB"),
    "new_context": Settings(operations=(2, 4), contexts="C"),
    "reverse": Settings(operations=(2, 4), contexts="AB", reverse=1.0),
}


def tuning_rows(settings: Settings, *, seed: int, count: int) -> list[dict[str, Any]]:
    """Prompt/completion rows of the tuning split, no two the same."""
    stream = problems(settings, seed=seed, split="tuning")
    return [{"prompt": one.prompt, "completion": one.completion} for one in islice(stream, count)]


def axis_rows(name: str) -> list[dict[str, Any]]:
    """Evaluation rows of an axis; the answer is the gold completion, with every step that scoring compares."""
    return [
        {
            "prompt": one.prompt,
            "answer": one.completion.strip(),
            "operations": one.operations,
            "context": one.context,
            "reverse": one.reverse,
        }
        for one in _axis_problems(name)
    ]


@cache
def _axis_problems(name: str) -> tuple[Problem, ...]:
    # Drawn once in a process: a recipe asks for the same sets again and again.
    return tuple(islice(problems(AXES[name], seed=0, split="evaluation"), TEST_ROWS))
