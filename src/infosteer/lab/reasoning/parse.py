"""Reading a worked solution back into a graph: names, what each is computed from, and values.

The text may come from a model and is never run: expressions of + - * and brackets over whole numbers are computed here,
within bounds, and everything else is skipped. Letters are case-sensitive. No input raises, and time is linear in the
length of the text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from infosteer.lab.reasoning.linear import Linear, combine
from infosteer.lab.reasoning.render import SOLVE, UNKNOWN

_STEP = re.compile(rf"\b(Define|{SOLVE})\b")
_END = re.compile(r"</solution>|<answer>")
_ANSWER = re.compile(r"<answer> *(-?[0-9]{1,9}) *</answer>")
_TOKEN = re.compile(r"[A-Za-z]+|[0-9]+|[-+*=();]|[^\sA-Za-z0-9]")
_MOST_DIGITS = 9
_LARGEST = 10**12
_DEEPEST = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One quantity of a solution: the names it is computed from, and its value (None where none could be read)."""

    parents: frozenset[str]
    value: Linear | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Solution:
    """What a text says: quantities by name (the last definition counts), and the answer, if there is exactly one."""

    steps: Mapping[str, Step]
    answer: int | None


def parse_solution(text: str) -> Solution:
    """Read a completion ``Define <name> as U; so U = 3. ... </solution> <answer> 3 </answer>``.

    The names that a step is computed from are those of all letters in it; letters that stand for something between (a
    sum of two of three terms) stand for the names they were computed from. The letter x of an unknown counts only where
    it is the whole formula's part, not where it appears in a line such as ``2 * x + 3`` that was put in for a letter.
    A letter that nobody defined stands for a name that no gold solution has. The last step of reverse mode has the name
    "Solve".
    """
    answers = _ANSWER.findall(text)
    pieces = _STEP.split(_END.split(text, maxsplit=1)[0])
    scope = _Scope()
    steps: dict[str, Step] = {}
    for kind, body in zip(pieces[1::2], pieces[2::2], strict=True):
        if kind == SOLVE:
            steps[SOLVE] = scope.read(_tokens(body), UNKNOWN, solving=True)
            continue
        head, _, rest = body.partition(";")
        words = head.split()
        if len(words) < 3 or words[-2] != "as" or not _is_letter(words[-1]):
            continue
        name, letter = " ".join(words[:-2]), words[-1]
        steps[name] = scope.read(_tokens(rest), letter)
        scope.stands_for[letter] = frozenset({name})
        scope.values[letter] = steps[name].value
    return Solution(steps=steps, answer=int(answers[0]) if len(answers) == 1 else None)


class _Scope:
    """Which names each letter stands for, and its value."""

    def __init__(self) -> None:
        self.stands_for: dict[str, frozenset[str]] = {}
        self.values: dict[str, Linear | None] = {}

    def read(self, tokens: Sequence[str], letter: str, *, solving: bool = False) -> Step:
        """The step of ``letter``; letters set on the way are kept with what they stand for."""
        parents: set[str] = set()
        value: Linear | None = None
        for clause in _split(tokens, ";"):
            sides = _split([token for token in clause if token != "so"], "=")
            target = sides[0][0] if len(sides) > 1 and len(sides[0]) == 1 else None
            used: set[str] = set()
            for number, side in enumerate(sides if solving else sides[1:]):
                for token in side:
                    cited = _is_letter(token) and (solving or token != letter)
                    if cited and (solving or token != UNKNOWN or number == 0):
                        used |= self.stands_for.get(token, frozenset({f"?{token}"}))
            found = next((v for side in reversed(sides) if (v := compute(side, self.values)) is not None), None)
            if target in (None, letter) or solving:
                parents |= used
                value = found if found is not None else value
            else:
                assert target is not None
                self.stands_for[target], self.values[target] = frozenset(used), found
        if value is None:
            value = next((Linear(0, n) for token in reversed(tokens) if (n := _number(token)) is not None), None)
        return Step(parents=frozenset(parents), value=value)


def _is_letter(token: str) -> bool:
    return len(token) == 1 and token.isascii() and token.isalpha()


def _number(token: str) -> int | None:
    return int(token) if token.isascii() and token.isdigit() and len(token) <= _MOST_DIGITS else None


def _tokens(text: str) -> list[str]:
    """Words, numbers and signs of a step; what follows its full stop belongs to no step."""
    tokens = _TOKEN.findall(text)
    return tokens[: tokens.index(".")] if "." in tokens else tokens


def _split(tokens: Sequence[str], mark: str) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    for token in tokens:
        if token == mark:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def compute(tokens: Sequence[str], values: Mapping[str, Linear | None]) -> Linear | None:
    """The value of an expression of + - * ( ), numbers and letters with values; None for anything else.

    A sign before the first term is read too. ``x`` is the unknown itself unless it has a value.
    """
    outcome = _sum(tokens, 0, values, 0)
    return outcome[0] if outcome is not None and outcome[1] == len(tokens) else None


_Read = tuple[Linear, int] | None


def _sum(tokens: Sequence[str], at: int, values: Mapping[str, Linear | None], depth: int) -> _Read:
    negative = tokens[at : at + 1] == ["-"]
    read = _product(tokens, at + negative, values, depth)
    if read is not None and negative:
        read = (Linear(-read[0].slope, -read[0].offset), read[1])
    while read is not None and read[1] < len(tokens) and tokens[read[1]] in "+-":
        right = _product(tokens, read[1] + 1, values, depth)
        read = _bounded(combine(tokens[read[1]], read[0], right[0]), right[1]) if right is not None else None
    return read


def _product(tokens: Sequence[str], at: int, values: Mapping[str, Linear | None], depth: int) -> _Read:
    read = _term(tokens, at, values, depth)
    while read is not None and read[1] < len(tokens) and tokens[read[1]] == "*":
        right = _term(tokens, read[1] + 1, values, depth)
        read = _bounded(combine("*", read[0], right[0]), right[1]) if right is not None else None
    return read


def _term(tokens: Sequence[str], at: int, values: Mapping[str, Linear | None], depth: int) -> _Read:
    if at >= len(tokens):
        return None
    token = tokens[at]
    if (number := _number(token)) is not None:
        return Linear(0, number), at + 1
    if token == "(" and depth < _DEEPEST:
        inner = _sum(tokens, at + 1, values, depth + 1)
        closed = inner is not None and tokens[inner[1] : inner[1] + 1] == [")"]
        return (inner[0], inner[1] + 1) if inner is not None and closed else None
    found = values.get(token, Linear(1, 0) if token == UNKNOWN else None)
    return None if found is None else (found, at + 1)


def _bounded(value: Linear | None, at: int) -> _Read:
    if value is None or max(abs(value.slope), abs(value.offset)) > _LARGEST:
        return None
    return value, at
