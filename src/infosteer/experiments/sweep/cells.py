"""Cells: the settings that a sweep tries, by dotted key, as each arm sees them."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Iterable, Mapping
from typing import Any

from infosteer.core.config import nearest
from infosteer.errors import ConfigError
from infosteer.experiments.recipe import Recipe
from infosteer.experiments.source import Source
from infosteer.experiments.sweep.settings import Range, SweepSettings

Cell = dict[str, Any]  # dotted key -> value
_MAY_VARY = ("model", "train", "data", "arms")


def check_keys(recipe: Recipe, sweep: SweepSettings, source: Source) -> None:
    """Refuse what no sweep can mean: unknown sections and arms, empty lists, repeated values, numbers that are none.

    Raises: ConfigError with the key's line.
    """
    if sweep.random and sweep.trials is None:
        raise ConfigError("A random search needs a number of draws.", where=source.at(("sweep", "trials")), got=None)
    if sweep.trials is not None and not sweep.random:
        raise ConfigError("There is nothing to draw.", where=source.at(("sweep", "trials")), expected="sweep.random")
    for section, found in (("grid", sweep.grid), ("random", sweep.random)):
        if found is not None and not found:
            raise ConfigError("Nothing varies here.", where=source.at(("sweep", section)), fix="leave the key out")
        for key, values in (found or {}).items():
            where = source.at(("sweep", section, key))
            if section == "random" and key in (sweep.grid or {}):
                raise ConfigError("This key is in the grid too.", where=where)
            _check_root(key, recipe, where)
            if isinstance(values, Range):
                _check_range(values, where)
            else:
                _check_values(values, where)


def arm_of(key: str, arms: Iterable[str]) -> str | None:
    """The arm that a dotted key belongs to; None for a key of all arms. Names may hold dots."""
    if not key.startswith("arms."):
        return None
    rest = key.removeprefix("arms.")
    found = [arm for arm in arms if rest.startswith((f"{arm}.", f"{arm}["))]
    return max(found, key=len, default="")


def count_cells(sweep: SweepSettings, arm: str, arms: Iterable[str]) -> int:
    """How many cells an arm has at most, without making them."""
    grid, drawn = _relevant(sweep, arm, list(arms))
    return math.prod(len(values) for values in grid.values()) * (sweep.trials or 1 if drawn else 1)


def cells_of(sweep: SweepSettings, arm: str, arms: Iterable[str]) -> list[Cell]:
    """The cells of one arm: all combinations of the grid's values, each with each draw; keys of other arms left out.

    A draw depends on the sweep's seed, the key and its number alone, so that all arms get the same draws. Cells that
    come out alike (choices repeat) are one.
    """
    grid, drawn = _relevant(sweep, arm, list(arms))
    draws: list[Cell] = [{}]
    if drawn:
        draws = [{key: _draw(sweep.seed, key, n, of) for key, of in drawn.items()} for n in range(sweep.trials or 0)]
    combined = (dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values()))
    found = {canonical(cell | draw): cell | draw for cell in combined for draw in draws}
    return list(found.values())


def shared(cell: Cell) -> Cell:
    """The part of a cell that concerns all arms."""
    return {key: value for key, value in cell.items() if not key.startswith("arms.")}


def label(cell: Cell) -> str:
    """A cell in words: ``learning_rate=0.0002, fraction=0.1``; whole keys where their last parts are the same."""
    last = [key.rpartition(".")[2] for key in cell]
    names = [short if last.count(short) == 1 else key for key, short in zip(cell, last, strict=True)]
    return ", ".join(f"{name}={_short(value)}" for name, value in zip(names, cell.values(), strict=True))


def canonical(value: Any) -> str:
    """One text for one content."""
    return json.dumps(value, sort_keys=True, allow_nan=False)


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value)


def _relevant(
    sweep: SweepSettings, arm: str, arms: list[str]
) -> tuple[dict[str, tuple[Any, ...]], dict[str, tuple[Any, ...] | Range]]:
    def mine(key: str) -> bool:
        return arm_of(key, arms) in (None, arm)

    grid = {key: values for key, values in (sweep.grid or {}).items() if mine(key)}
    return grid, {key: of for key, of in (sweep.random or {}).items() if mine(key)}


def _draw(seed: int, key: str, number: int, of: tuple[Any, ...] | Range) -> Any:
    draw = random.Random(f"{seed}/{key}/{number}")
    if not isinstance(of, Range):
        return of[draw.randrange(len(of))]
    share = draw.random()
    if of.log:
        value = math.exp(math.log(of.low) + share * (math.log(of.high) - math.log(of.low)))
    else:
        value = of.low + share * (of.high - of.low)
    if of.whole:
        return min(max(round(value), math.ceil(of.low)), math.floor(of.high))
    return float(f"{value:.6g}")  # as people write it; the digits after these decide nothing


def _check_root(key: str, recipe: Recipe, where: str) -> None:
    root = key.replace("[", ".").partition(".")[0]
    if root not in _MAY_VARY:
        reasons = {
            "evaluate": "all cells are judged alike",
            "seeds": "name them under seeds and sweep.tune.seeds",
            "sweep": "a sweep is not swept",
        }
        close = nearest(root, _MAY_VARY)
        fix = reasons.get(root) or (f"did you mean {close!r}?" if close else None)
        raise ConfigError(
            "This key cannot vary in a sweep.", where=where, got=key, expected=", ".join(_MAY_VARY), fix=fix
        )
    if root == "arms" and not arm_of(key, recipe.arms):
        close = nearest(key.split(".")[1].partition("[")[0] if "." in key else key, recipe.arms)
        raise ConfigError(
            "This key names no arm, or the whole of one.",
            where=where,
            got=key,
            expected=f"arms.NAME[0].KEY, arms.NAME.train.KEY or arms.NAME.data.KEY of {', '.join(recipe.arms)}",
            fix=f"did you mean {close!r}?" if close else None,
        )


def _check_values(values: tuple[Any, ...], where: str) -> None:
    if not values:
        raise ConfigError("This key has no values to try.", where=where, got="[]", fix="leave the key out")
    for value in values:
        if _has_no_number(value):
            raise ConfigError("A value is not a finite number.", where=where, got=value)
    texts = [canonical(value) for value in values]
    twice = sorted({text for text in texts if texts.count(text) > 1})
    if twice:
        raise ConfigError("A value is there twice.", where=where, got=", ".join(twice))


def _check_range(of: Range, where: str) -> None:
    if of.low >= of.high:
        raise ConfigError("A range needs low < high.", where=where, got=f"low {of.low:g}, high {of.high:g}")
    if of.log and of.low <= 0:
        raise ConfigError("A logarithmic range must be above 0.", where=where, got=f"low {of.low:g}")
    if of.whole and math.ceil(of.low) > math.floor(of.high):
        raise ConfigError("There is no whole number in this range.", where=where, got=f"{of.low:g} to {of.high:g}")


def _has_no_number(value: Any) -> bool:
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, Mapping):
        return any(_has_no_number(item) for item in value.values())
    return any(_has_no_number(item) for item in value) if isinstance(value, list | tuple) else False
