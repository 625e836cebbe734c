"""Turns plain data into keyword dataclasses, strictly: what is not declared is refused, with the nearest name.

A field's metadata may hold ``minimum``, ``above`` (exclusive), ``maximum``, ``help``, and ``short: True``: a value that
is no mapping then stands for this field alone.
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from infosteer.core.config import nearest
from infosteer.errors import ConfigError
from infosteer.experiments.source import KeyPath, Source, dotted

T = TypeVar("T")


def unknown_key(key: object, names: Iterable[str], path: KeyPath, source: Source) -> ConfigError:
    """The error for a key that is not declared; the caller raises it."""
    names = list(names)
    close = nearest(key, names)
    return ConfigError(
        f"Unknown key {dotted((*path, str(key)))!r}.",
        where=source.at((*path, str(key))),
        expected=", ".join(names),
        fix=f"did you mean {close!r}?" if close else "remove the key, or see `docs/recipes.md`",
    )


def build(cls: type[T], data: object, path: KeyPath, source: Source) -> T:
    """An instance of the dataclass ``cls`` from a mapping.

    Raises: ConfigError for unknown keys at any depth, wrong types, values out of bounds, and missing keys.
    """
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    short = next((f.name for f in fields if f.metadata.get("short")), None)
    if short is not None and not isinstance(data, Mapping):
        return cls(**{short: convert(get_type_hints(cls)[short], data, path, source)})
    values = _given(cls, data, path, source)
    for f in fields:
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and f.name not in values:
            raise ConfigError(f"The key {dotted((*path, f.name))!r} is missing.", where=source.at(path))
    return cls(**values)


def partial(cls: type[Any], data: object, path: KeyPath, source: Source) -> dict[str, Any]:
    """Some keys of the dataclass ``cls``, checked as ``build`` does, as plain data: what is not given is left out.

    Raises: ConfigError as ``build``, but not for missing keys.
    """
    checked = to_plain(_given(cls, data, path, source))
    return {key: _only_given(value, checked[str(key)]) for key, value in data.items()}  # type: ignore[attr-defined]


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes`` put in, mapping by mapping; anything else is replaced whole."""
    both = dict(base)
    for key, value in changes.items():
        old = both.get(key)
        both[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return both


def flat(data: Mapping[str, Any], path: str = "") -> list[tuple[str, Any]]:
    """Every leaf of nested mappings with its dotted key."""
    leaves: list[tuple[str, Any]] = []
    for key, value in data.items():
        here = f"{path}.{key}" if path else str(key)
        leaves += flat(value, here) if isinstance(value, Mapping) and value else [(here, value)]
    return leaves


def _given(cls: type[Any], data: object, path: KeyPath, source: Source) -> dict[str, Any]:
    if not isinstance(data, Mapping):
        raise _wrong(data, "a mapping of keys to values", path, source)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    hints = get_type_hints(cls)
    values: dict[str, Any] = {}
    for key, value in data.items():
        if key not in fields:
            raise unknown_key(key, fields, path, source)
        here = (*path, str(key))
        values[str(key)] = convert(hints[key], value, here, source)
        _check_bounds(values[str(key)], fields[key].metadata, here, source)
    return values


def _only_given(raw: object, checked: Any) -> Any:
    """``checked`` without the defaults that a nested dataclass brought in."""
    if isinstance(raw, Mapping) and isinstance(checked, Mapping):
        return {str(key): _only_given(value, checked[str(key)]) for key, value in raw.items()}
    return checked


def convert(hint: Any, value: object, path: KeyPath, source: Source) -> Any:
    """One value as the annotated type; int is taken for float, whole floats for int, never bool for a number."""
    if hint is Any:
        return value
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return _convert_union(hint, value, path, source)
    if hint is type(None):
        if value is None:
            return None
        raise _wrong(value, "null", path, source)
    if dataclasses.is_dataclass(hint):
        return build(hint, value, path, source)  # type: ignore[arg-type]
    if origin is Literal:
        choices = get_args(hint)
        if value in choices:
            return value
        close = nearest(value, [str(c) for c in choices])
        fix = f"did you mean {close!r}?" if close else None
        raise _wrong(value, " | ".join(map(str, choices)), path, source, fix=fix)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise _wrong(value, "a list", path, source)
        return tuple(convert(get_args(hint)[0], item, (*path, i), source) for i, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, Mapping):
            raise _wrong(value, "a mapping", path, source)
        return {str(key): convert(get_args(hint)[1], item, (*path, str(key)), source) for key, item in value.items()}
    return _convert_scalar(hint, value, path, source)


def _convert_scalar(hint: type, value: object, path: KeyPath, source: Source) -> Any:
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise _wrong(value, "a finite number", path, source)
        return float(value)
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    fix = "quote it" if hint is str else None
    raise _wrong(value, words.get(hint, hint.__name__), path, source, fix=fix)


def _convert_union(hint: Any, value: object, path: KeyPath, source: Source) -> Any:
    options = get_args(hint)
    if value is None and type(None) in options:
        return None
    kinds: dict[Any, Any] = {dict: Mapping, tuple: (list, tuple)}
    for option in options:  # a list or mapping with one option of its kind is that or nothing: its error says more
        kind = Mapping if dataclasses.is_dataclass(option) else kinds.get(get_origin(option))
        if kind is not None and isinstance(value, kind):
            return convert(option, value, path, source)
    errors = []
    for option in (o for o in options if o is not type(None)):
        try:
            return convert(option, value, path, source)
        except ConfigError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    raise _wrong(value, " or ".join(str(e.expected) for e in errors), path, source)


def _check_bounds(value: object, metadata: Mapping[str, Any], path: KeyPath, source: Source) -> None:
    if value is None or isinstance(value, bool) or not isinstance(value, int | float):
        return
    if "minimum" in metadata and value < metadata["minimum"]:
        raise _wrong(value, f">= {metadata['minimum']}", path, source, what="is out of range")
    if "above" in metadata and value <= metadata["above"]:
        raise _wrong(value, f"> {metadata['above']}", path, source, what="is out of range")
    if "maximum" in metadata and value > metadata["maximum"]:
        raise _wrong(value, f"<= {metadata['maximum']}", path, source, what="is out of range")


def _wrong(
    value: object,
    expected: str,
    path: KeyPath,
    source: Source,
    *,
    fix: str | None = None,
    what: str = "has the wrong type",
) -> ConfigError:
    name = dotted(path) or "the recipe"
    return ConfigError(
        f"{name} {what}.", where=source.at(path), got=f"{value!r} ({type(value).__name__})", expected=expected, fix=fix
    )


def to_plain(value: Any) -> Any:
    """Dataclasses, tuples and paths as plain YAML/JSON data; the inverse of ``build``."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return value


def without_defaults(instance: Any) -> dict[str, Any]:
    """A dataclass as plain data, without the fields that have their default values."""
    kept: dict[str, Any] = {}
    for f in dataclasses.fields(instance):
        value = getattr(instance, f.name)
        default = f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default
        if value != default:
            nested = dataclasses.is_dataclass(value) and not isinstance(value, type)
            kept[f.name] = without_defaults(value) if nested else to_plain(value)
    return kept
