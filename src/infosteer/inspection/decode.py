"""Plain JSON into frozen dataclasses and back, strictly, with the key of whatever does not fit."""

from __future__ import annotations

import dataclasses
import functools
import math
import types
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from infosteer.core.config import is_finite, suggestion

T = TypeVar("T")
_WORDS = {int: "a whole number", float: "a finite number", bool: "true or false", str: "text"}
_SHOWN = 80  # characters of an offending value in an error


class Bad(Exception):
    """A value that does not fit: the key's path, what was got, what was expected. Callers turn it into their error."""

    def __init__(self, key: str, got: object, expected: object) -> None:
        text = got if isinstance(got, str) else repr(got)
        self.key, self.expected = key, expected
        self.got = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"
        super().__init__(f"{key}: {self.got}, expected {expected}")


def build(cls: type[T], data: object, key: str) -> T:
    """An instance of a dataclass; its ``check`` is called where it has one.

    Raises: Bad for keys that are missing or unknown and values of another type or shape, at any depth.
    """
    if not isinstance(data, dict):
        raise Bad(key, data, "an object")
    fields, hints = _shape(cls)  # type: ignore[arg-type]
    values = {}
    for name, value in data.items():
        if name not in fields:
            raise Bad(_at(key, name), "an unknown key" + suggestion(name, fields), ", ".join(fields))
        values[name] = _convert(hints[name], value, _at(key, name))
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise Bad(_at(key, name), "nothing", "this key")
    made = cls(**values)
    check = vars(cls).get("check")
    if check is not None:
        try:
            check(made)
        except Bad as bad:
            raise Bad(_at(key, bad.key), bad.got, bad.expected) from None
    return made


def plain(value: Any) -> Any:
    """Dataclasses and tuples as JSON data; the inverse of :func:`build`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(name): plain(item) for name, item in value.items()}
    return value


@functools.cache
def _shape(cls: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    return {field.name: field for field in dataclasses.fields(cls)}, get_type_hints(cls)


def _at(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _convert(hint: Any, value: Any, key: str) -> Any:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        (kind,) = (option for option in inner if option is not type(None))
        return None if value is None else _convert(kind, value, key)
    if origin is tuple:
        return _convert_list(inner, value, key)
    if origin is dict:
        if not isinstance(value, dict):
            raise Bad(key, value, "an object")
        return {name: _convert(inner[1], item, _at(key, name)) for name, item in value.items()}
    if dataclasses.is_dataclass(hint):
        return build(hint, value, key)  # type: ignore[arg-type]
    if hint is float and type(value) in (int, float) and is_finite(value):
        return float(value)
    if hint is not float and type(value) is hint:
        return value
    raise Bad(key, value, _WORDS[hint])


def _convert_list(inner: tuple[Any, ...], value: Any, key: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise Bad(key, value, "a list")
    if inner[-1] is Ellipsis:
        if inner[0] is float and all(type(item) is float for item in value) and all(map(math.isfinite, value)):
            return tuple(value)  # most of a file is such numbers
        return tuple(_convert(inner[0], item, f"{key}[{i}]") for i, item in enumerate(value))
    if len(value) != len(inner):
        raise Bad(key, value, f"a list of {len(inner)} values")
    return tuple(_convert(hint, item, f"{key}[{i}]") for i, (hint, item) in enumerate(zip(inner, value, strict=True)))
