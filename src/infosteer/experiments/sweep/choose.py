"""Which cell each arm gets: the best mean of the tuning metric over the tuning seeds, the first one on a tie."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from infosteer.experiments.judge import add_stored
from infosteer.experiments.sweep.cells import Cell, canonical
from infosteer.experiments.sweep.checks import lower_is_better
from infosteer.experiments.sweep.folder import SweepDir, check_metric
from infosteer.experiments.sweep.plan import Plan, Row


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """One arm's cell with its tuning scores, one a seed; None where the trial failed."""

    arm: str
    cell: Cell
    scores: dict[int, float | None]

    @property
    def mean(self) -> float | None:
        """The mean over all tuning seeds; None when one failed."""
        values = [value for value in self.scores.values() if value is not None]
        return math.fsum(values) / len(values) if len(values) == len(self.scores) else None


def candidates(plan: Plan, folder: SweepDir) -> list[Candidate] | None:
    """The tuning table, or None while a trial is missing.

    Raises: ConfigError when the evaluation lacks the tuning metric.
    """
    found: dict[str, Candidate] = {}
    for row in plan.tuning:
        stamp = _read_score(plan, row, folder)
        if stamp is None:
            return None
        key = canonical([row.arm, row.cell])
        candidate = found.setdefault(key, Candidate(arm=row.arm, cell=row.cell, scores={}))
        candidate.scores[row.seed] = folder.scores[stamp]
    order = {canonical([arm, cell]): None for arm in plan.recipe.arms for cell in plan.cells[arm]}
    return [found[key] for key in order if key in found]


def _read_score(plan: Plan, row: Row, folder: SweepDir) -> tuple[str, str, int] | None:
    """Read a tuning score, once, into the folder's memory. Returns: where it stands there; None while it is missing."""
    written = folder.written(row.trial)
    stamp = row.trial.key, row.base.key if row.base else "", written or 0
    if written is not None and stamp not in folder.scores:
        outcome = outcome_of_row(row, folder)
        tune = plan.sweep.tune
        if outcome is None or tune is None:
            return None
        check_metric(outcome, tune.metrics, "sweep.tune.metric")
        folder.scores[stamp] = score(outcome, tune.metrics)
    return stamp if stamp in folder.scores else None


def outcome_of_row(row: Row, folder: SweepDir) -> dict[str, Any] | None:
    """A row's outcome under the arm's own name, with utilisation where the base was asked; None while it is missing."""
    outcome = folder.outcome(row.trial)
    if outcome is None:
        return None
    if outcome["status"] == "finished" and row.base is not None:
        base = folder.outcome(row.base)
        if base is None:
            return None
        add_stored(outcome, base.get("stored", {}))
    return {**outcome, "arm": row.name}


def score(outcome: Mapping[str, Any], metrics: tuple[str, ...]) -> float | None:
    """The mean of the metrics of a finished trial."""
    if outcome["status"] != "finished":
        return None
    return math.fsum(float(outcome["metrics"][metric]) for metric in metrics) / len(metrics)


def choose(plan: Plan, table: list[Candidate]) -> dict[str, Candidate]:
    """Arm -> its best cell; an arm all of whose cells failed has none.

    Under ``per_arm: false`` all arms have the baseline's.
    """
    tune = plan.sweep.tune
    assert tune is not None
    sign = -1.0 if lower_is_better(tune.metrics[0]) else 1.0
    best: dict[str, Candidate] = {}
    for candidate in table:
        mean = candidate.mean
        if mean is None:
            continue
        held = best.get(candidate.arm)
        if held is None or held.mean is None or sign * mean > sign * held.mean:
            best[candidate.arm] = candidate
    if tune.per_arm:
        return {arm: best[arm] for arm in plan.recipe.arms if arm in best}
    return {arm: best[plan.baseline] for arm in plan.recipe.arms if plan.baseline in best}


def chosen_cells(plan: Plan, folder: SweepDir) -> dict[str, Cell] | None:
    """Arm -> chosen cell, or None while tuning is not done; without tuning there is nothing to choose: empty."""
    if plan.sweep.tune is None:
        return {}
    table = candidates(plan, folder)
    return None if table is None else {arm: found.cell for arm, found in choose(plan, table).items()}
