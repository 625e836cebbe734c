"""Data sets of the lab by key, as recipes name them after ``lab:``."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any

from infosteer.errors import ConfigError
from infosteer.lab.facts import PEOPLE, TEST_PEOPLE, make_world
from infosteer.lab.questions import (
    AXES,
    DEFAULT_PEOPLE,
    DEFAULT_QUESTIONS,
    axis_rows,
    biography_rows,
    recall_rows,
    sft_rows,
)

KEYS: Mapping[str, str] = {
    "facts": "SFT rows (prompt, completion) about few people",
    "facts/new_people": "in distribution: the forms, words and attributes of SFT, other people",
    "facts/new_form": "sentence frames that SFT never used",
    "facts/new_word": "relation words that SFT never used",
    "facts/new_attribute": "attributes that SFT never asked for",
    "facts/combined": "new form and new word at once",
    "facts/recall": "completion of pretraining sentences, attributes asked in SFT",
    "facts/recall_unasked": "completion of pretraining sentences, attributes never asked in SFT",
    "facts/biographies": "texts in pretraining phrasings, for likelihood",
}
_SFT_OPTIONS = {"people": DEFAULT_PEOPLE, "questions": DEFAULT_QUESTIONS}


def load(key: str, *, seed: int = 0, limit: int | None = None, **options: int) -> list[dict[str, Any]]:
    """Rows of a data set of the lab.

    Args:
        key: one of ``KEYS``. ``facts`` gives ``{"prompt", "completion"}``, ``facts/biographies`` gives
            ``{"text", "person"}``, the others give ``{"prompt", "answer", "options", "person", "attribute"}``, recall
            sets also ``"stop"``, the list of texts at which a greedy answer ends.
        seed: which people SFT asks about and how; the evaluation sets are the same for every seed.
        limit: at most so many rows; the order is shuffled once for all, so the first rows are a fair sample.
        **options: for ``facts``: ``people`` (1 to 800) and ``questions`` for each fact (1 to 6).

    Raises:
        ConfigError: unknown key or option, naming the nearest one, or a value out of range.
    """
    if key not in KEYS:
        raise ConfigError(
            "Unknown data set of the lab.",
            where=f"lab:{key}",
            got=key,
            expected=", ".join(KEYS),
            fix=_nearest(key, KEYS),
        )
    known = _SFT_OPTIONS if key == "facts" else {}
    for name in options:
        if name not in known:
            raise ConfigError(
                f"Unknown option of lab:{key}.",
                where=f"lab:{key}",
                got=name,
                expected=", ".join(("seed", "limit", *known)),
                fix=_nearest(name, ("seed", "limit", *_SFT_OPTIONS)),
            )
    if limit is not None:
        _check("limit", limit, 1, None)
    if key == "facts":
        settings = _SFT_OPTIONS | options
        _check("people", settings["people"], 1, PEOPLE - TEST_PEOPLE)
        _check("questions", settings["questions"], 1, 6)
        rows = sft_rows(make_world(), seed=seed, **settings)
    else:
        rows = _evaluation_rows(key.removeprefix("facts/"))
    return rows if limit is None else rows[:limit]


def _evaluation_rows(name: str) -> list[dict[str, Any]]:
    world = make_world()
    others: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "recall": lambda: recall_rows(world, asked=True),
        "recall_unasked": lambda: recall_rows(world, asked=False),
        "biographies": lambda: biography_rows(world),
    }
    return axis_rows(world, name) if name in AXES else others[name]()


def _nearest(name: str, known: Mapping[str, Any] | tuple[str, ...]) -> str | None:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
    return f"did you mean {near[0]}?" if near else None


def _check(name: str, value: object, low: int, high: int | None) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < low or (high is not None and value > high):
        span = f"a whole number from {low}" + (f" to {high}" if high is not None else "")
        raise ConfigError(f"{name} is out of range.", where=name, got=value, expected=span)
