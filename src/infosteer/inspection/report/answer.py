"""The question of a run and its answer in one sentence, by a rule that claims no more than the intervals do.

The first measure of the results is judged (right answers, where there are any). A difference counts as shown when its
95 % interval leaves out zero *and* its p-value stays below 0.05 after Holm's correction over all arms and sets of that
measure; where only the interval leaves out zero it is a hint. Everything else is "no difference could be shown".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from infosteer.evaluation import measures
from infosteer.evaluation.multiple import adjust
from infosteer.inspection.report.gather import Run

LEVEL = 0.05
_NAMED = 3  # effects spelled out in the sentence


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """Question and answer, and how far they carry."""

    question: str
    answer: str
    caveats: tuple[str, ...] = ()


def answer(run: Run) -> Answer:
    """The question and the answer of a run, whatever state it is in."""
    comparisons = (run.results or {}).get("comparisons", [])
    compared = dict.fromkeys(row["arm"] for row in comparisons)
    others = list(compared) or [arm for arm in run.arms if arm != run.baseline]
    baseline = run.baseline or "the baseline"
    if not others:
        named = _listed(run.arms, "and") or "this run"
        return Answer(question=f"What did {named} do?", answer="There is one way of training, so nothing is compared.")
    verb = "Does" if len(others) == 1 else "Do"
    names = _listed(others, "or") if len(others) <= 6 else f"{len(others)} ways of training"
    question = f"{verb} {names} do better than {baseline}?"
    caveats = tuple(_caveats(run))
    if not comparisons:
        return Answer(question=question, answer="Not known yet: no arm has been compared.", caveats=caveats)
    measure = measures.ordered(measures.split(row["metric"])[1] for row in comparisons)[0]
    rows = [row for row in comparisons if measures.split(row["metric"])[1] == measure]
    ranked = [row for row in rows if row.get("ranked") is not False]
    if len(ranked) < len(rows):
        caveats += (f"{len(rows) - len(ranked)} comparisons are not judged: their baseline is at the ceiling.",)
    text = _sentence(ranked, measure, baseline) if ranked else "No arm can be ranked: the baseline is at the ceiling."
    return Answer(question=question, answer=text, caveats=caveats)


def corrected(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """Holm's step-down p-values of some comparisons, in their order; a sweep's results bring their own."""
    if rows and all("p_holm" in row for row in rows):
        return [1.0 if row["p_holm"] is None else float(row["p_holm"]) for row in rows]
    return adjust([row["p_value"] for row in rows], "holm")


def excludes_zero(row: Mapping[str, Any]) -> bool:
    """Whether a comparison's interval lies on one side of zero."""
    return bool(row["low"] > 0 or row["high"] < 0)


def _sentence(rows: Sequence[Mapping[str, Any]], measure: str, baseline: str) -> str:
    apart = [(row, p) for row, p in zip(rows, corrected(rows), strict=True) if excludes_zero(row)]
    shown = sorted((row for row, p in apart if p < LEVEL), key=lambda row: -abs(row["difference"]))
    hints = [row for row, p in apart if p >= LEVEL]
    parts = []
    if shown:
        spelled, more = shown[:_NAMED], len(shown) - _NAMED
        told = [_effects(arm, spelled, measure) for arm in dict.fromkeys(row["arm"] for row in spelled)]
        parts.append(f"In {measures.label(measure)}, {'; '.join(told)}")
        if more > 0:
            parts.append(f"{more} more differences could be shown, see the table")
        named_arms = {row["arm"] for row in shown}
        silent = [arm for arm in dict.fromkeys(row["arm"] for row in rows) if arm not in named_arms]
        if silent:
            who = _listed(silent, "and") if len(silent) <= 4 else f"the {len(silent)} other arms"
            parts.append(f"for {who} no difference could be shown")
    else:
        where = "" if len(rows) == 1 else f" on any of the {len(rows)} comparisons" if hints else ""
        parts.append(
            f"No difference from {baseline} in {measures.label(measure)} could be shown{where} "
            f"({_widest(rows, measure)})"
        )
    if hints:
        many = "hint" if len(hints) == 1 else "hints"
        named = [f"{row['arm']} on {measures.split(row['metric'])[0]}" for row in hints[:_NAMED]]
        if len(hints) > _NAMED:
            named.append(f"{len(hints) - _NAMED} more")
        which = "does" if len(hints) == 1 else "do"
        where = _listed(named, "and")
        parts.append(f"{len(hints)} {many} ({where}) {which} not outlast a correction for {len(rows)} comparisons")
    return "; ".join(parts) + "."


def _effects(arm: str, rows: Sequence[Mapping[str, Any]], measure: str) -> str:
    by_word: dict[str, list[str]] = {}
    for row in rows:
        if row["arm"] == arm:
            by_word.setdefault(_word(row, measure), []).append(_place(row, measure))
    (first, places), *others = by_word.items()
    baseline = next(row["baseline"] for row in rows if row["arm"] == arm)
    rest = [f"{word} on {_listed(found, 'and')}" for word, found in others]
    return " and ".join([f"{arm} was {first} than {baseline} on {_listed(places, 'and')}", *rest])


def _word(row: Mapping[str, Any], measure: str) -> str:
    direction = measures.better(measure)
    positive = row["difference"] > 0
    if direction is None:
        return "higher" if positive else "lower"
    return "better" if positive == (direction > 0) else "worse"


def _place(row: Mapping[str, Any], measure: str) -> str:
    name = measures.split(row["metric"])[0]
    numbers = f"{_number(row, 'difference', measure)} {measures.step_unit(measure)}".strip()
    interval = f"95 % interval {_number(row, 'low', measure)} to {_number(row, 'high', measure)}"
    return f"{name} ({numbers}, {interval})"


def _widest(rows: Sequence[Mapping[str, Any]], measure: str) -> str:
    low, high = min(rows, key=lambda row: row["low"]), max(rows, key=lambda row: row["high"])
    unit = measures.step_unit(measure)
    return (
        f"the intervals leave room for anything from {_number(low, 'low', measure)} "
        f"to {_number(high, 'high', measure)} {unit}".rstrip()
    )


def _number(row: Mapping[str, Any], key: str, measure: str) -> str:
    return measures.show(row[key], measure, sign=True)


def _caveats(run: Run) -> list[str]:
    results = run.results or {}
    found = []
    seeds = {row["seed"] for row in results.get("arms", []) if row["arm"] in run.arms}
    if len(seeds) == 1:
        found.append("One seed: this speaks of these trained models, not of the methods; another seed may differ.")
    missing = _missing(run)
    if missing:
        found.append(f"Preliminary: {missing} of the run's trainings are not finished.")
    failures = results.get("failures", [])
    if failures:
        named = _listed([f"{row.get('arm')} (seed {row.get('seed')})" for row in failures[:_NAMED]], "and")
        found.append(f"{len(failures)} failed: {named}.")
    return found


def _missing(run: Run) -> int:
    recipe = run.recipe or {}
    if run.is_sweep:
        sweep = (run.results or {}).get("sweep")
        missing = sweep.get("missing") if isinstance(sweep, dict) else None
        return len(missing) if isinstance(missing, list) else 0
    arms, seeds = recipe.get("arms") or {}, recipe.get("seeds") or []
    if not isinstance(seeds, list) or not run.results:
        return 0
    done = {(row["arm"], row["seed"]) for row in run.results.get("arms", [])}
    failed = {(row.get("arm"), row.get("seed")) for row in run.results.get("failures", []) if isinstance(row, dict)}
    return sum((arm, seed) not in done | failed for arm in arms for seed in seeds)


def _listed(names: Sequence[str], word: str) -> str:
    names = list(names)
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {word} {names[-1]}" if names else ""
