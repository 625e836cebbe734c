"""A sweep's results.json: the schema of a run's, with the choice of cells, budgets, corrections and power beside it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from infosteer.experiments.contaminated import contamination_of, with_clean_part
from infosteer.experiments.environment import environment
from infosteer.experiments.recipe import BASE_ARM, BASE_SEED
from infosteer.experiments.results import QUICK_RESAMPLES, RESAMPLES, SCHEMA, base_notes, outcome_notes, scores_of
from infosteer.experiments.rundir import write_atomic
from infosteer.experiments.schema import to_plain
from infosteer.experiments.sweep.cells import canonical, label, shared
from infosteer.experiments.sweep.choose import Candidate, candidates, choose, outcome_of_row
from infosteer.experiments.sweep.folder import SweepDir
from infosteer.experiments.sweep.judged import judge
from infosteer.experiments.sweep.plan import FINAL, TUNE, Plan, Row, distinct
from infosteer.experiments.sweep.tidy import write_trials


def write_results(plan: Plan, folder: SweepDir) -> dict[str, Any]:
    """Rewrite results.json and trials.parquet from the outcomes that are there.

    Returns: the content of results.json.
    """
    table = candidates(plan, folder) if plan.sweep.tune else None
    best = choose(plan, table) if table is not None else None
    final = plan.final({arm: one.cell for arm, one in best.items()} if best is not None else None)
    found = [(row, kept) for row in [*plan.tuning, *final] if (kept := _kept(row, folder)) is not None]
    bases = {row.base.key: row.base for row, _ in found if row.base is not None}
    untrained = {key: outcome for key, trial in bases.items() if (outcome := folder.outcome(trial)) is not None}
    results = build_results(plan, final, found, untrained, table, best)
    write_atomic(folder.results_file, json.dumps(results, indent=1, allow_nan=False) + "\n")
    write_trials(folder.trials_file, plan, found, untrained, best)
    return results


def _kept(row: Row, folder: SweepDir) -> dict[str, Any] | None:
    """A row's outcome; of a tuning row, of which there may be thousands, without its examples."""
    outcome = outcome_of_row(row, folder)
    if outcome is not None and row.phase == TUNE:
        return {key: value for key, value in outcome.items() if key not in ("examples", "sets", "settings")}
    return outcome


def build_results(
    plan: Plan,
    final: Sequence[Row],
    found: Sequence[tuple[Row, Mapping[str, Any]]],
    untrained: Mapping[str, Mapping[str, Any]],
    table: Sequence[Candidate] | None,
    best: Mapping[str, Candidate] | None,
) -> dict[str, Any]:
    """What all outcomes of a sweep say.

    Args:
        final: the rows that results are made of, missing ones included.
        found: rows of tuning and final seeds with their outcomes, under the names of the rows.
        untrained: trial key -> outcome of evaluating the model before training.
        table, best: tuning scores and chosen cells; None before tuning is done, and without tuning.
    """
    from infosteer.evaluation import analyse

    missing = len(distinct([*plan.tuning, *final])) - len({row.trial.key for row, _ in found} | set(untrained))
    last = [(row, outcome) for row, outcome in found if row.phase == FINAL]
    finished = [(row, outcome) for row, outcome in last if outcome["status"] == "finished"]
    resamples = QUICK_RESAMPLES if missing else RESAMPLES
    used = {row.base.key for row, _ in finished if row.base is not None}
    before = [one for key, one in untrained.items() if key in used and one["status"] == "finished"]
    base = before[0] if len(before) == 1 else None  # models differ between cells: each has a base of its own
    base_scores = scores_of([BASE_ARM], [base] if base else [])
    judged = judge(plan, finished, resamples)
    scores = scores_of(dict.fromkeys(row.name for row, _ in finished), [outcome for _, outcome in finished])
    seen = with_clean_part(contamination_of(outcome for _, outcome in finished), scores, resamples=resamples)
    return {
        "schema": SCHEMA,
        "environment": environment(),
        "arms": [
            *({"arm": BASE_ARM, "seed": one["seed"], "metrics": one["metrics"]} for one in ([base] if base else [])),
            *(
                {"arm": row.name, "seed": row.seed, "metrics": outcome["metrics"], "trial": row.trial.key}
                for row, outcome in finished
            ),
        ],
        "summary": [
            *({**row, "n": 0} for row in analyse(base_scores, resamples=resamples)["summary"]),
            *judged["summary"],
        ],
        "comparisons": judged["comparisons"],
        "contamination": seen,
        "settings": _settings(finished),
        "failures": [
            *(
                {"arm": BASE_ARM, "seed": BASE_SEED, "phase": BASE_ARM, "cell": {}, "error": one["error"]}
                for one in untrained.values()
                if one["status"] == "failed"
            ),
            *(
                {"arm": row.name, "seed": row.seed, "phase": row.phase, "cell": row.cell, "error": outcome["error"]}
                for row, outcome in found
                if outcome["status"] == "failed"
            ),
        ],
        "notes": [*base_notes(base), *judged["notes"], *_notes(plan, finished, missing, best)],
        "sweep": {
            "keys": list(plan.sweep.keys),
            "baseline": plan.baseline,
            "primary": list(plan.sweep.primaries),
            "ceiling": plan.sweep.ceiling,
            "missing": missing,
            "tuning": _tuning(plan, table, best),
            "chosen": None if best is None else {arm: {"cell": c.cell, "score": c.mean} for arm, c in best.items()},
            "budget": _budget(plan, found),
        },
    }


def _settings(finished: Sequence[tuple[Row, Mapping[str, Any]]]) -> dict[str, Any]:
    return {row.name: {**outcome["settings"], "cell": row.cell} for row, outcome in finished}


def _tuning(
    plan: Plan, table: Sequence[Candidate] | None, best: Mapping[str, Candidate] | None
) -> dict[str, Any] | None:
    tune = plan.sweep.tune
    if tune is None:
        return None
    rows = [
        {
            "arm": one.arm,
            "cell": one.cell,
            "mean": one.mean,
            "scores": {str(seed): value for seed, value in one.scores.items()},
            "chosen": best is not None and best.get(one.arm) is one,
        }
        for one in table or []
    ]
    sets = {name: to_plain(settings) for name, settings in plan.tune_sets.items()}
    return {"metrics": list(tune.metrics), "seeds": list(tune.seeds), "sets": sets, "rows": rows}


def _budget(plan: Plan, found: Sequence[tuple[Row, Mapping[str, Any]]]) -> dict[str, dict[str, int]]:
    """Arm -> cells, trials and optimiser steps of each phase; a trial that two arms share counts for both."""
    budget = {arm: {"cells": len(cells)} for arm, cells in plan.cells.items()}
    seen = set()
    for row, outcome in found:
        counted = budget[row.arm]
        if (row.arm, row.trial.key) in seen:
            continue
        seen.add((row.arm, row.trial.key))
        counted[f"{row.phase}_trials"] = counted.get(f"{row.phase}_trials", 0) + 1
        steps = outcome["train"]["steps"] if outcome["status"] == "finished" else 0
        counted[f"{row.phase}_steps"] = counted.get(f"{row.phase}_steps", 0) + steps
    return budget


def _notes(
    plan: Plan,
    finished: Sequence[tuple[Row, Mapping[str, Any]]],
    missing: int,
    best: Mapping[str, Candidate] | None,
) -> list[str]:
    notes = []
    tune = plan.sweep.tune
    if missing:
        notes.append(f"{missing} trials are not done: numbers are preliminary")
    if plan.recipe.arms[plan.baseline].methods:
        notes.append(f"no arm without methods: differences are against the first arm, {plan.baseline}")
    if tune is not None and best is not None:
        notes += [
            f"{arm}: every cell failed on some tuning seed, so none was chosen"
            for arm in plan.recipe.arms
            if arm not in best
        ]
        notes += _edges(plan, best)
        counts = plan.budget()
        if tune.per_arm and len(set(counts.values())) > 1:
            notes.append("unequal tuning budgets: " + ", ".join(f"{arm} {n} trials" for arm, n in counts.items()))
        if not tune.per_arm:
            notes.append(f"only {plan.baseline} was tuned; all arms have its cell")
    own = {canonical(shared(cell)) for cell in plan.cells[plan.baseline]}
    if tune is None and len(own) < len(plan.cells[plan.baseline]):
        notes.append("the baseline has keys of its own: arms are compared with the first of its cells that fits")
    threads = sorted({outcome["ran"]["threads"] for _, outcome in finished})
    if len(threads) > 1:
        notes.append(f"trials ran with different numbers of threads ({threads}): they do not pair to the last bit")
    return [*notes, *outcome_notes(outcome for _, outcome in finished)]


def _edges(plan: Plan, best: Mapping[str, Candidate]) -> list[str]:
    """Arms whose best value is the smallest or largest tried: the grid may be too narrow for them."""
    notes = []
    for arm, candidate in best.items():
        for key, value in candidate.cell.items():
            tried = {cell[key] for cell in plan.cells[arm] if _is_number(cell[key])}
            if len(tried) > 1 and _is_number(value) and value in (min(tried), max(tried)):
                which = "smallest" if value == min(tried) else "largest"
                notes.append(f"{arm}: the best {label({key: value})} is the {which} tried; a better one may lie beyond")
    return notes


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
