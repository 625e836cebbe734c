"""What of the evaluation sets a training saw: looked up once a kind of rows, and told beside every score."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from infosteer.evaluation import EvalSet
    from infosteer.evaluation.contamination import Contamination

Scores = Mapping[str, Mapping[int, Mapping[str, Sequence[float]]]]
_COUNTS = ("exact", "normalised", "with_answer", "touched", "covered")


def check_rows(
    sets: Mapping[str, EvalSet],
    rows: Sequence[Mapping[str, Any]],
    known: Sequence[Mapping[str, Any]],
    places: Sequence[str],
) -> dict[str, Contamination]:
    """Every set against the rows that were trained on.

    Args:
        rows: what was trained on, after the data methods.
        known, places: the rows before those, with file and line of each; rows that a data method made have a number.
    """
    from infosteer.evaluation.contamination import check_texts
    from infosteer.evaluation.train_texts import placed_texts

    where = [places[i] if i < len(known) and row == known[i] else f"training row {i + 1}" for i, row in enumerate(rows)]
    return check_texts(sets.values(), placed_texts(rows, where))


def contamination_of(outcomes: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Set -> what all trainings together saw of it; outcomes that do not know are left out.

    Counts are the largest of any training; ``dirty`` are the rows that are dirty in one at least, so that all arms and
    seeds share one clean part; ``found`` are the matches of the first training that has some.
    """
    merged: dict[str, dict[str, Any]] = {}
    for outcome in outcomes:
        for name, facts in outcome["sets"].items():
            own = facts.get("contamination")
            if own is None:
                continue
            held = merged.setdefault(
                name,
                {"examples": own["examples"], "trainings": 0, **dict.fromkeys(_COUNTS, 0), "dirty": set(), "found": []},
            )
            held["trainings"] += 1
            held |= {key: max(held[key], own[key]) for key in _COUNTS}
            held["dirty"] |= set(own["dirty"])
            held["found"] = held["found"] or own["found"]
    return {name: {**one, "dirty": sorted(one["dirty"])} for name, one in merged.items()}


def with_clean_part(
    found: Mapping[str, Mapping[str, Any]], scores: Scores, *, baseline: str | None = None, resamples: int
) -> dict[str, Any]:
    """What results.json says of contamination.

    Args:
        found: of ``contamination_of``.
        scores: as ``analyse`` takes them, of all arms that share the clean parts.
        baseline, resamples: as for ``analyse``; without a baseline nothing is compared.

    Returns: ``rule``, ``sets``, and ``clean``, the summary and comparisons of ``analyse`` over the rows that are not
        dirty, for the sets that have some and are not dirty throughout.
    """
    from infosteer.evaluation import analyse
    from infosteer.evaluation.contamination import rule

    if not found:
        return {}
    parted = {name: one for name, one in found.items() if 0 < len(one["dirty"]) < one["examples"]}
    kept: dict[str, dict[int, dict[str, list[float]]]] = {}
    for arm, by_seed in scores.items():
        for seed, columns in by_seed.items():
            clean = {
                metric: values
                for metric, column in columns.items()
                if (values := _clean(column, parted.get(metric.rpartition("/")[0]))) is not None
            }
            if clean:
                kept.setdefault(arm, {})[seed] = clean
    judged = analyse(kept, baseline=baseline if baseline in kept else None, resamples=resamples)
    clean_part = {"summary": judged["summary"], "comparisons": judged["comparisons"] if baseline in kept else []}
    return {"rule": rule(), "sets": dict(found), "clean": clean_part}


def contamination_notes(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A line for every set with dirty rows."""
    notes = []
    for name, one in found.items():
        if not one["dirty"]:
            continue
        first = one["found"][0]
        notes.append(
            f"{name}: {len(one['dirty'])} of {one['examples']} rows are dirty, which 'clean' scores leave out: "
            f"{one['normalised']} are trained on word for word, {one['with_answer']} of them with the answer, the "
            f"others nearly; the first is {first['place']}, trained on at {first['trained_at']}"
        )
    return notes


def _clean(column: Sequence[float], one: Mapping[str, Any] | None) -> list[float] | None:
    """The scores of the clean rows; None for measures that are not of rows, or where none is left that has a score."""
    if one is None or len(column) != one["examples"]:
        return None
    dirty = set(one["dirty"])
    values = [value for i, value in enumerate(column) if i not in dirty]
    return None if all(map(math.isnan, values)) else values
