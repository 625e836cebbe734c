"""results.json of an evaluation: every score with its interval, its chance level, and what could not be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from infosteer.evaluation import analyse
from infosteer.evaluation.multiple import correct
from infosteer.evaluation.records import Scores
from infosteer.evaluation.statistics import compare_macro, summarise_macro
from infosteer.experiments.contaminated import contamination_notes, contamination_of, with_clean_part
from infosteer.experiments.environment import environment
from infosteer.experiments.results import RESAMPLES, SCHEMA, scores_of
from infosteer.experiments.suite.settings import Arm

GENERATED, STRICT, OPTION, OPTION_NORM = "exact_match", "strict_match", "option_accuracy", "option_accuracy_norm"
SCORES = (GENERATED, STRICT, OPTION, OPTION_NORM)  # shares of right answers, for which chance is known
ByTask = dict[str, dict[int, Sequence[float]]]  # task -> seed -> scores
RULE = "unweighted mean over the tasks of the group"


def build_results(
    config: Mapping[str, Any],
    arms: Sequence[Arm],
    outcomes: Sequence[Mapping[str, Any]],
    facts: Mapping[str, Mapping[str, Any]],
    *,
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """Everything that the outcomes say together.

    Args:
        config: the resolved settings.
        arms: all models asked for; the first one's arm is the baseline of comparisons.
        outcomes: of models that are done, or failed.
        facts: set -> ``rows``, ``asked`` (wording, template, shots, version of a task), ``chance`` (what guessing
            scores), ``majority`` (what the commonest answer scores).

    Returns: results of schema 1, with a row for every arm and set in ``tasks``, and one for every arm, group and score
        in ``macro``.
    """
    finished = [outcome for outcome in outcomes if outcome["status"] == "finished"]
    names = list(dict.fromkeys(arm.name for arm in arms))
    scores = scores_of(names, finished)
    judged: dict[str, list[Any]] = {"summary": [], "comparisons": [], "notes": []}
    if scores:
        first = names[0] if names[0] in scores else None
        judged = analyse(scores, baseline=first, resamples=resamples)
        if first is None:
            judged = {**judged, "comparisons": []}
    correct(judged["comparisons"], [row["metric"].rpartition("/")[2] for row in judged["comparisons"]])
    baseline = judged["comparisons"][0]["baseline"] if judged["comparisons"] else None
    contamination = with_clean_part(contamination_of(finished), scores, baseline=baseline, resamples=resamples)
    macro = _macros(config["groups"], scores, facts, names[0], resamples)
    return {
        "schema": SCHEMA,
        "kind": "evaluation",
        "environment": environment(),
        "evaluation": dict(config["settings"]),
        "arms": [{"arm": o["arm"], "seed": o["seed"], "metrics": o["metrics"]} for o in finished],
        "summary": judged["summary"],
        "comparisons": judged["comparisons"],
        "tasks": _tasks(config, judged["summary"], finished, facts, contamination),
        "contamination": contamination,
        "macro": macro,
        "batch_effect": [
            {"arm": o["arm"], "seed": o["seed"], **o["batch_effect"]} for o in finished if o["batch_effect"]
        ],
        "settings": {name: _settings(name, finished) for name in scores},
        "failures": [
            {"arm": o["arm"], "seed": o["seed"], "error": o["error"]} for o in outcomes if o["status"] == "failed"
        ],
        "notes": _notes(arms, scores, finished, len(outcomes), facts, macro),
    }


def _tasks(
    config: Mapping[str, Any],
    summary: Sequence[Mapping[str, Any]],
    finished: Sequence[Mapping[str, Any]],
    facts: Mapping[str, Mapping[str, Any]],
    contamination: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """One row an arm and set: n, chance, every measure with its interval and where chance lies, failures."""
    rows = []
    groups = {task: group for group, tasks in config["groups"].items() for task in tasks}
    for arm in dict.fromkeys(row["arm"] for row in summary):
        mine = [outcome for outcome in finished if outcome["arm"] == arm]
        for task in dict.fromkeys([*facts, *(name for outcome in mine for name in outcome["sets"])]):
            known = facts.get(task, {})
            chance = known.get("chance")
            measures = {}
            for row in summary:
                name, _, measure = row["metric"].rpartition("/")
                if (row["arm"], name) == (arm, task):
                    measures[measure] = {key: row[key] for key in ("mean", "low", "high", "interval")}
                    if chance and measure in SCORES:  # without options nobody knows what guessing would score
                        measures[measure]["beside_chance"] = _side(row["low"], row["high"], chance)
            failures: dict[str, int] = {}
            for outcome in mine:
                for name, count in outcome["sets"].get(task, {}).get("failures", {}).items():
                    failures[name] = failures.get(name, 0) + count
            rows.append({
                "arm": arm,
                "task": task,
                "group": groups.get(task),
                "seeds": sorted(outcome["seed"] for outcome in mine),
                "n": known.get("rows") or _rows(mine, task),
                "chance": chance,
                "majority": known.get("majority"),
                "asked": known.get("asked", {}),
                "measures": measures,
                "failures": failures,
                "contamination": _contaminated(contamination, arm, task),
            })  # fmt: skip
    return rows


def _contaminated(contamination: Mapping[str, Any], arm: str, task: str) -> dict[str, Any] | None:
    """How many rows of a set stand in training data, and every measure of an arm over those that do not."""
    found = contamination.get("sets", {}).get(task)
    if found is None:
        return None
    counts = {key: value for key, value in found.items() if isinstance(value, int)}
    clean = {
        row["metric"].rpartition("/")[2]: {key: row[key] for key in ("mean", "low", "high")}
        for row in contamination["clean"]["summary"]
        if (row["arm"], row["metric"].rpartition("/")[0]) == (arm, task)
    }
    return {**counts, "dirty": len(found["dirty"]), "clean": clean}


def _rows(mine: Sequence[Mapping[str, Any]], task: str) -> int:
    """Rows of a set that was read by lm-eval: as many as have scores."""
    return max(len(values) for outcome in mine for values in outcome["examples"].get(task, {"": []}).values())


def _side(low: float, high: float, chance: float) -> str:
    """Where a share of right answers lies beside chance, or that its interval holds chance."""
    return "above" if low > chance else "below" if high < chance else "holds"


def _macros(
    groups: Mapping[str, Sequence[str]],
    scores: Scores,
    facts: Mapping[str, Mapping[str, Any]],
    baseline: str,
    resamples: int,
) -> list[dict[str, Any]]:
    rows = []
    for arm in scores:
        for group, tasks in groups.items():
            for measure in SCORES:
                mine, ours = (_by_task(scores.get(name, {}), tasks, measure) for name in (arm, baseline))
                if not mine:
                    continue
                found = summarise_macro(mine, resamples=resamples)
                chance = sum(facts[task]["chance"] for task in mine) / len(mine)
                span = {"mean": found.mean, "low": found.low, "high": found.high}
                row: dict[str, Any] = {
                    "arm": arm,
                    "group": group,
                    "measure": measure,
                    "tasks": list(mine),
                    "rule": RULE,
                }
                row |= {"rule": RULE, **span, "interval": found.method, "n": found.n, "chance": chance}
                if chance:
                    row["beside_chance"] = _side(found.low, found.high, chance)
                if arm != baseline and ours.keys() == mine.keys() and _seeds(ours) & _seeds(mine):
                    row["comparison"] = _compared(mine, ours, baseline, resamples)
                rows.append(row)
    return rows


def _compared(mine: ByTask, ours: ByTask, baseline: str, resamples: int) -> dict[str, Any]:
    pair = compare_macro(mine, ours, resamples=resamples)
    names = ("difference", "low", "high", "p_value", "test", "detectable")
    return {"baseline": baseline, **{name: getattr(pair, name) for name in names}}


def _by_task(by_seed: Mapping[int, Mapping[str, Sequence[float]]], tasks: Sequence[str], measure: str) -> ByTask:
    """The tasks of a group that have a measure: task -> seed -> scores."""
    found = {
        task: {seed: row[f"{task}/{measure}"] for seed, row in by_seed.items() if f"{task}/{measure}" in row}
        for task in tasks
    }
    return {task: seeds for task, seeds in found.items() if seeds}


def _seeds(tasks: ByTask) -> set[int]:
    return {seed for seeds in tasks.values() for seed in seeds}


def _settings(name: str, finished: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    mine = [outcome["model"] for outcome in finished if outcome["arm"] == name]
    return {
        "models": {f"seed-{model['seed']}": {key: model[key] for key in ("model", "fingerprint")} for model in mine},
        "methods": mine[0]["methods"],
    }


def _notes(
    arms: Sequence[Arm],
    scores: Scores,
    finished: Sequence[Mapping[str, Any]],
    known: int,
    facts: Mapping[str, Mapping[str, Any]],
    macro: Sequence[Mapping[str, Any]],
) -> list[str]:
    notes = []
    single = [name for name, seeds in scores.items() if len(seeds) == 1]
    if single:
        which = "every model" if len(single) == len(scores) else ", ".join(single)
        notes.append(
            f"one seed ({which}): intervals cover the choice of examples, not of the training; those of right and "
            "wrong answers are Wilson's"
        )
    if macro:
        notes.append(f"macro averages: {RULE}")
    for name in facts:
        sets = [outcome["sets"][name] for outcome in finished if name in outcome["sets"]]
        for key, words in (("too_long", "examples are longer than the model's context and count as wrong"),):
            most = max((one["failures"].get(key, 0) for one in sets), default=0)
            if most:
                notes.append(f"{name}: {most} {words}")
        skipped = max((one["settings"].get("skipped", 0) for one in sets), default=0)
        if skipped:
            notes.append(f"{name}: {skipped} bad rows were skipped")
    notes += contamination_notes(contamination_of(finished))
    if known < len(arms):
        notes.append(f"{len(arms) - known} of {len(arms)} models are not finished: numbers are preliminary")
    return notes
