"""What a sweep will take, without doing any of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from infosteer.experiments.sweep.folder import SweepDir
from infosteer.experiments.sweep.plan import Plan
from infosteer.experiments.sweep.reporter import SweepReporter
from infosteer.experiments.sweep.watch import Watch


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
