"""results.json: what all finished trainings of a run say together, recomputed from their per-example outcomes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from infosteer.errors import RunError
from infosteer.experiments.contaminated import contamination_notes, contamination_of, with_clean_part
from infosteer.experiments.environment import environment
from infosteer.experiments.recipe import BASE_ARM, BASE_SEED, Recipe
from infosteer.experiments.rundir import RunDir, write_atomic

SCHEMA = 1
RESAMPLES = 10_000
QUICK_RESAMPLES = 500  # while trainings are still missing


def write_results(recipe: Recipe, folder: RunDir) -> Path:
    """Rewrite results.json from the outcome files; whoever reads it meanwhile sees the old or the new one."""
    outcomes = [
        outcome
        for seed in recipe.seeds
        for arm in recipe.arms
        if (outcome := folder.read_outcome(arm, seed)) is not None
    ]
    base = folder.read_outcome(BASE_ARM, BASE_SEED) if recipe.evaluate_base else None
    whole = len(outcomes) == len(recipe.seeds) * len(recipe.arms)
    results = build_results(recipe, outcomes, base=base, resamples=RESAMPLES if whole else QUICK_RESAMPLES)
    write_atomic(folder.results_file, json.dumps(results, indent=1, allow_nan=False) + "\n")
    return folder.results_file


def build_results(
    recipe: Recipe,
    outcomes: Sequence[Mapping[str, Any]],
    *,
    base: Mapping[str, Any] | None = None,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """Arms, summary, comparisons, failures and notes of outcomes.

    Means and 95 % bootstrap intervals resample seeds and examples (with one seed examples only: a note says so);
    comparisons pair an arm with the baseline by seed and example. ``base``, the outcome of the model before training,
    comes first, with n = 0 seeds and intervals over the examples; it is compared with nothing.
    """
    from infosteer.evaluation import analyse
    from infosteer.evaluation.multiple import correct

    finished = [outcome for outcome in outcomes if outcome["status"] == "finished"]
    scores = scores_of(recipe.arms, finished)
    judged: dict[str, list[Any]] = {"summary": [], "comparisons": [], "notes": []}
    if scores:
        compared = recipe.baseline in scores
        judged = analyse(scores, baseline=recipe.baseline if compared else None, resamples=resamples)
        if not compared:
            judged = {**judged, "comparisons": []}
        correct(judged["comparisons"], [row["metric"].rpartition("/")[2] for row in judged["comparisons"]])
    untrained = [] if base is None else [base]  # judged on its own: a seed 0 of the arms is no seed of the base
    before = analyse(scores_of([BASE_ARM], untrained), resamples=resamples)["summary"]
    return {
        "schema": SCHEMA,
        "environment": environment(),
        "arms": [{"arm": o["arm"], "seed": o["seed"], "metrics": o["metrics"]} for o in [*untrained, *finished]],
        "summary": [*({**row, "n": 0} for row in before), *judged["summary"]],
        "comparisons": judged["comparisons"],
        "contamination": with_clean_part(
            contamination_of(finished), scores, baseline=recipe.baseline, resamples=resamples
        ),
        "settings": {arm: recipe.settings_of(arm) for arm in recipe.arms},
        "failures": [
            {"arm": o["arm"], "seed": o["seed"], "error": o["error"]} for o in outcomes if o["status"] == "failed"
        ],
        "notes": [
            *base_notes(base),
            *_notes(recipe, finished, len(outcomes), [note["note"] for note in judged["notes"]]),
        ],
    }


def read_results(path: Path) -> dict[str, Any]:
    """A results.json. Raises: RunError for a file that is missing, damaged, or of another schema."""
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError("The results cannot be read.", where=path, got=error) from None
    if not isinstance(results, dict) or results.get("schema") != SCHEMA:
        raise RunError("This is not a results file of this version.", where=path, expected=f"schema {SCHEMA}")
    return results


def scores_of(
    arms: Iterable[str], finished: Sequence[Mapping[str, Any]]
) -> dict[str, dict[int, dict[str, list[float]]]]:
    """arm -> seed -> metric -> score of every example, NaN where it has none; arms in the order given."""
    found: dict[str, dict[int, dict[str, list[float]]]] = {arm: {} for arm in arms}
    for outcome in finished:
        found[outcome["arm"]][outcome["seed"]] = {
            f"{name}/{measure}": [math.nan if value is None else float(value) for value in values]
            for name, measures in outcome["examples"].items()
            for measure, values in measures.items()
            if any(value is not None for value in values)
        }
    return {arm: seeds for arm, seeds in found.items() if seeds}


def base_notes(base: Mapping[str, Any] | None) -> list[str]:
    if base is None:
        return []
    notes = [f"{BASE_ARM}: the model before training; its intervals cover the choice of examples"]
    if base["stored"]:
        counts = ", ".join(f"{name} {sum(known)} of {len(known)}" for name, known in base["stored"].items())
        notes.append(f"utilisation is over the facts that the base stores: {counts}")
    return notes


def _notes(recipe: Recipe, finished: Sequence[Mapping[str, Any]], known: int, found: list[str]) -> list[str]:
    notes = []
    trainings = len(recipe.arms) * len(recipe.seeds)
    if len(recipe.seeds) == 1:  # one line instead of one for every arm
        notes.append("one seed: intervals cover the choice of examples, not of the seed")
    else:
        notes += found
    if recipe.arms[recipe.baseline].methods:
        notes.append(f"no arm without methods: differences are against the first arm, {recipe.baseline}")
    if known < trainings:
        notes.append(f"{trainings - known} of {trainings} trainings are not finished: numbers are preliminary")
    return list(dict.fromkeys([*notes, *outcome_notes(finished)]))


def outcome_notes(finished: Iterable[Mapping[str, Any]]) -> list[str]:
    """What finished trainings say about their questions: trained on too, or too long."""
    finished = list(finished)
    notes = contamination_notes(contamination_of(finished))
    for outcome in finished:
        for name, count in outcome["train"].get("overlap", {}).items():  # written before rows were compared by words
            notes.append(f"{name}: {count} of its questions are also trained on")
        for name, facts in outcome["sets"].items():
            if facts["failures"].get("too_long"):
                notes.append(f"{name}: {facts['failures']['too_long']} examples are longer than the model's context")
    return list(dict.fromkeys(notes))
