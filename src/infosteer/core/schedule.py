"""Strength as a function of the optimizer step."""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

from infosteer.core.config import is_finite
from infosteer.errors import ConfigError

SHAPES = ("linear", "cosine", "hold")
UNITS = ("step", "fraction")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """Piecewise strength s(t) through given points.

    Formula: with neighbouring points (t0, s0), (t1, s1) and u = (t - t0) / (t1 - t0),
    ``linear``: s0 + u (s1 - s0); ``cosine``: s0 + (1 - cos(pi u)) / 2 (s1 - s0); ``hold``: s0.
    Before the first point s is the first value, after the last point the last.

    Args:
        points: pairs (t, s), t strictly increasing. t counts optimizer steps (``unit="step"``, 0 is the first step) or
            the share of training that is done (``unit="fraction"``, 0 to 1; needs the total number of steps).
        shape: how s moves between two points.
        unit: what t counts.

    Raises:
        ConfigError: points that are not increasing, a fraction outside 0..1, an unknown shape or unit.
    """

    points: tuple[tuple[float, float], ...]
    shape: str = "linear"
    unit: str = "step"

    def __post_init__(self) -> None:
        points = _as_points(self.points)
        object.__setattr__(self, "points", points)
        for name, value, known in (("shape", self.shape, SHAPES), ("unit", self.unit, UNITS)):
            if value not in known:
                raise ConfigError("unknown schedule setting", where=f"strength.{name}", got=value, expected=known)
        times = [t for t, _ in points]
        if any(later <= earlier for earlier, later in itertools.pairwise(times)):
            raise ConfigError(
                "schedule points must have strictly increasing times", where="strength.points", got=list(points)
            )
        if self.unit == "fraction" and not all(0 <= t <= 1 for t in times):
            raise ConfigError("times of a fraction schedule lie in 0..1", where="strength.points", got=list(points))

    def at(self, step: int, total_steps: int | None = None) -> float:
        """Strength at ``step``; ``total_steps`` is needed by fraction schedules."""
        t = float(step)
        if self.unit == "fraction":
            if step > 0 and not total_steps:
                raise ConfigError(
                    "a schedule over the fraction of training needs the number of steps",
                    where="strength.unit",
                    fix="pass total_steps= to infosteer.steer, or use unit: step",
                )
            t = min(step / max((total_steps or 0) - 1, 1), 1.0)
        times = [time for time, _ in self.points]
        right = bisect.bisect_right(times, t)
        if right == 0:
            return self.points[0][1]
        if right == len(times):
            return self.points[-1][1]
        (t0, s0), (t1, s1) = self.points[right - 1], self.points[right]
        u = (t - t0) / (t1 - t0)
        if self.shape == "hold":
            return s0
        if self.shape == "cosine":
            u = (1 - math.cos(math.pi * u)) / 2
        return s0 + u * (s1 - s0)

    @property
    def ever_positive(self) -> bool:
        """Whether s is above 0 at any point."""
        return any(s > 0 for _, s in self.points)

    def to_config(self) -> dict[str, object]:
        """The mapping that a recipe would hold."""
        return {"points": [list(point) for point in self.points], "shape": self.shape, "unit": self.unit}


def as_strength(value: object) -> float | Schedule:
    """Reads a strength: a number >= 0, a Schedule, or a mapping with the fields of a Schedule.

    Raises:
        ConfigError: anything else.
    """
    if isinstance(value, Schedule):
        return value
    if isinstance(value, Mapping):
        unknown = set(value) - {field.name for field in dataclasses.fields(Schedule)}
        if unknown or "points" not in value:
            raise ConfigError(
                "a strength schedule has the keys points, shape and unit", where="strength", got=dict(value)
            )
        return Schedule(**value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not is_finite(value) or value < 0:
        raise ConfigError(
            "strength must be a number >= 0 or a schedule",
            where="strength",
            got=value,
            expected="for example 1.0, or {points: [[0, 0.0], [100, 1.0]]}",
        )
    return float(value)


def _as_points(points: object) -> tuple[tuple[float, float], ...]:
    problem = ConfigError(
        "schedule points are pairs [time, strength] of numbers, strength >= 0",
        where="strength.points",
        got=points,
        expected="for example [[0, 0.0], [100, 1.0]]",
    )
    if not isinstance(points, Sequence) or isinstance(points, str) or not points:
        raise problem
    pairs: list[tuple[float, float]] = []
    for point in points:
        if not isinstance(point, Sequence) or isinstance(point, str) or len(point) != 2:
            raise problem
        if any(isinstance(x, bool) or not isinstance(x, (int, float)) or not is_finite(x) for x in point):
            raise problem
        if point[1] < 0:
            raise problem
        pairs.append((float(point[0]), float(point[1])))
    return tuple(pairs)
