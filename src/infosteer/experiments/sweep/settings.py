"""The ``sweep`` section of a recipe: which settings are tried, and what is done with them.

Imports nothing heavy and no other part of the sweep: ``experiments.recipe`` reads it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from infosteer.training.settings import setting

MAX_TRIALS = 10_000  # more is a mistake in a grid


@dataclass(frozen=True, kw_only=True, slots=True)
class Range:
    """What a random search draws a number from. A list in the recipe is a choice between its values instead."""

    low: float = field(metadata={"help": "smallest value"})
    high: float = field(metadata={"help": "largest value"})
    log: bool = setting(False, "draw the logarithm evenly instead of the value")
    whole: bool = setting(False, "round to whole numbers")


@dataclass(frozen=True, kw_only=True, slots=True)
class Tune:
    """Choose every arm's cell on seeds of its own before the final trainings."""

    seeds: tuple[int, ...] = field(metadata={"help": "seeds of the tuning trials; none of them may be a final seed"})
    metric: str | tuple[str, ...] = field(
        metadata={"help": "`<set>/<measure>` that chooses, or a list whose mean does; ties go to the first cell"}
    )
    sets: dict[str, str | dict[str, Any]] = field(
        default_factory=dict,
        metadata={
            "help": "sets that tuning evaluates, each with its changes to `evaluate`, e.g. `{id: {limit: 100}}`, or "
            "sets of its own; empty means those of `metric` as they are"
        },
    )
    per_arm: bool = setting(True, "tune every arm; false tunes the baseline, and all arms take its cell")
    unequal_budget: bool = setting(False, "let arms have different numbers of tuning trials; the results say so")

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics whose mean chooses, one or many."""
        return (self.metric,) if isinstance(self.metric, str) else self.metric


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepSettings:
    """Cells x arms x seeds; with ``tune`` the best cell of each arm, else all of them."""

    grid: dict[str, tuple[Any, ...]] | None = field(
        default=None,
        metadata={
            "help": "dotted key -> values; the cells are all combinations. A key under `arms.NAME` concerns that arm "
            "alone"
        },
    )
    random: dict[str, tuple[Any, ...] | Range] | None = field(
        default=None,
        metadata={
            "help": "dotted key -> range or choices to draw from, `trials` times; with a grid too, for each of its "
            "cells"
        },
    )
    trials: int | None = setting(None, "number of draws of `random`", minimum=1)
    seed: int = setting(0, "seed of the draws", minimum=0)
    tune: Tune | None = field(
        default=None, metadata={"help": "choose a cell for every arm first; null runs every cell on every seed"}
    )
    primary: str | tuple[str, ...] | None = setting(
        None, "metrics named beforehand: their p-values are corrected among themselves; null means `tune.metric`"
    )
    ceiling: float | None = setting(
        2.0,
        "arms are not ranked on a share where the baseline is within so many points of 100; null ranks always",
        minimum=0.0,
        maximum=100.0,
    )
    workers: int = setting(1, "processes on this machine; each gets its share of the cores", minimum=1, maximum=1024)

    @property
    def keys(self) -> tuple[str, ...]:
        """All dotted keys that vary."""
        return (*(self.grid or {}), *(self.random or {}))

    @property
    def primaries(self) -> tuple[str, ...]:
        """The metrics named beforehand."""
        if self.primary is None:
            return self.tune.metrics if self.tune else ()
        return (self.primary,) if isinstance(self.primary, str) else self.primary
