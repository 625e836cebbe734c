"""What markers there are: thirteen categories, in the order in which a completion lists them, and their values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from infosteer.core.config import suggestion
from infosteer.errors import ConfigError

LENGTHS = ("length_tokens", "length_sentences", "length_paragraphs", "length_bucket")
Values = tuple[str, ...]

# Values of a category; whole numbers, or any number, where it is counted or measured.
TAXONOMY: dict[str, Values | type] = {
    "domain": (
        *("Sciences", "Technology", "SocialSciences", "Culture", "Medical", "Finance", "Legal", "Conversation"),
        *("Code", "Math", "Unspecified"),
    ),
    "task": (
        *("CodeGeneration", "CodeFix", "CodeTranslation", "CodeExplanation", "Explanation", "CreativeWriting"),
        *("QuestionAnswering", "OpenEnded", "InformationExtraction", "Summarization", "Reasoning", "Rewrite"),
        *("Classification", "Translation", "Unspecified"),
    ),
    "format": (
        *("Text", "JSON", "Markdown", "Tabular", "XML", "YAML", "HTML", "LaTeX", "List", "Code", "Unspecified"),
    ),
    "style": ("Formal", "Informal", "Custom"),
    "source": ("Human", "Synthetic", "Translation"),
    "lang": (
        *("Arabic", "Chinese", "Czech", "Dutch", "English", "French", "German", "Greek", "Hebrew", "Hindi"),
        *("Indonesian", "Italian", "Japanese", "Korean", "Persian", "Polish", "Portuguese", "Romanian", "Russian"),
        *("Spanish", "Turkish", "Ukrainian", "Vietnamese"),
    ),
    "code_type": (
        *("Python", "C", "C++", "C#", "Java", "JavaScript", "TypeScript", "Go", "Rust", "PHP", "Ruby", "Shell", "SQL"),
        "Other",
    ),
    "quality": float,
    "quality_bucket": ("1", "2", "3", "4"),
    "length_tokens": int,
    "length_sentences": int,
    "length_paragraphs": int,
    "length_bucket": ("concise", "medium", "long"),
}


def extended(extra: Mapping[str, Sequence[str]], where: str) -> dict[str, Values | type]:
    """The taxonomy with categories of one's own, or other values in a known one; an empty list takes any text.

    Raises:
        ConfigError: a category's name that cannot be a tag, or values that are no list of text.
    """
    known: dict[str, Values | type] = dict(TAXONOMY)
    for category, values in extra.items():
        if not isinstance(category, str) or not category.isidentifier():
            raise ConfigError("a category's name is letters, digits and underscores", where=where, got=category)
        if isinstance(values, str) or not isinstance(values, Sequence):
            raise ConfigError("values are a list", where=f"{where}.{category}", got=values)
        known[category] = tuple(written(value, category, where) for value in values) or str
    return known


def written(value: Any, category: str, where: str) -> str:
    """A value as lists write it: one line of text without angle brackets; numbers with at most two decimals.

    Raises:
        ConfigError: anything else.
    """
    if isinstance(value, float):
        value = f"{value:.2f}".rstrip("0").rstrip(".")
    if isinstance(value, (bool, list, tuple, dict)) or value is None:
        raise ConfigError("a marker has one value, text or a number", where=f"{where}.{category}", got=value)
    text = str(value)
    if not text.strip() or text != text.strip() or set(text) & set("<>\n\r"):
        raise ConfigError("a marker's value is one line without angle brackets", where=f"{where}.{category}", got=value)
    return text


def checked(markers: Mapping[str, Any], known: Mapping[str, Values | type], where: str) -> dict[str, str]:
    """Markers as text, in the taxonomy's order.

    Raises:
        ConfigError: an unknown category, or a value that the category does not have; the nearest is named.
    """
    for category in markers:
        if category not in known:
            raise ConfigError(
                f"unknown category '{category}'" + suggestion(category, known),
                where=where,
                got=category,
                expected=", ".join(known),
                fix="declare it under taxonomy: {category: [value, ...]}, or [] for any value",
            )
    found = {}
    for category, allowed in known.items():
        if category not in markers:
            continue
        value = written(markers[category], category, where)
        if isinstance(allowed, tuple):
            if value not in allowed:
                raise ConfigError(
                    f"unknown value '{value}'" + suggestion(value, allowed),
                    where=f"{where}.{category}",
                    got=value,
                    expected=" | ".join(allowed),
                )
        elif allowed is not str:
            _must_be_number(value, allowed is int, f"{where}.{category}")
        found[category] = value
    return found


def _must_be_number(value: str, whole: bool, where: str) -> None:
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if not abs(number) < float("inf") or (whole and (number < 0 or not value.isdecimal())):
        raise ConfigError("expected a whole number" if whole else "expected a number", where=where, got=value)
