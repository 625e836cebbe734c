"""Markers from a language model, where a data set does not know them: what to ask, and how to read the reply."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from infosteer.core.data import Row
from infosteer.errors import ConfigError
from infosteer.methods.data.markers.taxonomy import TAXONOMY, Values

QUESTIONS = {  # category -> what is asked of a row
    "domain": "Which field is the text about?",
    "task": "What does the request ask for?",
    "format": "In which format is the answer written?",
    "style": "In which tone is the answer written?",
    "source": "Who made the answer: a person, a program, or a translator of another text?",
    "lang": "In which language is the answer written?",
    "code_type": "In which programming language is the code of the answer?",
    "quality_bucket": "How good is the answer? 1 is the best quarter, 4 the worst.",
}
Example = tuple[str, str]  # text, value


def tagging_prompt(
    text: str,
    category: str,
    examples: Sequence[Example] = (),
    *,
    taxonomy: Mapping[str, Values | type] = TAXONOMY,
    definition: str | None = None,
) -> str:
    """The question for one value of one category, with the values to choose from, and answered examples before it.

    Args:
        examples: in the text's language.
        definition: what is asked; of the taxonomy's own categories it is known.

    Raises:
        ConfigError: a category that has no values to choose from, or no definition.
    """
    values = taxonomy.get(category)
    question = definition or QUESTIONS.get(category)
    if not isinstance(values, tuple) or question is None:
        raise ConfigError(
            "a tagger chooses among values, and needs to be told what they mean",
            where=f"markers.{category}",
            got=category,
            expected=", ".join(QUESTIONS),
            fix="count or measure numbers yourself; give a definition for categories of your own",
        )
    shown = "".join(f"\n\nText: {sample}\nValue: {value}" for sample, value in examples)
    return f"{question}\nAnswer with one of: {', '.join(values)}.{shown}\n\nText: {text}\nValue:"


def read_value(reply: str, values: Sequence[str]) -> str | None:
    """The value that a reply begins with, whatever its case; the longest that fits, None where none does."""
    said = reply.strip().strip("\"'*`").casefold()
    fitting = [v for v in values if said.startswith(v.casefold()) and not said[len(v) : len(v) + 1].isalnum()]
    return max(fitting, key=len, default=None)


def tag_rows(
    rows: Sequence[Row],
    complete: Callable[[list[str]], Sequence[str]],
    categories: Sequence[str],
    *,
    examples: Mapping[str, Mapping[str, Sequence[Example]]] | None = None,
    taxonomy: Mapping[str, Values | type] = TAXONOMY,
) -> list[Row]:
    """Rows whose ``about`` holds what a language model says of them; what a row knows already is kept.

    A reply that names no value counts as ``Unspecified`` where the category has that, else the marker stays away.

    Args:
        complete: prompts -> replies, by any language model.
        examples: category -> language -> answered examples; chosen by the row's ``lang``.
    """
    tagged = [{**row, "about": dict(row.get("about") or {})} for row in rows]
    for category in categories:
        values = taxonomy.get(category)
        asked = [row for row in tagged if category not in row["about"]]
        shots = (examples or {}).get(category, {})
        prompts = [
            tagging_prompt(_shown(row), category, shots.get(row["about"].get("lang", ""), ()), taxonomy=taxonomy)
            for row in asked
        ]
        for row, reply in zip(asked, complete(prompts) if prompts else (), strict=True):
            assert isinstance(values, tuple)  # tagging_prompt has refused the others
            value = read_value(reply, values) or ("Unspecified" if "Unspecified" in values else None)
            if value is not None:
                row["about"][category] = value
    return tagged


def _shown(row: Row) -> str:
    sides: list[Any] = [row.get("prompt", row.get("messages")), row.get("completion", "")]
    return "\n".join(s if isinstance(s, str) else "\n".join(turn["content"] for turn in s) for s in sides).strip()
