"""Recipes in parts: one file that stands for many recipes, all combinations of the values of its axes.

    parts:
      model: {small: {model: Qwen/Qwen2.5-1.5B}, large: {model: Qwen/Qwen2.5-7B, train: {dtype: bfloat16}}}
      task: {boolq: {data: {train: ...}, evaluate: {boolq: ...}}, piqa: {...}}

Each part is the rest of the file with one value of every axis put in, and is called after them: ``small/boolq``.
"""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infosteer.core.config import nearest
from infosteer.errors import ConfigError
from infosteer.experiments.library import put_over
from infosteer.experiments.recipe import Recipe, prepared, recipe_from
from infosteer.experiments.schema import build
from infosteer.experiments.source import Source, parse_recipe

KEYS = ("parts", "only", "reproduces")
MODEL = "model"  # the axis on which any model may stand
MAX_PARTS = 1000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Reproduces:
    """The published table that a recipe's results are set beside."""

    paper: str = field(metadata={"help": "its arXiv number, in quotes"})
    table: int = field(metadata={"help": "the table's number"})
    rows: dict[str, str] = field(
        default_factory=dict, metadata={"help": "arm -> the table's row, where they are not called the same"}
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class PartsSettings:
    """The keys that only a recipe in parts has."""

    parts: dict[str, dict[str, dict[str, Any]]] = field(
        metadata={"help": "axis -> name -> keys that this part has otherwise; the parts are all combinations"}
    )
    only: dict[str, str | tuple[str, ...]] = field(
        default_factory=dict, metadata={"help": "axis -> the value, or values, to take instead of all"}
    )
    reproduces: Reproduces | None = field(
        default=None, metadata={"help": "the published table that `table.md` sets the results beside"}
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One recipe of many. ``place`` is its value on every axis."""

    name: str
    place: dict[str, str]
    recipe: Recipe = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """A recipe in parts, checked: those chosen, in order."""

    name: str
    axes: tuple[str, ...]
    reproduces: Reproduces | None
    chosen: tuple[Part, ...]


def parts_of(data: Mapping[str, Any], source: Source, folder: Path, overrides: Sequence[str] = ()) -> Parts:
    """The parts of a recipe's plain data.

    Args:
        overrides: ``key=value`` changes to every part. Where the key is an axis, the value names the parts to take, one
            or a list; on the axis ``model`` it may also be a folder or a hub id that the recipe does not name.

    Raises: ConfigError for axes that cannot be meant, values that they do not have, and whatever is wrong with a part.
    """
    settings = build(PartsSettings, {key: data[key] for key in KEYS if key in data}, (), source)
    axes = {axis: dict(values) for axis, values in settings.parts.items()}
    only = {axis: (v,) if isinstance(v, str) else v for axis, v in settings.only.items()}
    places = {axis: source.at(("only", axis)) for axis in only}
    others = []
    for override in overrides:
        key, equals, text = override.partition("=")
        if equals and key.strip() in axes:
            value = parse_recipe(text, f"override {key}")[0]
            only[key.strip()] = tuple(map(str, value)) if isinstance(value, list) else (str(value),)
            places[key.strip()] = f"override {key.strip()}"
        else:
            others.append(override)
    _check(axes, source)
    for axis, names in only.items():
        axes[axis] = _chosen(axis, names, axes, places[axis])
    combinations = list(itertools.product(*(values.items() for values in axes.values())))
    if len(combinations) > MAX_PARTS:
        raise ConfigError("A recipe has too many parts.", where=source.at(("parts",)), got=len(combinations))
    rest = {key: value for key, value in data.items() if key not in KEYS}
    name = str(rest.get("name") or "run")
    found = []
    for combination in combinations:
        one: dict[str, Any] = copy.deepcopy(rest)
        for _, changes in combination:
            one = put_over(one, copy.deepcopy(changes))
        part = "/".join(value for value, _ in combination)
        one["name"] = f"{name}/{part}"
        try:
            recipe = recipe_from(prepared(one, others), source, folder)
        except ConfigError as error:
            where = f"{error.where}, in the part {part}"
            raise ConfigError(error.what, where=where, got=error.got, expected=error.expected, fix=error.fix) from None
        if recipe.sweep is not None:
            raise ConfigError("A recipe in parts cannot be a sweep.", where=source.at(("sweep",)))
        place = {axis: value for axis, (value, _) in zip(axes, combination, strict=True)}
        found.append(Part(name=part, place=place, recipe=recipe))
    return Parts(name=name, axes=tuple(axes), reproduces=settings.reproduces, chosen=tuple(found))


def covering(parts: Parts) -> tuple[Part, ...]:
    """As few of the chosen parts as have every value of every axis."""
    seen: set[tuple[str, str]] = set()
    kept = []
    by_place = {tuple(part.place.values()): part for part in parts.chosen}
    values = [list(dict.fromkeys(part.place[axis] for part in parts.chosen)) for axis in parts.axes]
    for index in range(max(map(len, values))):
        part = by_place[tuple(names[index % len(names)] for names in values)]
        if new := set(part.place.items()) - seen:
            seen |= new
            kept.append(part)
    return tuple(kept)


def _check(axes: Mapping[str, Mapping[str, Any]], source: Source) -> None:
    if not axes:
        raise ConfigError("parts needs at least one axis.", where=source.at(("parts",)))
    for axis, values in axes.items():
        if not values:
            raise ConfigError("This axis has no values.", where=source.at(("parts", axis)))
        for value, changes in values.items():
            if not _NAME.fullmatch(value):
                raise ConfigError(
                    "This name cannot be a folder's name.", where=source.at(("parts", axis, value)), got=value
                )
            if inner := [key for key in (*KEYS, "name", "extends", "sweep") if key in changes]:
                raise ConfigError("A part cannot have this key.", where=source.at(("parts", axis, value)), got=inner[0])


def _chosen(
    axis: str, names: Sequence[str], axes: Mapping[str, Mapping[str, dict[str, Any]]], where: str
) -> dict[str, dict[str, Any]]:
    if axis not in axes or not names:
        close = nearest(axis, axes)
        raise ConfigError(
            "There is no such axis." if axis not in axes else "No part is chosen.",
            where=where,
            expected=", ".join(axes),
            fix=f"did you mean {close!r}?" if close else None,
        )
    found = {}
    for name in names:
        if name in axes[axis]:
            found[name] = axes[axis][name]
        elif axis == MODEL and _is_model(name):
            found[_slug(name)] = {"model": name}
        else:
            close = nearest(name, axes[axis])
            raise ConfigError(
                f"The axis {axis} has no such value.",
                where=where,
                got=name,
                expected=", ".join(axes[axis]) + (", a folder with a model, or a hub id" if axis == MODEL else ""),
                fix=f"did you mean {close!r}?" if close else None,
            )
    return found


def _is_model(name: str) -> bool:
    return "/" in name or name.partition(":")[0] == "embedded" or Path(name).expanduser().is_dir()


def _slug(model: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.+-]+", "-", model.rstrip("/").rpartition("/")[2]).strip("-.") or "model"
