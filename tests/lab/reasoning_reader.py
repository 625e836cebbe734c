"""An independent reader of the stories: it solves a problem from its sentences alone, knowing nothing of the graph."""

from __future__ import annotations

import re
from collections.abc import Callable

JOINTS = {"A": "in", "B": "at", "C": "during"}
TOTALS = {"A": "animals", "B": "teachers", "C": "films"}
LEAVES = {
    "A": r"There are (?P<n>\d+) (?P<k>\w+) in (?P<p>\w+)",
    "B": r"(?P<p>\w+) employs (?P<n>\d+) (?P<k>\w+)",
    "C": r"Viewers saw (?P<n>\d+) (?P<k>\w+) during (?P<p>\w+)",
}
RELATIONS = {
    "A": r"The (\w+ in \w+) number (.+)",
    "B": r"The count of (\w+ at \w+) equals (.+)",
    "C": r"For the (\w+ during \w+) take (.+)",
}
UNKNOWNS = {
    "A": r"Nobody counted the (.+)",
    "B": r"The count of (.+) is unknown",
    "C": r"The list of (.+) is lost",
}
QUERIES = {"A": r"How many (.+) are there\?", "B": r"What is the count of (.+)\?", "C": r"Find the (.+)\."}
SHAPES: list[tuple[str, Callable[..., int]]] = [
    (r"(\d+) more than the (\w+ \w+ \w+)", lambda c, p: p + c),
    (r"(\d+) fewer than the (\w+ \w+ \w+)", lambda c, p: p - c),
    (r"(\d+) times the (\w+ \w+ \w+)", lambda c, p: p * c),
    (r"the sum of the (\w+ \w+ \w+) and the (\w+ \w+ \w+)", lambda p, q: p + q),
    (r"the difference of the (\w+ \w+ \w+) and the (\w+ \w+ \w+)", lambda p, q: p - q),
    (r"the product of the (\w+ \w+ \w+) and the (\w+ \w+ \w+)", lambda p, q: p * q),
    (r"the sum of the (\w+ \w+ \w+), the (\w+ \w+ \w+) and the (\w+ \w+ \w+)", lambda p, q, r: p + q + r),
    (r"(\d+)", lambda c: c),
]


class Story:
    """The sentences of a problem."""

    def __init__(self, problem: str, question: str, key: str) -> None:
        self.key, self.leaves, self.relations, self.given, self.unknown = key, {}, {}, {}, None
        for sentence in problem.removesuffix(".").split(". "):
            if match := re.fullmatch(LEAVES[key], sentence):
                self._put(self.leaves, f"{match['k']} {JOINTS[key]} {match['p']}", int(match["n"]))
            elif match := re.fullmatch(UNKNOWNS[key], sentence):
                assert self.unknown is None
                self.unknown = match[1]
            elif match := re.fullmatch(RELATIONS[key], sentence):
                stated = self.given if match[2].isdigit() else self.relations
                self._put(stated, match[1], match[2])
            else:
                assert "count as 0" in sentence, sentence
        self.query = re.fullmatch(QUERIES[key], question)[1]

    @staticmethod
    def _put(table: dict, name: str, value: object) -> None:
        assert name not in table, f"{name} is stated twice"
        table[name] = value

    def value(self, name: str, x: int | None = None) -> int:
        if name == self.unknown:
            assert x is not None
            return x
        if name in self.leaves:
            return self.leaves[name]
        if name in self.relations:
            for shape, compute in SHAPES:
                if match := re.fullmatch(shape, self.relations[name]):
                    return compute(*(int(g) if g.isdigit() else self.value(g, x) for g in match.groups()))
            raise AssertionError(self.relations[name])
        kind, joint, place = name.split()
        assert kind == TOTALS[self.key], f"{name} is told nowhere"
        parts = {*self.leaves, *self.relations, *self.given, *filter(None, [self.unknown])}
        return sum(self.value(part, x) for part in parts if part.endswith(f" {joint} {place}") and part != name)

    def answers(self, largest: int) -> list[int]:
        """Every answer that fits: in reverse mode each x in range is tried."""
        if self.unknown is None:
            return [self.value(self.query)]
        assert self.query == self.unknown
        ((total, stated),) = self.given.items()
        return [x for x in range(largest + 1) if self.value(total, x) == int(stated)]
