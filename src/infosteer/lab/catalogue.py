"""Data sets of the lab by key, as recipes name them after ``lab:``."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from typing import Any

from infosteer.errors import ConfigError
from infosteer.lab.facts import PEOPLE, TEST_PEOPLE, make_world
from infosteer.lab.questions import (
    AXES,
    DEFAULT_PEOPLE,
    DEFAULT_QUESTIONS,
    TEXT_PEOPLE,
    axis_rows,
    biography_rows,
    recall_rows,
    sft_rows,
    text_rows,
    two_hop_rows,
)
from infosteer.lab.reasoning import rows as reasoning
from infosteer.lab.reasoning.problems import Settings
from infosteer.lab.strangers import DEFAULT_TEXTS, stranger_rows, stranger_sets

KEYS: Mapping[str, str] = {
    "facts": "SFT rows (prompt, completion) about few people",
    "facts/new_people": "in distribution: the forms, words and attributes of SFT, other people",
    "facts/new_form": "sentence frames that SFT never used",
    "facts/new_word": "relation words that SFT never used",
    "facts/new_attribute": "attributes that SFT never asked for",
    "facts/combined": "new form and new word at once",
    "facts/two_hop": "the text says who is meant, the memories what is asked of them",
    "facts/recall": "completion of pretraining sentences, attributes asked in SFT",
    "facts/recall_unasked": "completion of pretraining sentences, attributes never asked in SFT",
    "facts/biographies": "texts in pretraining phrasings, for likelihood",
    "facts/texts": "texts in pretraining phrasings about people of one's choice, for replay and calibration",
    "facts/strangers": "texts to learn people from whom pretraining never mentioned",
    "facts/strangers_recall": "completion of pretraining sentences about them",
    "facts/strangers_questions": "questions about them, asked as SFT asks",
    "reasoning": "SFT rows (prompt, completion): word problems with worked solutions",
    "reasoning/id": "in distribution: the depths and stories of pretraining, other problems",
    "reasoning/edge": "two operations more than pretraining had",
    "reasoning/hard": "four operations more than pretraining had",
    "reasoning/new_context": "a story that pretraining told with one operation only",
    "reasoning/reverse": "an unknown to solve for",
}
_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "facts": {"people": DEFAULT_PEOPLE, "questions": DEFAULT_QUESTIONS, "two_hop": 0},
    "facts/texts": {"people": TEXT_PEOPLE[0], "count": None},
    "facts/strangers": {"texts": DEFAULT_TEXTS},
    "reasoning": {"count": 200, "operations": "5-6", "contexts": "AB", "reverse": 0.0, "distractors": 2, "largest": 20},
}


def load(key: str, *, seed: int = 0, limit: int | None = None, **options: Any) -> list[dict[str, Any]]:
    """Rows of a data set of the lab.

    Args:
        key: one of ``KEYS``. ``facts`` and ``reasoning`` give ``{"prompt", "completion"}``, ``facts/biographies``
            and ``facts/texts`` give ``{"text", "person"}``, the other facts sets give ``{"prompt", "answer", "options",
            "person", "attribute"}``, recall sets also ``"stop"``, the list of texts at which a greedy answer ends.
            The other reasoning sets give ``{"prompt", "answer", "operations", "context", "reverse"}``, the answer being
            the whole worked solution.
        seed: which people SFT asks about and how, or which problems; the evaluation sets are the same for every seed.
        limit: at most so many rows; the order is shuffled once for all, so the first rows are a fair sample.
        **options: for ``facts``: ``people`` (1 to 800), and of each fact ``questions`` (1 to 6) and ``two_hop``, those
            of two hops besides (0 to 6). For ``facts/texts``: ``people`` ("pool", "test" or "all") and ``count`` of
            texts. For ``facts/strangers``: ``texts`` about each (1 to 1,000). For ``reasoning``: ``count`` of
            problems, ``operations`` (a number or a range such as "5-6"), ``contexts`` (letters of A, B and C),
            ``reverse`` (share with an unknown), ``distractors`` (most of them), ``largest`` value.

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
    known = _OPTIONS.get(key, {})
    for name in options:
        if name not in known:
            raise ConfigError(
                f"Unknown option of lab:{key}.",
                where=f"lab:{key}",
                got=name,
                expected=", ".join(("seed", "limit", *known)),
                fix=_nearest(name, ("seed", "limit", *_OPTIONS["facts"], *_OPTIONS["reasoning"])),
            )
    if limit is not None:
        _check("limit", limit, 1, None)
    settings = {**known, **options}
    if key == "facts":
        _check("people", settings["people"], 1, PEOPLE - TEST_PEOPLE)
        _check("questions", settings["questions"], 1, 6)
        _check("two_hop", settings["two_hop"], 0, 6)
        if settings["two_hop"] and settings["people"] < 2:
            raise ConfigError(
                "A question in two hops names two people.",
                where="people",
                got=settings["people"],
                expected=f"2 to {PEOPLE - TEST_PEOPLE} where two_hop is above 0",
            )
        rows = sft_rows(make_world(), seed=seed, **settings)
    elif key == "facts/texts":
        _check_texts(**settings)
        rows = text_rows(make_world(), seed=seed, **settings)
    elif key == "facts/strangers":
        _check("texts", settings["texts"], 1, 1000)
        rows = stranger_rows(seed=seed, texts=settings["texts"])
    elif key.startswith("facts/strangers_"):
        rows = stranger_sets(key.removeprefix("facts/"))
    elif key == "reasoning":
        _check("count", settings["count"], 1, 1_000_000)
        rows = reasoning.tuning_rows(_problem_settings(settings), seed=seed, count=settings["count"])
    elif key.startswith("reasoning/"):
        rows = reasoning.axis_rows(key.removeprefix("reasoning/"))
    else:
        rows = _evaluation_rows(key.removeprefix("facts/"))
    return rows if limit is None else rows[:limit]


def _evaluation_rows(name: str) -> list[dict[str, Any]]:
    world = make_world()
    others: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "two_hop": lambda: two_hop_rows(world),
        "recall": lambda: recall_rows(world, asked=True),
        "recall_unasked": lambda: recall_rows(world, asked=False),
        "biographies": lambda: biography_rows(world),
    }
    return axis_rows(world, name) if name in AXES else others[name]()


def _check_texts(*, people: object, count: object) -> None:
    if people not in TEXT_PEOPLE:
        raise ConfigError("people names no group.", where="people", got=people, expected=", ".join(TEXT_PEOPLE))
    if count is not None:
        _check("count", count, 1, 1_000_000)


def _problem_settings(options: Mapping[str, Any]) -> Settings:
    """The options of problems, checked; operations may be a number, or a range such as 5-6."""
    written = re.fullmatch(r"\s*(\d{1,3})\s*(?:-\s*(\d{1,3})\s*)?", str(options["operations"]))
    if written is None:
        raise ConfigError(
            "operations is no range.", where="operations", got=options["operations"], expected="e.g. 3 or 5-6"
        )
    for name, kinds in (("contexts", str), ("reverse", int | float), ("distractors", int), ("largest", int)):
        if not isinstance(options[name], kinds) or isinstance(options[name], bool):
            raise ConfigError(f"{name} is of the wrong kind.", where=name, got=repr(options[name]))
    return Settings(
        operations=(int(written[1]), int(written[2] or written[1])),
        **{name: options[name] for name in ("contexts", "reverse", "distractors", "largest")},
    )


def _nearest(name: str, known: Mapping[str, Any] | tuple[str, ...]) -> str | None:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.4)
    return f"did you mean {near[0]}?" if near else None


def _check(name: str, value: object, low: int, high: int | None) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < low or (high is not None and value > high):
        span = f"a whole number from {low}" + (f" to {high}" if high is not None else "")
        raise ConfigError(f"{name} is out of range.", where=name, got=value, expected=span)
