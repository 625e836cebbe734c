"""What a row of a task must hold; what falls short is named with task, file and line, never scored by luck."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from infosteer.evaluation.tasks.facts import TaskInfo
from infosteer.training.row_formats import BadRow, Row

# ASCII's control characters but tab and line ends, and those that turn the direction of what people see, not of what
# is read. Those from U+0080 on stand in published rows of MMLU and TriviaQA, where quotation marks were damaged.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u202a-\u202e\u2066-\u2069]")
_EMPTY_QUESTION = re.compile(r"[^\n]*\b(?:question|sentence)\s*:\s*(?:\n|$)", re.IGNORECASE)
_ALL_OPTIONS = re.compile(r"\s*(?:Answer Choices|The options)\s*:")


def check_raw(row: Mapping[str, Any]) -> None:
    """Refuse rows whose texts hold characters that no benchmark has: they come from damage, or hide something.

    Letters that are written from right to left are text like any other; characters that turn the direction of what
    follows are not.

    Raises:
        BadRow: naming the field and the character.
    """
    for name, value in row.items():
        for part in _texts(value):
            if found := _CONTROL.search(part):
                raise BadRow(f"field {str(name)!r} holds the control character U+{ord(found[0]):04X}")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | Mapping):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(part)


def check_suite(row: Mapping[str, Any]) -> None:
    """Refuse rows of the suite's wording whose question or one of whose options is empty.

    Raises:
        BadRow: saying which.
    """
    instruction = row["instruction"]
    if not isinstance(instruction, str):
        return  # the reader of the format says so
    if _EMPTY_QUESTION.match(instruction) or _ALL_OPTIONS.match(instruction):
        raise BadRow("its question is empty")
    body, mark, listed = instruction.rpartition("Answer format:")
    if not mark:
        return
    names = [name for name in listed.strip().split("/") if name[-1:].isdigit()]
    if not names:
        return  # true/false
    _, *parts = re.split(rf"\b({'|'.join(map(re.escape, names))})\s*:", body, flags=re.IGNORECASE)
    options = {name.lower(): option.strip() for name, option in zip(parts[::2], parts[1::2], strict=True)}
    for name in names:
        if not options.get(name.lower()):
            raise BadRow(f"option {name!r} is {'empty' if name.lower() in options else 'missing'} in its instruction")


def check_row(row: Row, info: TaskInfo) -> None:
    """Refuse rows that are not the task's kind of question.

    Raises:
        BadRow: options where there should be none, or too few or too many.
    """
    count = len(row["options"] or [])
    if info.options is None:
        if count:
            raise BadRow(f"has {count} options, but {info.title} asks for a {info.scoring}")
    elif not info.options[0] <= count <= info.options[1]:
        low, high = info.options
        wanted = str(low) if low == high else f"{low} to {high}"
        raise BadRow(f"has {count or 'no'} options, but a question of {info.title} has {wanted}")
