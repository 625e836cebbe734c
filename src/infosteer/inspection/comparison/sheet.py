"""A comparison as plain tables: what is significant, what is not, and what could have been found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from infosteer.evaluation.measures import (
    better,
    is_bounded,
    label,
    ordered,
    scale,
    show,
    show_p,
    split,
    step_unit,
    unit,
)
from infosteer.evaluation.statistics import TESTS
from infosteer.inspection.comparison.pairs import STORED

CORRECTIONS = {"holm": "Holm", "bh": "Benjamini-Hochberg"}
_NOTHING = "-"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sheet:
    """One table: the first ``texts`` columns and the last are text, the others numbers."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    texts: int


def sheets(found: Mapping[str, Any]) -> list[Sheet]:
    """A table for every two runs and measure, macro averages last in each."""
    made = []
    all_rows = [*found["comparisons"], *found["macro"]]
    measures = ordered(_measure(row) for row in all_rows)
    pairs = dict.fromkeys((row["run"], row["reference"]) for row in all_rows)
    for run, reference in pairs:
        for measure in measures:
            rows = [r for r in all_rows if (r["run"], r["reference"], _measure(r)) == (run, reference, measure)]
            if rows:
                made.append(_sheet(found, rows, run, reference, measure))
    return made


def legend(found: Mapping[str, Any]) -> list[str]:
    """What the columns mean, which tests were used, and the comparison's own notes."""
    rows = [*found["comparisons"], *found["macro"]]
    tests = dict.fromkeys(row["test"] for row in rows if row["test"])
    told = [f"p: {TESTS[test]}" for test in tests if test in TESTS]
    if any(row["paired_by"] == STORED for row in rows):
        told.append("numbers are those of results.json, where the scores of examples are not at hand")
    families = ", ".join(f"{name} {count}" for name, count in found["families"].items())
    if families:
        told.append(
            f"significant: p corrected by {CORRECTIONS[found['correction']]} below {found['level']:g}, within families "
            f"of so many comparisons: {families}"
        )
    if any(row["significant"] is False and _detectable(row) is not None for row in rows):
        told.append(
            "could have found: the smallest true difference that such a study finds in 80 of 100 cases, at the level "
            "divided by the number of comparisons in the family"
        )
    if found["macro"]:
        told.append(f"mean of a group: {found['macro_rule']}, its interval by resampling within tasks")
    return [*told, *found["notes"]]


def verdict(row: Mapping[str, Any]) -> str:
    """What may be said of a row."""
    measure = _measure(row)
    if row["why"]:
        return f"{'not paired' if row['difference'] is None else 'not ranked'}: {row['why']}"
    if row["significant"] is None:
        return "not tested: one number a side"
    if row["significant"]:
        way = better(measure)
        up = row["difference"] > 0
        return ("higher" if up else "lower") if way is None else "better" if up == (way > 0) else "worse"
    reach = _detectable(row)
    if reach is not None and is_bounded(measure) and reach >= 1:
        return "n.s.; too small a study to find anything"
    return "n.s." if reach is None else f"n.s.; could have found {show(reach, measure, minus='-')}"


def _sheet(
    found: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], run: str, reference: str, measure: str
) -> Sheet:
    same = run == reference
    lone = all(row["arm"] == row["reference_arm"] for row in rows) and not same
    old = rows[0]["reference_arm"] if same and len({row["reference_arm"] for row in rows}) == 1 else "reference"
    heads = [old, "arm"] if same else [reference, run]
    unit_of = f", {unit(measure)}" if unit(measure) else ""
    title = f"{label(measure)}{unit_of}: " + (f"arms of {run}" if same else f"{run} against {reference}")
    step = f" ({step_unit(measure)})" if step_unit(measure) else ""
    columns = ["arm", "set", *heads, f"difference{step}", "p", CORRECTIONS[found["correction"]], "seeds", "verdict"]
    body = []
    for row in rows:
        name = row["arm"] if lone or (same and old != "reference") else f"{row['arm']} - {row['reference_arm']}"
        where = f"mean of {row['group']} ({len(row['tasks'])})" if "group" in row else split(row["metric"])[0]
        body.append(
            [
                name,
                where,
                _spread(row, "reference_mean", "reference_mean_low", "reference_mean_high", measure),
                _spread(row, "mean", "mean_low", "mean_high", measure),
                _spread(row, "difference", "low", "high", measure, sign=True),
                _p(row["p_value"]),
                _p(row[f"p_{found['correction']}"]),
                _NOTHING if row["n"] is None else str(row["n"]),
                verdict(row),
            ]
        )
    return Sheet(title=title, columns=columns, rows=body, texts=2)


def _measure(row: Mapping[str, Any]) -> str:
    return str(row["measure"]) if "group" in row else split(row["metric"])[1]


def _detectable(row: Mapping[str, Any]) -> float | None:
    found: float | None = row["detectable"] if row["detectable_corrected"] is None else row["detectable_corrected"]
    return found


def _spread(row: Mapping[str, Any], key: str, low: str, high: str, measure: str, *, sign: bool = False) -> str:
    if row[key] is None:
        return _NOTHING
    middle = show(row[key], measure, sign=sign, minus="-")
    if row[low] is None or row[high] is None:
        return middle
    if scale(measure) * abs(row[high] - row[low]) < 1e-12:
        return middle
    ends = (show(row[end], measure, sign=sign, minus="-") for end in (low, high))
    return f"{middle} ({' to '.join(ends)})"


def _p(value: float | None) -> str:
    return _NOTHING if value is None else show_p(value)
