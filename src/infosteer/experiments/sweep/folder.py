"""A sweep's folder: the contract between all processes and machines that work on it.

``recipe.yaml`` is the resolved recipe, ``trials/<address>/`` a run folder for each different trial, ``results.json``
and ``trials.parquet`` what all of them say together. A trial is done when its outcome file is there; it is claimed by a
lock that the system gives up when the process ends.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infosteer.errors import ConfigError, RunError
from infosteer.experiments.base import base_outcome
from infosteer.experiments.bench import Bench, failed_outcome
from infosteer.experiments.recipe import BASE_ARM, Recipe
from infosteer.experiments.rundir import RunDir, check_same, disk_errors, disk_full, refuse_strangers, write_recipe
from infosteer.experiments.sweep.plan import Trial


class SweepDir:
    """The folder of one sweep."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.scores: dict[tuple[str, str, int], float | None] = {}  # tuning scores by trial, base and time of writing

    @property
    def recipe_file(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def results_file(self) -> Path:
        return self.path / "results.json"

    @property
    def trials_file(self) -> Path:
        return self.path / "trials.parquet"

    def trial(self, trial: Trial) -> RunDir:
        """The run folder of a trial."""
        return RunDir(self.path / "trials" / trial.key)

    def open(self, recipe: Recipe, *, update: bool = False) -> None:
        """Create or reopen the folder; several processes may have it open.

        Args:
            update: take this recipe where the folder was made by another; trials that both have are kept.

        Raises: RunError for a folder that holds something else, or was made by a different recipe.
        """
        refuse_strangers(self.path, self.recipe_file)
        with disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        config = recipe.to_config()
        if self.recipe_file.is_file() and not update:
            fix = "choose another --output, or go on with the new recipe by --update: equal trials are kept"
            check_same(self.recipe_file, _without_workers(config), fix=fix, of=_without_workers)
        else:
            write_recipe(self.recipe_file, config)

    def done(self, trial: Trial) -> bool:
        """Whether the trial has an outcome, good or bad."""
        return self.trial(trial).outcome_file(trial.arm, trial.seed).is_file()

    def written(self, trial: Trial) -> int | None:
        """When the trial's outcome was written, in nanoseconds; None where there is none."""
        try:
            return self.trial(trial).outcome_file(trial.arm, trial.seed).stat().st_mtime_ns
        except OSError:
            return None

    def outcome(self, trial: Trial) -> dict[str, Any] | None:
        """The trial's outcome, or None.

        Raises: RunError for a file that is damaged, or that was made when a default was another.
        """
        folder = self.trial(trial)
        outcome = folder.read_outcome(trial.arm, trial.seed)
        if outcome is not None and "settings" in outcome:
            conflict = _conflict(outcome["settings"], trial.recipe.settings_of(trial.arm))
            if conflict:
                raise RunError(
                    "This trial was made by a version with other defaults.",
                    where=folder.path,
                    got=conflict,
                    fix="delete the trial's folder, which does it again, or state the old value in the recipe",
                )
        return outcome

    def finished(self, trial: Trial) -> dict[str, Any] | None:
        """The trial's outcome where it came to its end, else None."""
        outcome = self.outcome(trial)
        return outcome if outcome is not None and outcome["status"] == "finished" else None

    def forget_failure(self, trial: Trial) -> None:
        """Let a trial that failed be tried again, unless a process is at it."""
        outcome = self.outcome(trial)
        if outcome is None or outcome["status"] != "failed":
            return
        folder = self.trial(trial)
        if folder.claim(trial.recipe):
            with contextlib.closing(folder), contextlib.suppress(FileNotFoundError):
                folder.outcome_file(trial.arm, trial.seed).unlink()

    def give_up(self, trial: Trial, reason: RunError) -> None:
        """Record a trial as failed whose process died, unless another process is at it."""
        folder = self.trial(trial)
        if folder.claim(trial.recipe):
            with contextlib.closing(folder):
                if not self.done(trial):
                    folder.write_outcome({**failed_outcome(trial.arm, trial.seed, reason), "ran": lost()})


def _conflict(before: Any, now: Any, path: str = "") -> str | None:
    """The first setting that both have, and have differently."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        pairs = [(f"{path}.{key}".lstrip("."), before[key], now[key]) for key in before if key in now]
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        pairs = [(f"{path}[{index}]", *pair) for index, pair in enumerate(zip(before, now, strict=True))]
    else:
        return None if before == now else f"{path}: {before}, now {now}"
    return next((found for where, old, new in pairs if (found := _conflict(old, new, where))), None)


def _without_workers(config: Mapping[str, Any]) -> dict[str, Any]:
    """A resolved recipe without what may change from machine to machine."""
    sweep = config.get("sweep")
    return {**config, "sweep": {**sweep, "workers": None}} if isinstance(sweep, Mapping) else dict(config)


def do_trial(folder: RunDir, trial: Trial, bench: Bench) -> bool:
    """Do a trial, and record its outcome, also when it fails; False, at once, when another process is at it.

    Raises: RunError where nothing can be recorded: a full disk, a folder that cannot be written.
    """
    if not folder.claim(trial.recipe):
        return False
    with contextlib.closing(folder):
        if not folder.outcome_file(trial.arm, trial.seed).is_file():
            folder.write_outcome(measure(folder, trial, bench))
    return True


def measure(folder: RunDir, trial: Trial, bench: Bench) -> dict[str, Any]:
    """The outcome of a trial, finished or failed, with the time it took and where.

    Raises: RunError for a full disk.
    """
    import torch

    started = time.monotonic()
    try:
        if trial.arm == BASE_ARM:
            outcome = base_outcome(trial.recipe, bench.sets(trial.recipe), progress=bench.evaluating)
        else:
            found = bench.train(trial.recipe, trial.arm, trial.seed, folder)
            assert found is not None, "a sweep's processes do not train together"
            outcome = found
        json.dumps(outcome, allow_nan=False)  # a measure that is not a number fails the trial, not the sweep
    except Exception as error:
        if disk_full(error):
            raise
        folder.log({"event": "failed", "arm": trial.arm, "seed": trial.seed, "error": traceback.format_exc()})
        outcome = failed_outcome(trial.arm, trial.seed, error)
    ran = {
        "seconds": round(time.monotonic() - started, 3),
        "threads": torch.get_num_threads(),
        "host": platform.node(),
        "process": os.getpid(),
    }
    return {**outcome, "ran": ran}


def lost() -> dict[str, Any]:
    """What is said of where a trial ran that did not come back."""
    return {"seconds": None, "threads": None, "host": platform.node(), "process": None}


def check_metric(outcome: dict[str, Any] | None, metrics: tuple[str, ...], where: str) -> None:
    """Raises: ConfigError when a finished tuning trial lacks a metric that is to choose."""
    if outcome is None or outcome["status"] != "finished":
        return
    for metric in metrics:
        if metric not in outcome["metrics"]:
            raise ConfigError(
                "The evaluation has no such measure.",
                where=where,
                got=metric,
                expected=", ".join(outcome["metrics"]),
                fix="correct it and go on with --update: trials are kept",
            )
