"""A run's folder as plain data: results, log lines, outcomes, settings, and what inspection left there."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infosteer.core.config import is_finite, load_yaml
from infosteer.errors import ConfigError, RunError
from infosteer.inspection.data import Geometry, Memories, Regions, Tokens, read
from infosteer.inspection.geometry_log import geometry_of_log

BASE = "base"
Curves = dict[str, dict[int, list[tuple[float, float]]]]  # arm -> seed -> (step, value)
Training = dict[str, dict[int, list[tuple[float, Mapping[str, Any]]]]]
RESULTS_SCHEMA = 1
_TABLES: dict[str, dict[str, type | tuple[type, ...]]] = {
    "arms": {"arm": str, "seed": int, "metrics": dict},
    "summary": {"arm": str, "metric": str, "mean": (int, float), "low": (int, float), "high": (int, float), "n": int},
    "comparisons": {
        "arm": str,
        "baseline": str,
        "metric": str,
        "difference": (int, float),
        "low": (int, float),
        "high": (int, float),
        "p_value": (int, float),
    },
}
_CONTAMINATION: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("examples", "exact", "normalised", "with_answer", "touched", "covered"), int),
    "dirty": list,
    "found": list,
}


@dataclass(kw_only=True, slots=True)
class Run:
    """Everything that the report shows."""

    path: Path
    recipe: Mapping[str, Any] | None = None  # the resolved recipe; None: the folder has none
    recipe_text: str = ""
    results: Mapping[str, Any] | None = None  # None: nothing was evaluated yet, or the run is a pretraining
    log: list[Mapping[str, Any]] = field(default_factory=list)  # lines of metrics.jsonl
    skipped_lines: int = 0  # of metrics.jsonl: torn, or no object
    outcomes: list[Mapping[str, Any]] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)  # outcome files that no one can read
    tokens: Tokens | None = None
    regions: Regions | None = None
    memories: Memories | None = None
    geometry: Geometry | None = None

    @property
    def name(self) -> str:
        """The recipe's name, or the folder's."""
        return str((self.recipe or {}).get("name") or self.path.resolve().name)

    @property
    def is_sweep(self) -> bool:
        """Whether this is a sweep's folder, whose rows are cells of arms and whose trials are runs of their own."""
        return bool((self.recipe or {}).get("sweep")) or "sweep" in (self.results or {})

    @property
    def arms(self) -> list[str]:
        """Names of the arms, in the order of the recipe, then others that results or the log name; without the base."""
        rowed = self.is_sweep and bool((self.results or {}).get("summary"))
        named = [] if rowed else list((self.recipe or {}).get("arms") or {})
        rows = [*(self.results or {}).get("arms", []), *(self.results or {}).get("summary", []), *self.log]
        found = dict.fromkeys([*named, *(row["arm"] for row in rows if isinstance(row.get("arm"), str))])
        return [arm for arm in found if arm != BASE]

    @property
    def baseline(self) -> str | None:
        """What all others are compared with: as the results say, else the first arm without methods; or None."""
        comparisons = (self.results or {}).get("comparisons", [])
        if comparisons:  # rows of a sweep may each have their own
            named = {str(row["baseline"]) for row in comparisons}
            return named.pop() if len(named) == 1 else None
        arms = (self.recipe or {}).get("arms") or {}
        return next((arm for arm, settings in arms.items() if not _methods(settings)), None)


def gather(path: Path) -> Run:
    """Read a run's folder.

    A torn line of metrics.jsonl and an outcome that cannot be read are counted and named in the report: a kill may
    leave the first, and the results say what the second said.

    Raises: RunError for a folder that is no run, and for results or inspection files that are damaged.
    """
    if not path.is_dir():
        raise RunError("There is no such run.", where=path, expected="a folder that `infosteer run` wrote")
    run = Run(path=path)
    recipe = path / "recipe.yaml"
    if recipe.is_file():
        run.recipe = _read_recipe(recipe)
        run.recipe_text = recipe.read_text(encoding="utf-8")
    results = path / "results.json"
    if results.is_file():
        run.results = _read_results(results)
    if run.recipe is None and run.results is None:
        raise RunError(
            "This is not a run's folder.", where=path, expected="recipe.yaml or results.json, as `infosteer run` writes"
        )
    metrics = path / "metrics.jsonl"
    if metrics.is_file():
        for line in _lines(metrics):
            if line is None:
                run.skipped_lines += 1
            else:
                run.log.append(line)
    for file in sorted((path / "outcomes").glob("*/seed-*.json")):
        outcome = _read_outcome(file)
        if outcome is None:
            run.unreadable.append(str(file.relative_to(path)))
        else:
            run.outcomes.append(outcome)
    run.tokens, run.regions = read(path, Tokens), read(path, Regions)
    run.memories = read(path, Memories)
    run.geometry = read(path, Geometry) or geometry_of_log(run.log)
    return run


def _methods(settings: Any) -> Any:
    return settings.get("methods") if isinstance(settings, dict) else settings  # an arm may set more than methods


def number(value: object) -> float | None:
    """A finite number, or None for anything else (log lines write ``nan`` as text)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not is_finite(value):
        return None
    return float(value)


def _read_recipe(path: Path) -> Mapping[str, Any]:
    try:
        recipe = load_yaml(path)
    except ConfigError as error:
        raise RunError("The run's recipe cannot be read.", where=error.where, got=error.got) from None
    if not isinstance(recipe, dict) or not isinstance(recipe.get("arms") or {}, dict):
        raise RunError("This is not a recipe.", where=path)
    return recipe


def _read_results(path: Path) -> Mapping[str, Any]:
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError("The results cannot be read.", where=path, got=error) from None
    if not isinstance(results, dict) or results.get("schema") != RESULTS_SCHEMA:
        raise RunError("This is not a results file of this version.", where=path, expected=f"schema {RESULTS_SCHEMA}")
    for name, columns in _TABLES.items():
        rows = results.setdefault(name, [])
        if not isinstance(rows, list):
            raise _damaged(path, name, rows, "a list")
        for i, row in enumerate(rows):
            _check_row(path, f"{name}[{i}]", row, columns)
    _check_contamination(path, results)
    for name in ("failures", "notes"):
        if not isinstance(results.setdefault(name, []), list):
            raise _damaged(path, name, results[name], "a list")
    return results


def _check_contamination(path: Path, results: dict[str, Any]) -> None:
    found = results.setdefault("contamination", {})
    sets = found.setdefault("sets", {}) if isinstance(found, dict) else None
    clean = found.setdefault("clean", {}) if isinstance(found, dict) else None
    if not isinstance(sets, dict) or not isinstance(clean, dict):
        raise _damaged(path, "contamination", found, "an object with sets and clean")
    for name, row in sets.items():
        _check_row(path, f"contamination.sets.{name}", row, _CONTAMINATION)
    summary = clean.setdefault("summary", [])
    if not isinstance(summary, list):
        raise _damaged(path, "contamination.clean.summary", summary, "a list")
    for i, row in enumerate(summary):
        _check_row(path, f"contamination.clean.summary[{i}]", row, _TABLES["summary"])


def _check_row(path: Path, place: str, row: object, columns: Mapping[str, type | tuple[type, ...]]) -> None:
    if not isinstance(row, dict):
        raise _damaged(path, place, row, "an object")
    for key, kind in columns.items():
        value = row.get(key)
        fits = isinstance(value, kind) and not isinstance(value, bool)
        if not fits or (isinstance(value, int | float) and not is_finite(value)):
            wanted = {str: "text", dict: "an object", list: "a list"}.get(kind, "a finite number")  # type: ignore[call-overload]
            raise _damaged(path, f"{place}.{key}", value, wanted)


def _damaged(path: Path, key: str, got: object, expected: str) -> RunError:
    return RunError(
        "The results cannot be read.",
        where=f"{path}: {key}",
        got=repr(got)[:80],
        expected=expected,
        fix="run the same command again: the file is made anew from outcomes/",
    )


def _lines(path: Path) -> Iterator[Mapping[str, Any] | None]:
    with path.open(encoding="utf-8", errors="replace") as file:
        for raw in file:
            try:
                line = json.loads(raw)
            except (ValueError, RecursionError):
                line = None
            yield line if isinstance(line, dict) else None


def _read_outcome(path: Path) -> Mapping[str, Any] | None:
    try:
        outcome = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(outcome, dict) or not isinstance(outcome.get("arm"), str):
        return None
    kept = {key: outcome.get(key) for key in ("arm", "seed", "status", "error")}  # examples may be megabytes
    kept |= {key: outcome.get(key) if isinstance(outcome.get(key), dict) else {} for key in ("train", "sets")}
    return kept


def training_lines(log: Sequence[Mapping[str, Any]]) -> Training:
    """arm -> seed -> (step, line) of the training's log lines, in their order; others are left out."""
    found: Training = {}
    for line in log:
        step, arm, seed = number(line.get("step")), line.get("arm"), line.get("seed")
        if line.get("event") == "train" and step is not None and isinstance(arm, str) and type(seed) is int:
            found.setdefault(arm, {}).setdefault(seed, []).append((step, line))
    return found


def curves(training: Training, metric: str) -> Curves:
    """arm -> seed -> (step, value) of one metric; gaps, and arms that have nothing else, are left out."""
    found: Curves = {}
    for arm, by_seed in training.items():
        for seed, lines in by_seed.items():
            points = [(step, value) for step, line in lines if (value := number(line.get(metric))) is not None]
            if points:
                found.setdefault(arm, {})[seed] = points
    return found
