"""Runs as a comparison needs them: scores by arm, seed and example, and how every set was judged."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from infosteer.errors import RunError
from infosteer.inspection.report.gather import BASE, Run, gather

Scores = dict[int, dict[str, list[float]]]  # seed -> metric -> scores of the examples


@dataclass(frozen=True, kw_only=True, slots=True)
class RunScores:
    """A run, a sweep or an evaluation with what its arms scored.

    Attributes:
        examples: arm -> scores by example, where outcome files are there.
        means: arm -> one mean a seed.
        sets: arm -> set -> how it was judged, as its outcome says; empty where there is none.
    """

    name: str
    run: Run
    examples: Mapping[str, Scores]
    means: Mapping[str, Scores]
    sets: Mapping[str, Mapping[str, Mapping[str, Any]]]

    @property
    def arms(self) -> list[str]:
        """Arms that were evaluated, without the base unless there is nothing else."""
        return [arm for arm in self.run.arms if arm in self.means] or list(self.means)

    @property
    def is_evaluation(self) -> bool:
        """Whether models were evaluated as they are, and not trained here."""
        return (self.run.results or {}).get("kind") == "evaluation"

    @property
    def groups(self) -> dict[str, list[str]]:
        """Group -> sets, of evaluations that have macro averages."""
        found: dict[str, list[str]] = {}
        rows = (self.run.results or {}).get("macro")
        for row in rows if isinstance(rows, list) else []:
            if isinstance(row, dict) and isinstance(row.get("group"), str) and isinstance(row.get("tasks"), list):
                held = found.setdefault(row["group"], [])
                held += [str(task) for task in row["tasks"] if str(task) not in held]
        return found


def is_run(path: Path) -> bool:
    """Whether a path is the folder of a run, a sweep or an evaluation, or its results.json."""
    if path.is_file():
        return path.name == "results.json"
    return path.is_dir() and any((path / name).is_file() for name in ("recipe.yaml", "results.json"))


def read_run(path: Path) -> RunScores:
    """A run, from its folder or its results.json.

    Raises:
        RunError: no run, damaged files, or one without results.
    """
    folder = path.parent if path.is_file() and path.name == "results.json" else path
    run = gather(folder)
    rows: Sequence[Mapping[str, Any]] = (run.results or {}).get("arms") or []
    if not rows:
        raise RunError(
            "The run has no results to compare.", where=folder, fix="let `infosteer run` finish at least one training"
        )
    if any(row["arm"] != BASE for row in rows):
        rows = [row for row in rows if row["arm"] != BASE]
    means: dict[str, Scores] = {}
    examples: dict[str, Scores] = {}
    sets: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row, outcome in _outcomes(folder, rows):
        means.setdefault(row["arm"], {})[row["seed"]] = {
            metric: [float(value)] for metric, value in row["metrics"].items() if _is_number(value)
        }
        scores = _scores(outcome)
        if scores:
            examples.setdefault(row["arm"], {})[row["seed"]] = scores
            sets.setdefault(row["arm"], {}).update(_sets(outcome))
    return RunScores(name=run.name, run=run, examples=examples, means=means, sets=sets)


def named(runs: Sequence[RunScores]) -> list[RunScores]:
    """The runs with names that differ: paths where two recipes share theirs."""
    names = [one.name for one in runs]
    return [one if names.count(one.name) == 1 else replace(one, name=str(one.run.path)) for one in runs]


def _outcomes(folder: Path, rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Mapping[str, Any], Any]]:
    """Every arm and seed with its outcome file, None where it cannot be read; a sweep's lie in its trials."""
    for row in rows:
        trial = row.get("trial")
        place = folder / "outcomes" / row["arm"]
        if isinstance(trial, str) and Path(trial).name == trial:
            place = folder / "trials" / trial / "outcomes" / "arm"
        try:
            yield row, json.loads((place / f"seed-{row['seed']}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            yield row, None


def _scores(outcome: Any) -> dict[str, list[float]]:
    try:
        return {
            f"{name}/{measure}": [math.nan if value is None else float(value) for value in values]
            for name, measures in outcome["examples"].items()
            for measure, values in measures.items()
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def _sets(outcome: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    found = outcome.get("sets")
    return {
        str(name): facts["settings"]
        for name, facts in (found.items() if isinstance(found, dict) else ())
        if isinstance(facts, dict) and isinstance(facts.get("settings"), dict)
    }


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
