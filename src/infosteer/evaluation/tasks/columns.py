"""Columns of raw benchmark rows, read with a reason for every one that cannot be used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from infosteer.training.row_formats import BadRow

Raw = Mapping[str, Any]


def text(row: Raw, *names: str) -> str:
    """The first of the columns ``names`` that the row has, as stripped text that is not empty."""
    name = next((name for name in names if row.get(name) is not None), None)
    if name is None:
        raise BadRow(f"has no field {' or '.join(map(repr, names))}; its fields are {', '.join(map(repr, row))}")
    value = row[name]
    if not isinstance(value, str):
        raise BadRow(f"field {name!r} is of type {type(value).__name__}, not text")
    if not value.strip():
        raise BadRow(f"field {name!r} is empty")
    return value.strip()


def texts(row: Raw, name: str) -> list[str]:
    """A column that is a list of texts."""
    value = row.get(name)
    if not isinstance(value, Sequence) or isinstance(value, str) or not value:
        raise BadRow(f"field {name!r} is no list of options")
    return [text({f"{name}[{place}]": item}, f"{name}[{place}]") for place, item in enumerate(value)]


def index(row: Raw, name: str, count: int, *, first: int = 0) -> int:
    """A column that points at one of ``count`` options, as a number or as text, counted from ``first``."""
    value = row.get(name)
    try:
        place = int(str(value)) - first
    except ValueError:
        raise BadRow(f"field {name!r} is {str(value)[:40]!r}, not the number of an option") from None
    if isinstance(value, bool) or not 0 <= place < count:
        raise BadRow(f"field {name!r} is {value!r}, but there are {count} options, counted from {first}")
    return place


def labelled(row: Raw, key: str = "answerKey") -> tuple[list[str], int]:
    """Options that stand as ``choices: {text, label}`` and the place of the one that ``key`` names."""
    choices = row.get("choices")
    if not isinstance(choices, Mapping):
        raise BadRow("field 'choices' is no mapping of text and label")
    options, labels = texts(choices, "text"), texts(choices, "label")
    answer = text(row, key)
    if len(options) != len(labels) or answer not in labels:
        raise BadRow(f"field {key!r} is {answer[:40]!r}, but the options are {'/'.join(labels)}")
    return options, labels.index(answer)


def number(row: Raw, *names: str) -> str:
    """A column that is a number, or text that is one, as text."""
    name = next((name for name in names if row.get(name) is not None), names[0])
    value = row.get(name)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return repr(value)
    return text(row, *names)
