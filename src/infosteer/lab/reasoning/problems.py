"""Problems drawn by seed and index, and splits that cannot overlap.

Which split a problem belongs to is decided by the hash of its own text, so no list has to be kept: the same problem can
never turn up in two splits, whatever seeds and settings they are drawn with.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from infosteer.errors import ConfigError
from infosteer.lab.reasoning.contexts import context
from infosteer.lab.reasoning.graph import Infeasible, draw_graph
from infosteer.lab.reasoning.render import Problem, render

Split = Literal["pretraining", "tuning", "evaluation"]
MOST_OPERATIONS = 12  # more need more names, and more letters, than a story has
_TRIES = 2000
_BUCKETS: tuple[Split, ...] = ("evaluation", "tuning") + ("pretraining",) * 6


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What problems to draw.

    Attributes:
        operations: fewest and most binary operations; each count between is equally likely.
        contexts: letters of story contexts; each is equally likely.
        reverse: share of problems in reverse mode, of those with two operations or more.
        distractors: most quantities that the query does not need.
        largest: values, intermediate results and coefficients lie in 0 to this.
    """

    operations: tuple[int, int] = (1, 4)
    contexts: str = "AB"
    reverse: float = 0.0
    distractors: int = 2
    largest: int = 20

    def __post_init__(self) -> None:
        low, high = self.operations
        if not 1 <= low <= high <= MOST_OPERATIONS:
            raise ConfigError(
                "operations is out of range.",
                where="operations",
                got=f"{low}-{high}",
                expected=f"a number, or a range such as 1-4, from 1 to {MOST_OPERATIONS}",
            )
        if not self.contexts:
            raise ConfigError("Problems need a story context.", where="contexts", expected="letters such as AB")
        for key in self.contexts:
            context(key)
        if not 0 <= self.reverse <= 1:
            raise ConfigError("reverse is a share.", where="reverse", got=self.reverse, expected="0 to 1")
        if not 0 <= self.distractors <= 4:
            raise ConfigError("distractors is out of range.", where="distractors", got=self.distractors, expected="0-4")
        if not 5 <= self.largest <= 10_000:
            raise ConfigError("largest is out of range.", where="largest", got=self.largest, expected="5 to 10000")


def draw_problem(draw: random.Random, settings: Settings) -> Problem:
    """One problem; its number of operations is exact.

    Raises: ConfigError where no graph of these settings is found.
    """
    operations = draw.randint(*settings.operations)
    key = draw.choice(settings.contexts)
    reverse = operations > 1 and draw.random() < settings.reverse
    story = context(key)
    for _ in range(_TRIES):
        # Solving for x takes up to two operations, which the graph has to leave.
        of_graph = operations - draw.randint(0, min(2, operations - 1)) if reverse else operations
        try:
            graph = draw_graph(
                draw,
                operations=of_graph,
                reverse=reverse,
                distractors=draw.randint(0, settings.distractors),
                largest=settings.largest,
                words=len(story.places),
            )
        except Infeasible:
            continue
        if graph.operations == operations:
            return render(graph, key, story, draw)
    raise ConfigError(
        "No problem with these settings was found.",
        where="operations",
        got=f"{operations} operations, values up to {settings.largest}",
        fix="ask for fewer operations or a larger range of values",
    )


def problem_hash(problem: Problem) -> bytes:
    """SHA-256 of problem, question and solution, white space normalised."""
    parts = (problem.problem, problem.question, problem.solution)
    return hashlib.sha256("\n".join(" ".join(part.split()) for part in parts).encode()).digest()


def split_of(digest: bytes) -> Split:
    """The split that a problem with this hash belongs to."""
    return _BUCKETS[digest[0] % len(_BUCKETS)]


def problem_at(index: int, settings: Settings, *, seed: int, split: Split) -> Problem:
    """The problem of that number in an endless stream of one split; every number can be had alone.

    The stream is meant for pretraining: it does not look back, so it can hold a problem twice.
    """
    draw = random.Random(f"reasoning/{seed}/{index}")
    while True:
        problem = draw_problem(draw, settings)
        if split_of(problem_hash(problem)) == split:
            return problem


def problems(settings: Settings, *, seed: int, split: Split, first: int = 0) -> Iterator[Problem]:
    """Endlessly many problems of a split, no two the same."""
    seen: set[bytes] = set()
    index = first
    while True:
        problem = problem_at(index, settings, seed=seed, split=split)
        digest = problem_hash(problem)
        index += 1
        if digest not in seen:
            seen.add(digest)
            yield problem
