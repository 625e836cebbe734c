"""Watching a sweep's folder: what was done since the last look, by any process, and how long the rest will take."""

from __future__ import annotations

import math
from collections.abc import Sequence

from infosteer.experiments.recipe import BASE_ARM
from infosteer.experiments.sweep.cells import label
from infosteer.experiments.sweep.choose import candidates, choose
from infosteer.experiments.sweep.folder import SweepDir
from infosteer.experiments.sweep.plan import TUNE, Plan, Row, Trial, distinct
from infosteer.experiments.sweep.reporter import Progress, SweepReporter


class Watch:
    """Tells the reporter of every trial once.

    Args:
        at_once: trials that run at the same time, for the expected time to the end.
    """

    def __init__(self, plan: Plan, folder: SweepDir, reporter: SweepReporter, at_once: int) -> None:
        self.plan, self.folder, self.reporter, self.at_once = plan, folder, reporter, at_once
        self.timed: list[tuple[float, float]] = []  # work and seconds of finished trials
        self._open: dict[str, tuple[Trial, str]] = {}
        self._seen: set[str] = set()
        self._later = plan.final_count() if plan.tuning else 0  # final trials whose cells are not chosen yet
        self._later_work = 0.0
        self._add(plan.tuning or plan.final())
        if plan.tuning:
            self._later_work = self._later * max(work_of(trial) for trial in distinct(plan.tuning))
        self.look(tell=False)

    @property
    def done(self) -> int:
        return len(self._seen)

    @property
    def total(self) -> int:
        return len(self._seen) + len(self._open) + self._later

    def look(self, *, tell: bool = True) -> None:
        """Tell of the trials that were done since the last look."""
        for key, (trial, what) in list(self._open.items()):
            if not self.folder.done(trial):
                continue
            outcome = self.folder.outcome(trial)
            if outcome is None:
                continue
            del self._open[key]
            self._seen.add(key)
            if outcome["status"] == "finished" and trial.arm != BASE_ARM:
                self.timed.append((work_of(trial), outcome["ran"]["seconds"]))
            if tell:
                progress = Progress(done=self.done, total=self.total, seconds_left=self.seconds_left())
                self.reporter.trial_done(what=what, outcome=outcome, progress=progress)
        if self._later and not self._open:
            self._choose(tell=tell)

    def seconds_left(self) -> float | None:
        """Expected time to the end: the work that is left at the speed so far."""
        if not self.timed:
            return None
        works = [work_of(trial) for trial, _ in self._open.values() if trial.arm != BASE_ARM]
        trials, work = len(works) + self._later, sum(works) + self._later_work
        fixed, each = fit(self.timed)
        return (fixed * trials + each * work) / self.at_once

    def _choose(self, *, tell: bool) -> None:
        table = candidates(self.plan, self.folder)
        if table is None:
            return
        best = choose(self.plan, table)
        self._later, self._later_work = 0, 0.0
        for arm in self.plan.recipe.arms if tell else ():
            found = best.get(arm)
            self.reporter.chosen(arm=arm, cell=label(found.cell) if found else "", score=found.mean if found else None)
        self._add(self.plan.final({arm: found.cell for arm, found in best.items()}))
        self.look(tell=False)  # what an earlier session has done is no news

    def _add(self, rows: Sequence[Row]) -> None:
        names = {row.trial.key: _what(row) for row in reversed(rows)}
        for trial in distinct(rows):
            if trial.key not in self._seen:
                self._open[trial.key] = trial, names.get(trial.key, "the model before training")


def work_of(trial: Trial) -> float:
    """How much a trial trains, in optimiser steps or, where they are not given, in epochs."""
    train = trial.recipe.train
    return float(train.max_steps) if train.max_steps > 0 else train.num_train_epochs


def fit(timed: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Seconds as ``fixed + each * work`` by least squares, neither below 0."""
    n = len(timed)
    mean_work = math.fsum(work for work, _ in timed) / n
    mean_seconds = math.fsum(seconds for _, seconds in timed) / n
    spread = math.fsum((work - mean_work) ** 2 for work, _ in timed)
    if spread <= 0:
        return mean_seconds, 0.0
    each = math.fsum((work - mean_work) * (seconds - mean_seconds) for work, seconds in timed) / spread
    each = min(max(each, 0.0), mean_seconds / mean_work)
    return mean_seconds - each * mean_work, each


def _what(row: Row) -> str:
    cell = f" {label(row.cell)}" if row.cell and row.name == row.arm else ""
    return f"{'tuning ' if row.phase == TUNE else ''}{row.name}{cell}, seed {row.seed}"
