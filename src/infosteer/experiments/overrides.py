"""Changes to a recipe by dotted keys: ``train.learning_rate``, ``arms.reg[0].weight``, ``arms.reg.train.max_steps``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from infosteer.errors import ConfigError
from infosteer.experiments.source import parse_recipe

_PART = re.compile(r"([^.\[\]]+)|\[(\d+)\]")


def apply_override(data: dict[str, Any], override: str) -> None:
    """``train.learning_rate=1e-4``, ``seeds=[1,2]``, ``arms.reg[0].weight=0.1``, in place; the value is YAML.

    Raises: ConfigError for a text that is no override, and for a key that leads nowhere.
    """
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not key:
        raise ConfigError("An override is written key=value.", got=override, expected="e.g. train.learning_rate=1e-4")
    value = parse_recipe(text, f"override {key}")[0] if text.strip() else None
    set_key(data, key, value, where=f"override {key}")


def set_key(data: dict[str, Any], key: str, value: Any, *, where: str) -> None:
    """Put a value at a dotted key, in place. Mappings on the way are made; whether the key is known is checked later.

    Raises: ConfigError for a list entry that is not there, and for a key inside a plain value.
    """
    here: Any = data
    rest = key
    path: list[str] = []
    while rest:
        part, rest = _next_part(rest, here, where)
        if len(path) == 1 and path[0] == "arms" and isinstance(here, dict) and rest:
            here[part] = _arm(here.get(part), rest)
        if isinstance(here, dict) and path[:1] == ["arms"] and len(path) == 2 and part.isdigit():
            here = here.setdefault("methods", [])
        path.append(part)
        if isinstance(here, list):
            if not part.isdigit() or int(part) >= len(here):
                raise ConfigError("No such list entry.", where=where, got=part, expected=f"a number < {len(here)}")
        elif not isinstance(here, dict):
            raise ConfigError("This key has nothing inside it to change.", where=where, got=here)
        index: Any = int(part) if isinstance(here, list) else part
        if not rest:
            here[index] = value
        else:
            if isinstance(here, dict) and here.get(index) is None:
                here[index] = {}
            here = here[index]


def _next_part(rest: str, here: Any, where: str) -> tuple[str, str]:
    """The first part of a dotted key and what follows it; names that are there may hold dots."""
    if isinstance(here, Mapping):
        for name in sorted((str(name) for name in here), key=len, reverse=True):
            if rest == name or rest.startswith((f"{name}.", f"{name}[")):
                return name, rest[len(name) :].removeprefix(".")
    match = _PART.match(rest)
    if match is None:
        raise ConfigError("This is not a dotted key.", where=where, got=rest, expected="e.g. arms.reg[0].weight")
    return match[1] or match[2], rest[match.end() :].removeprefix(".")


def _arm(arm: Any, rest: str) -> Any:
    """An arm given as a list, as a mapping where a key of its own is to be set."""
    if isinstance(arm, list) and not rest.startswith("[") and not rest.partition(".")[0].isdigit():
        return {"methods": arm}
    return arm
