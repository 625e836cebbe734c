"""Two or more runs against the first of them, as plain data: arms side by side, paired differences, other settings.

Whoever shows it formats it; nothing here prints.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infosteer.core.config import difference
from infosteer.errors import InfoSteerError, RunError
from infosteer.evaluation.multiple import adjust
from infosteer.evaluation.statistics import compare
from infosteer.inspection.report.gather import BASE, Run, gather

Scores = dict[int, dict[str, list[float]]]  # seed -> metric -> scores of the examples
RESAMPLES = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class RunScores:
    """A run with what its arms scored: by example where its outcome files are there, else one mean a seed."""

    name: str
    run: Run
    examples: Mapping[str, Scores]
    means: Mapping[str, Scores]

    @property
    def arms(self) -> list[str]:
        """Arms that were evaluated, without the base."""
        return [arm for arm in self.run.arms if arm in self.means]


def is_run(path: Path) -> bool:
    """Whether a path is a run's folder or its results.json."""
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
    if not (run.results or {}).get("arms"):
        raise RunError(
            "The run has no results to compare.", where=folder, fix="let `infosteer run` finish at least one training"
        )
    means: dict[str, Scores] = {}
    for row in run.results["arms"] if run.results else []:
        if row["arm"] != BASE:
            means.setdefault(row["arm"], {})[row["seed"]] = {
                metric: [float(value)] for metric, value in row["metrics"].items() if isinstance(value, int | float)
            }
    return RunScores(name=run.name, run=run, examples=_examples(folder, means), means=means)


def compare_runs(paths: Sequence[Path], *, resamples: int = RESAMPLES) -> dict[str, Any]:
    """Every run against the first.

    Arms of one name are compared over the seeds and metrics that both have; where each run has a single arm, these two
    are, whatever their names. Differences are paired by seed, and by example where both runs keep their outcomes and
    scored equally many examples of one set.

    Returns:
        ``runs``: [{run, path, arms, seeds, environment}]; ``summary``: [{run, arm, metric, mean, low, high, n}];
        ``comparisons``: [{run, reference, arm, reference_arm, metric, difference, low, high, p_value, p_holm, p_bh, n,
        paired_by}], run minus reference, low, high and p-values None where a single pair of numbers is all there is;
        ``settings``: [{run, reference, differences}]; ``notes``: texts that a reader has to know.

    Raises:
        RunError: fewer than two runs, runs without results, or nothing that two of them share.
    """
    if len(paths) < 2:
        raise RunError("A comparison needs two runs.", got=len(paths))
    runs = _named([read_run(path) for path in paths])
    reference, others = runs[0], runs[1:]
    comparisons: list[dict[str, Any]] = []
    notes: list[str] = []
    for other in others:
        found = _against(other, reference, resamples, notes)
        if not found:
            raise RunError(
                "The runs have nothing in common to compare.",
                where=f"{reference.run.path} and {other.run.path}",
                got=f"{_describe(reference)}; {_describe(other)}",
                expected="an arm of the same name, a seed and a metric that both have",
            )
        comparisons += found
    _correct(comparisons)
    return {
        "kind": "runs",
        "runs": [
            {
                "run": one.name,
                "path": str(one.run.path),
                "arms": one.arms,
                "seeds": sorted({seed for scores in one.means.values() for seed in scores}),
                "environment": (one.run.results or {}).get("environment", {}),
            }
            for one in runs
        ],
        "summary": [
            {"run": one.name, **{key: row[key] for key in ("arm", "metric", "mean", "low", "high", "n")}}
            for one in runs
            for row in (one.run.results or {})["summary"]
        ],
        "comparisons": comparisons,
        "settings": [
            {"run": one.name, "reference": reference.name, "differences": _settings(reference.run, one.run)}
            for one in others
        ],
        "notes": list(dict.fromkeys(notes)),
    }


def _against(other: RunScores, reference: RunScores, resamples: int, notes: list[str]) -> list[dict[str, Any]]:
    pairs = [(arm, arm) for arm in other.arms if arm in reference.arms]
    if not pairs and len(other.arms) == len(reference.arms) == 1:
        pairs = [(other.arms[0], reference.arms[0])]
        notes.append(f"{other.name}: its arm {other.arms[0]} is compared with {reference.arms[0]} of {reference.name}")
    found = []
    for arm, reference_arm in pairs:
        seeds = sorted(set(other.means[arm]) & set(reference.means[reference_arm]))
        if not seeds:
            notes.append(f"{arm}: no seed in common, so it is not compared")
            continue
        metrics = [
            metric
            for metric in other.means[arm][seeds[0]]
            if all(
                metric in run.means[name][s] for run, name in ((other, arm), (reference, reference_arm)) for s in seeds
            )
        ]
        for metric in metrics:
            if not _same_set(other.run, reference.run, metric):
                notes.append(f"{metric.partition('/')[0]}: the runs do not evaluate the same rows under this name")
            row = _pair(other, reference, arm, reference_arm, metric, seeds, resamples)
            if row["paired_by"] == "seed":
                notes.append(f"{arm}: without the scores of examples on both sides, seeds alone are paired")
            if len(seeds) == 1:
                notes.append(f"{arm}: one seed in common, so intervals cover the choice of examples and not of seeds")
            found.append(row)
    return found


def _pair(
    other: RunScores,
    reference: RunScores,
    arm: str,
    reference_arm: str,
    metric: str,
    seeds: Sequence[int],
    resamples: int,
) -> dict[str, Any]:
    row: dict[str, Any] = {
        "run": other.name,
        "reference": reference.name,
        "arm": arm,
        "reference_arm": reference_arm,
        "metric": metric,
        "n": len(seeds),
    }
    left, right = (
        {seed: scores[seed][metric] for seed in seeds if metric in scores.get(seed, {})}
        for scores in (other.examples.get(arm, {}), reference.examples.get(reference_arm, {}))
    )
    if len(left) == len(right) == len(seeds) and _same_set(other.run, reference.run, metric):
        try:
            pair = compare(left, right, resamples=resamples)
        except InfoSteerError:  # other numbers of examples: another limit, another version of the set
            pass
        else:
            return {**row, **_numbers(pair), "paired_by": "seed and example"}
    left, right = (
        {seed: scores[seed][metric] for seed in seeds} for scores in (other.means[arm], reference.means[reference_arm])
    )
    row["paired_by"] = "seed"
    if len(seeds) == 1:
        value = left[seeds[0]][0] - right[seeds[0]][0]
        return {**row, "difference": value, "low": None, "high": None, "p_value": None}
    return {**row, **_numbers(compare(left, right, resamples=resamples))}


def _same_set(other: Run, reference: Run, metric: str) -> bool:
    """Whether both recipes say the same about the set that a metric is of."""
    sets = [(run.recipe or {}).get("evaluate") or {} for run in (other, reference)]
    return sets[0].get(metric.partition("/")[0]) == sets[1].get(metric.partition("/")[0])


def _numbers(pair: Any) -> dict[str, float]:
    return {"difference": pair.difference, "low": pair.low, "high": pair.high, "p_value": pair.p_value}


def _correct(comparisons: list[dict[str, Any]]) -> None:
    """Adds p-values corrected for the number of all comparisons made here."""
    tested = [row for row in comparisons if row["p_value"] is not None]
    values = [row["p_value"] for row in tested]
    for row in comparisons:
        row["p_holm"] = row["p_bh"] = None
    for row, holm, bh in zip(tested, adjust(values, "holm"), adjust(values, "bh"), strict=True):
        row["p_holm"], row["p_bh"] = holm, bh


def _settings(reference: Run, other: Run) -> list[str]:
    before, after = (dict(run.recipe or (run.results or {}).get("settings") or {}) for run in (reference, other))
    found = difference(before, after)
    old, new = ((run.results or {}).get("environment", {}).get("packages", {}) for run in (reference, other))
    return found + difference(old, new, "packages")


def _examples(folder: Path, means: Mapping[str, Scores]) -> dict[str, Scores]:
    """Scores by example of the outcome files of these arms and seeds; unreadable ones are as if absent."""
    found: dict[str, Scores] = {}
    for arm, seeds in means.items():
        for seed in seeds:
            try:
                outcome = json.loads((folder / "outcomes" / arm / f"seed-{seed}.json").read_text(encoding="utf-8"))
                found.setdefault(arm, {})[seed] = {
                    f"{name}/{measure}": [math.nan if value is None else float(value) for value in values]
                    for name, measures in outcome["examples"].items()
                    for measure, values in measures.items()
                }
            except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
                continue
    return found


def _named(runs: Sequence[RunScores]) -> list[RunScores]:
    """The runs with names that differ: paths where two recipes share theirs."""
    names = [one.name for one in runs]
    return [
        one if names.count(one.name) == 1 else RunScores(
            name=str(one.run.path), run=one.run, examples=one.examples, means=one.means
        )
        for one in runs
    ]  # fmt: skip


def _describe(one: RunScores) -> str:
    seeds = sorted({seed for scores in one.means.values() for seed in scores})
    return f"{one.name}: arms {', '.join(one.arms)}, seeds {', '.join(map(str, seeds))}"
