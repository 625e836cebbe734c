"""What one model did on one set, as every consumer reads it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class SetResult:
    """What one model did on one set.

    Attributes:
        name: the set's name; metrics are called ``<name>/<measure>``.
        n: number of examples.
        measures: mean of each measure; shares in [0, 1], nats or bits.
        per_example: each measure for each example, in the set's order; their mean is the measure. NaN where an example
            could not be scored. A measure of the set as a whole (calibration_error) has one value.
        samples: a few examples {"prompt", "answer", "prediction", "correct"}, the same ones for every model.
        failures: counts of "no_answer" (none could be read from the prediction; "no_answer_strict" by the strict rule),
            "unfinished" (stopped by the limit of new tokens) and "too_long" (the model's context holds no room).
        settings: how it was scored, enough to repeat it.
        rows: what was decoded and read for every example, in the set's order; empty where nothing was decoded.
    """

    name: str
    n: int
    measures: dict[str, float]
    per_example: dict[str, list[float]]
    samples: list[dict[str, Any]]
    failures: dict[str, int]
    settings: dict[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list, repr=False)
