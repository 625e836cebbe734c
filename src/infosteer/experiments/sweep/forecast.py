"""What a sweep will take, without doing any of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from infosteer.experiments.sweep.folder import SweepDir
from infosteer.experiments.sweep.plan import Plan, distinct
from infosteer.experiments.sweep.reporter import SweepReporter
from infosteer.experiments.sweep.settings import Range
from infosteer.experiments.sweep.watch import Watch


def describe(plan: Plan) -> dict[str, str]:
    """A sweep in words, for the preview of its recipe."""
    sweep = plan.sweep
    varies = {key: ", ".join(_shown(value) for value in values) for key, values in (sweep.grid or {}).items()}
    for key, of in (sweep.random or {}).items():
        span = f"{of.low:g} to {of.high:g}" if isinstance(of, Range) else ", ".join(map(_shown, of))
        varies[key] = f"{sweep.trials} draws of {span}"
    cells = ", ".join(f"{arm} {len(found)}" for arm, found in plan.cells.items())
    lines = {"varies": "; ".join(f"{key}: {values}" for key, values in varies.items()) or "nothing", "cells": cells}
    if sweep.tune is not None:
        budget = ", ".join(f"{arm} {count}" for arm, count in plan.budget().items())
        lines["tuning trials"] = (
            f"{budget} on seeds {', '.join(map(str, sweep.tune.seeds))}, by {' + '.join(sweep.tune.metrics)}"
        )
    return {**lines, "trials": f"{len(distinct(plan.tuning)) + plan.final_count()} different ones"}


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def forecast(plan: Plan, path: Path, *, workers: int | None = None) -> dict[str, Any]:
    """Trials by arm and phase, and the expected time, read off trials that the folder already has.

    Returns: ``folder``, ``cells`` (by arm), ``tuning_trials`` (by arm), ``trials`` (all different ones), ``done``,
        ``workers`` and ``minutes_left`` (None before a trial was timed).
    """
    count = workers or plan.sweep.workers
    watch = Watch(plan, SweepDir(path), SweepReporter(), count)
    seconds = watch.seconds_left()
    return {
        "folder": str(path),
        "cells": {arm: len(cells) for arm, cells in plan.cells.items()},
        "tuning_trials": plan.budget(),
        "final_trials": plan.final_count(),
        "trials": watch.total,
        "done": watch.done,
        "workers": count,
        "minutes_left": None if seconds is None else round(seconds / 60, 1),
    }
