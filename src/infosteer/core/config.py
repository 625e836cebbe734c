"""Strict configuration: a method *is* its configuration, a keyword-only dataclass whose fields carry their help.

The field's metadata is the only place that says what a setting means and which values it takes; the checks here, the
card's table, ``infosteer show`` and the error texts all read it.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from infosteer.errors import ConfigError


def setting(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: Iterable[Any] | None = None,
) -> Any:
    """A field of a method: its default, one help text, and its range (inclusive) or choices."""
    metadata = {"help": help, "low": low, "high": high, "choices": tuple(choices) if choices is not None else None}
    return dataclasses.field(default=default, metadata=metadata)


def check_settings(instance: Any, where: str) -> None:
    """Checks every field that was declared by :func:`setting` against its type, range and choices.

    Raises:
        ConfigError: the first field that does not fit.
    """
    for field in dataclasses.fields(instance):
        if "low" not in field.metadata:
            continue
        value, meta = getattr(instance, field.name), field.metadata
        place = f"{where}.{field.name}"
        if meta["choices"] is not None:
            if value not in meta["choices"]:
                raise ConfigError(
                    "unknown choice" + suggestion(value, meta["choices"]),
                    where=place,
                    got=value,
                    expected=" | ".join(map(str, meta["choices"])),
                )
        elif isinstance(field.default, bool):
            if not isinstance(value, bool):
                raise ConfigError("expected true or false", where=place, got=value)
        elif isinstance(field.default, (int, float)):
            _check_number(value, meta["low"], meta["high"], place)


def nearest(word: object, candidates: Iterable[Any]) -> str | None:
    """The candidate most like ``word``, or None when nothing is close."""
    matches = difflib.get_close_matches(str(word), [str(candidate) for candidate in candidates], n=1, cutoff=0.5)
    return matches[0] if matches else None


def suggestion(word: object, candidates: Iterable[Any]) -> str:
    """`` (did you mean 'x'?)`` for an error text, empty when nothing is close."""
    match = nearest(word, candidates)
    return f" (did you mean '{match}'?)" if match else ""


def is_finite(value: float) -> bool:
    """Whether a number fits a float and is finite; whole numbers can be too large for one."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def check_keys(mapping: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    """Refuses keys that nobody reads.

    Raises:
        ConfigError: naming the nearest known key.
    """
    known = list(known)
    for key in mapping:
        if key not in known:
            raise ConfigError(
                f"unknown key '{key}'" + suggestion(key, known), where=where, got=key, expected=", ".join(known)
            )


def difference(before: Any, after: Any, path: str = "") -> list[str]:
    """Every leaf at which two plain structures differ, as ``key: old -> new``."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        changes = []
        for key in dict.fromkeys([*before, *after]):
            here = f"{path}.{key}" if path else str(key)
            if key not in before or key not in after:
                changes.append(f"{here}: {before.get(key, '(absent)')} -> {after.get(key, '(absent)')}")
            else:
                changes += difference(before[key], after[key], here)
        return changes
    return [] if before == after else [f"{path}: {before} -> {after}"]


def load_yaml(path: Path) -> Any:
    """Reads one YAML file with the safe loader.

    Raises:
        ConfigError: missing or unreadable file, or YAML that does not parse, with its line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("cannot read the file", where=path, got=str(error)) from None
    return parse_yaml(text, where=str(path))


def parse_yaml(text: str, where: str) -> Any:
    """Parses YAML text safely; aliases are refused, since a few lines of them can expand without bound.

    Raises:
        ConfigError: text that does not parse, with line and column.
    """
    try:
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise ConfigError("YAML aliases (*name) are not read", where=where, fix="write the value out")
        return yaml.load(text, Loader=_RecipeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark is not None else where
        raise ConfigError("not valid YAML", where=line, got=getattr(error, "problem", None) or str(error)) from None


def _check_number(value: Any, low: float | None, high: float | None, place: str) -> None:
    bounds = f"a number from {'-inf' if low is None else low} to {'inf' if high is None else high}"
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not is_finite(value):
        raise ConfigError("expected a finite number", where=place, got=value, expected=bounds)
    if (low is not None and value < low) or (high is not None and value > high):
        raise ConfigError("out of range", where=place, got=value, expected=bounds)


class _RecipeLoader(yaml.SafeLoader):
    """The safe loader, with numbers such as ``1e-4`` read as numbers (YAML 1.1 wants a dot and a sign) and repeated
    keys refused instead of silently overwritten."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)  # type: ignore[no-untyped-call]
            if not isinstance(key, (str, int, float, bool, type(None))):
                raise yaml.constructor.ConstructorError(None, None, "keys must be plain words", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key}' is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_FLOAT = r"""^(?:[-+]?(?:[0-9][0-9_]*)\.[0-9_]*(?:[eE][-+]?[0-9]+)?
|[-+]?(?:[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)
|[-+]?\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"""


def _read_floats_as_people_write_them() -> None:
    resolvers = {
        first: [(tag, pattern) for tag, pattern in rules if tag != "tag:yaml.org,2002:float"]
        for first, rules in _RecipeLoader.yaml_implicit_resolvers.items()
    }
    _RecipeLoader.yaml_implicit_resolvers = resolvers
    _RecipeLoader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(_FLOAT, re.X), list("-+0123456789."))


_read_floats_as_people_write_them()
