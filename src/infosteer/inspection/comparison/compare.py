"""One run's arms with their baseline, or runs and evaluations with the first of them, as plain data.

Whoever shows it formats it; nothing here prints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from infosteer.core.config import difference
from infosteer.errors import ConfigError, InfoSteerError, RunError
from infosteer.evaluation.measures import split
from infosteer.evaluation.multiple import METHODS, correct
from infosteer.evaluation.power import detectable_of
from infosteer.inspection.comparison.pairs import (
    BY_EXAMPLE,
    BY_SEED,
    Pair,
    Tables,
    between,
    judge,
    judge_macro,
    metrics_of,
    seeds_of,
    stored,
    within,
)
from infosteer.inspection.comparison.read import RunScores, named, read_run
from infosteer.inspection.comparison.same import numerics
from infosteer.inspection.report.gather import Run

RESAMPLES = 10_000
LEVEL = 0.05
ALL = "all sets"
MACRO_RULE = "unweighted mean over the tasks of the group"
Judged = list[tuple[dict[str, Any], Tables | None]]


def compare_runs(
    paths: Sequence[Path],
    *,
    baseline: str | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
    correction: Literal["holm", "bh"] = "holm",
    resamples: int = RESAMPLES,
) -> dict[str, Any]:
    """A run's arms against its baseline, or every run against the first.

    Of several runs, arms of one name are compared; where each run has a single arm, these two are, whatever their
    names; and an evaluation of a single model is compared with every arm. Differences are paired by seed, and by
    example where both keep their outcomes; sets that were not judged alike are not paired.

    Args:
        paths: folders of runs, sweeps or evaluations, or their results.json.
        baseline: of a single run, the arm that the others are compared with; unless given, as its results have it.
        groups: name -> sets, for macro averages; unless given, those of the evaluations, or all sets together.
        correction: how p-values are corrected for ``significant``; both corrections are always there.
        resamples: of the bootstrap.

    Returns:
        ``runs``: [{run, path, arms, seeds, environment}]; ``comparisons``, a row for every pair of arms and metric:
        {run, reference, arm, reference_arm, metric, n, paired_by, mean and reference_mean with their ``_low`` and
        ``_high``, difference, low, high, p_value, test, p_holm, p_bh, significant, detectable, detectable_corrected,
        why}, the difference being run minus reference, numbers None where there is nothing to test, ``why`` the reason
        where a row is not paired or not ranked; ``macro``: the same for macro averages, with group, measure and tasks
        for metric; ``settings``: [{run, reference, differences}]; ``families``: measure -> number of p-values
        corrected together; ``notes``: texts that a reader has to know.

    Raises:
        RunError: runs without results, or with nothing that two of them share.
        ConfigError: an unknown baseline, group or correction.
    """
    if not paths:
        raise RunError("A comparison needs a run.", got="none")
    if correction not in METHODS:
        raise ConfigError("There is no such correction.", got=correction, expected=" | ".join(METHODS))
    if baseline is not None and len(paths) > 1:
        raise ConfigError("A baseline is an arm of a single run.", got=f"{baseline} for {len(paths)} runs")
    runs = named([read_run(path) for path in paths])
    notes: list[str] = []
    rows: Judged = []
    macro: Judged = []
    reference, others = runs[0], runs[1:]
    if not others:
        _one(within(reference, baseline), baseline, groups, resamples, notes, rows, macro)
    for other in others:
        start = len(rows)
        for pair in between(other, reference, notes):
            _pair(pair, groups, resamples, notes, rows, macro)
        if len(rows) == start:
            raise RunError(
                "The runs have nothing in common to compare.",
                where=f"{reference.run.path} and {other.run.path}",
                got=f"{_describe(reference)}; {_describe(other)}",
                expected="an arm of the same name, a seed and a metric that both have",
            )
    families = _correct(rows, macro, correction)
    return {
        "kind": "runs",
        "correction": correction,
        "level": LEVEL,
        "macro_rule": MACRO_RULE,
        "runs": [_facts(one) for one in runs],
        "comparisons": [row for row, _ in rows],
        "macro": [row for row, _ in macro],
        "families": families,
        "settings": [
            {"run": one.name, "reference": reference.name, "differences": _settings(reference.run, one.run)}
            for one in others
        ],
        "notes": list(dict.fromkeys(notes)),
    }


def _one(
    pairs: Sequence[Pair],
    baseline: str | None,
    groups: Mapping[str, Sequence[str]] | None,
    resamples: int,
    notes: list[str],
    rows: Judged,
    macro: Judged,
) -> None:
    """The arms of one run: from the scores of examples, or, of a sweep and without them, as results.json has it."""
    run = pairs[0].one
    results = run.run.results or {}
    as_stored = run.run.is_sweep or not all(pair.arm in run.examples for pair in pairs)
    if baseline is not None or not as_stored or not results.get("comparisons"):
        for pair in pairs:
            _pair(pair, groups, resamples, notes, rows, macro)
        return
    means = {(row["arm"], row["metric"]): row for row in results["summary"]}
    for pair in pairs:
        mine = [row for row in results["comparisons"] if row["arm"] == pair.arm]
        rows += [(stored(pair, row, means), None) for row in mine]
    told = "a sweep's comparisons are those of its results" if run.run.is_sweep else "no outcomes beside the results"
    notes.append(f"{run.name}: {told}, so there are no macro averages")


def _pair(
    pair: Pair,
    groups: Mapping[str, Sequence[str]] | None,
    resamples: int,
    notes: list[str],
    rows: Judged,
    macro: Judged,
) -> None:
    seeds = seeds_of(pair, notes)
    if seeds is None:
        return
    found = []
    for metric in metrics_of(pair, seeds):
        try:
            found.append(judge(pair, metric, seeds, resamples))
        except InfoSteerError as error:  # no example that every seed scored
            notes.append(f"{pair.arm}, {metric}: {error.what}")
    rows += found
    if any(row["paired_by"] == BY_SEED for row, _ in found):
        notes.append(f"{pair.arm}: where a side has no scores of examples, seeds alone are paired")
    if len(seeds[0]) == 1:
        notes.append("one seed: intervals and tests cover the choice of examples, not of the seed")
    told = numerics(pair.reference, pair.reference_arm, pair.one, pair.arm)
    if told:
        notes.append(f"{pair.arm}: paired all the same, but {', '.join(told)}")
    macro += _macros(pair, [row for row, _ in found], groups, seeds, resamples, notes)


def _macros(
    pair: Pair,
    rows: Sequence[Mapping[str, Any]],
    wanted: Mapping[str, Sequence[str]] | None,
    seeds: tuple[list[int], list[int]],
    resamples: int,
    notes: list[str],
) -> Judged:
    by_measure: dict[str, list[str]] = {}
    for row in rows:
        name, measure = split(row["metric"])
        if row["paired_by"] == BY_EXAMPLE and (row["examples"] or 0) > 1:
            by_measure.setdefault(measure, []).append(name)
    known = {split(row["metric"])[0] for row in rows}
    groups = wanted or pair.one.groups or pair.reference.groups or {ALL: sorted(known)}
    made: Judged = []
    for group, tasks in groups.items():
        strangers = [task for task in tasks if task not in known]
        if wanted and strangers:
            raise ConfigError(
                f"the group {group} names sets that are not there",
                got=", ".join(strangers),
                expected=", ".join(sorted(known)),
            )
        for measure, names in by_measure.items():
            held = [name for name in names if name in tasks]
            if len(held) < 2:
                continue
            left_out = [row["metric"] for row in rows if row["why"] and split(row["metric"])[1] == measure]
            left_out = [split(metric)[0] for metric in left_out if split(metric)[0] in tasks]
            if left_out:
                notes.append(f"{pair.arm}: the mean of {group} leaves out what is not paired: {', '.join(left_out)}")
            made.append(judge_macro(pair, group, measure, held, seeds, resamples))
    return made


def _correct(rows: Judged, macro: Judged, correction: str) -> dict[str, int]:
    """Add corrected p-values, what is significant, and what could have been found at the corrected level."""
    families: dict[str, int] = {}
    fresh: Judged = []
    names: list[str | None] = []
    for row, tables in [*rows, *macro]:
        family = f"mean, {row['measure']}" if "group" in row else split(row["metric"])[1]
        if "p_holm" not in row or row["p_holm"] is None:  # a sweep's own corrections are kept
            fresh.append((row, tables))
            names.append(family if row["p_value"] is not None and row["why"] is None else None)
            row["family"] = family
        elif row["why"] is None:
            families[row["family"]] = families.get(row["family"], 0) + 1
    correct([row for row, _ in fresh], names)
    for name in names:
        if name is not None:
            families[name] = families.get(name, 0) + 1
    for row, tables in [*rows, *macro]:
        corrected = row[f"p_{correction}"]
        row["significant"] = None if corrected is None else corrected < LEVEL
        alpha = LEVEL / families.get(row["family"], 1)
        row["detectable_corrected"] = None if tables is None else detectable_of(tables.differences, alpha=alpha)
    return families


def _facts(one: RunScores) -> dict[str, Any]:
    return {
        "run": one.name,
        "path": str(one.run.path),
        "arms": one.arms,
        "seeds": sorted({seed for scores in one.means.values() for seed in scores}),
        "environment": (one.run.results or {}).get("environment", {}),
    }


def _settings(reference: Run, other: Run) -> list[str]:
    before, after = (dict(run.recipe or (run.results or {}).get("settings") or {}) for run in (reference, other))
    found = difference(before, after)
    old, new = ((run.results or {}).get("environment", {}).get("packages", {}) for run in (reference, other))
    return found + difference(old, new, "packages")


def _describe(one: RunScores) -> str:
    seeds = sorted({seed for scores in one.means.values() for seed in scores})
    return f"{one.name}: arms {', '.join(one.arms)}, seeds {', '.join(map(str, seeds))}"
