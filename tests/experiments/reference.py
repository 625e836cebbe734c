"""Writes the key tables of docs/recipes.md from the dataclasses: ``python tests/experiments/reference.py``."""

from __future__ import annotations

import dataclasses
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from infosteer.experiments.parts import PartsSettings, Reproduces
from infosteer.experiments.recipe import Recipe
from infosteer.experiments.sections import Arm, DataSettings, EvaluateSettings
from infosteer.experiments.sweep.settings import Range, SweepSettings, Tune
from infosteer.training.settings import PeftSettings, TrainSettings

PAGE = Path(__file__).resolve().parents[2] / "docs" / "recipes.md"
BEGIN, END = "<!-- keys: made by tests/experiments/reference.py -->\n", "<!-- end of keys -->\n"
SECTIONS: tuple[tuple[str, type[Any]], ...] = (
    ("Top level", Recipe),
    ("`data`", DataSettings),
    ("`train`", TrainSettings),
    ("`train.peft`", PeftSettings),
    ("`arms.NAME`", Arm),
    ("`evaluate.NAME`", EvaluateSettings),
    ("`sweep`", SweepSettings),
    ("`sweep.random.KEY`", Range),
    ("`sweep.tune`", Tune),
    ("Recipes in parts", PartsSettings),
    ("`reproduces`", Reproduces),
)
WORDS = {bool: "true/false", int: "whole number", float: "number", str: "text", type(None): "null", Any: "any"}


def key_reference() -> str:
    """Markdown: a table of keys, types, defaults and meanings for every section of a recipe."""
    parts = []
    for title, cls in SECTIONS:
        hints = get_type_hints(cls)
        lines = [f"### {title}", "", "| key | type | default | meaning |", "|---|---|---|---|"]
        for field in dataclasses.fields(cls):
            cells = (f"`{field.name}`", words(hints[field.name]), default(field), field.metadata["help"])
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def words(hint: Any) -> str:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(words(one) for one in inner)
    if origin is Literal:
        return " or ".join(f"`{one}`" for one in inner)
    if origin is tuple:
        return f"list of {words(inner[0])}"
    if origin is dict:
        return f"mapping of name to {words(inner[1])}" if inner[1] is not Any else "mapping"
    return "mapping" if dataclasses.is_dataclass(hint) else WORDS[hint]


def default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        value = field.default
    elif field.default_factory is not dataclasses.MISSING:
        return "as below" if dataclasses.is_dataclass(field.default_factory()) else "empty"
    else:
        return "**required**"
    if value is None or value == "":
        return "null" if value is None else "empty"
    shown = list(value) if isinstance(value, tuple) else str(value).lower() if isinstance(value, bool) else value
    return f"`{shown}`"


def page_with_keys(page: str) -> str:
    """The page with its key tables replaced by fresh ones."""
    before, rest = page.split(BEGIN)
    return before + BEGIN + "\n" + key_reference() + "\n" + END + rest.split(END)[1]


if __name__ == "__main__":
    PAGE.write_text(page_with_keys(PAGE.read_text()))
