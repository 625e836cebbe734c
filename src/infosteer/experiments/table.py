"""results.json as tables for people: one table a measure, one column a set, one row an arm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from infosteer.evaluation.measures import digits, is_share, scale

if TYPE_CHECKING:
    from rich.console import RenderableType

# Of the measures of InfoSteer's own, those that are shown.
SHOWN = ("exact_match", "utilisation", "option_accuracy", "answer_nll", "nll", "bits_per_byte")
COLUMNS = 5  # sets in one table; more go into a further one


def tables(results: Mapping[str, Any], measures: Sequence[str] = SHOWN) -> list[RenderableType]:
    """Means with 95 % intervals by arm; under each the paired difference from the baseline.

    Args:
        results: the content of results.json.
        measures: the measures to show, in this order, of those that the results have.
    """
    from rich.text import Text

    by_measure: dict[str, list[str]] = {}
    for row in results["summary"]:
        name, _, measure = row["metric"].rpartition("/")
        if name not in by_measure.setdefault(measure, []):
            by_measure[measure].append(name)
    made: list[RenderableType] = []
    for measure in (m for m in measures if m in by_measure):
        sets = by_measure[measure]
        made.append(Text(_title(results, measure), style="bold"))
        made += [_table(results, measure, sets[i : i + COLUMNS]) for i in range(0, len(sets), COLUMNS)]
    made += [Text(f"failed: {f['arm']}, seed {f['seed']}: {f['error']}", style="red") for f in results["failures"]]
    hidden = [measure for measure in by_measure if measure not in measures]
    notes = [*results["notes"], *([f"not shown, but in the file: {', '.join(hidden)}"] if hidden else [])]
    made += [Text(f"note: {note}", style="dim") for note in notes]
    return made


def _title(results: Mapping[str, Any], measure: str) -> str:
    unit = ", %" if is_share(measure) else ", nats a token" if measure.endswith("nll") else ""
    title = f"{measure}{unit}: mean by arm (95 % interval)"
    if results["comparisons"]:
        names = dict.fromkeys(row["baseline"] for row in results["comparisons"])
        baseline = next(iter(names)) if len(names) == 1 else "the baseline of the same cell"
        title += f"; below it the difference from {baseline}, paired by seed and example"
    return title


def _table(results: Mapping[str, Any], measure: str, sets: Sequence[str]) -> RenderableType:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    means = {(row["arm"], row["metric"]): row for row in results["summary"]}
    differences = {(row["arm"], row["metric"]): row for row in results["comparisons"]}
    clean = {(row["arm"], row["metric"]): row for row in clean_summary(results)}
    table = Table(box=box.SIMPLE_HEAD)
    seen = (results.get("contamination") or {}).get("sets", {})
    dirty = {name: f"\n{len(one['dirty'])} of {one['examples']} dirty" for name, one in seen.items() if one["dirty"]}
    for index, column in enumerate(["arm", "seeds", *(name + dirty.get(name, "") for name in sets)]):
        table.add_column(escape(column), justify="left" if index == 0 else "right", overflow="fold")
    for arm in dict.fromkeys(row["arm"] for row in results["summary"]):
        keys = [(arm, f"{name}/{measure}") for name in sets]
        seeds = max((means[key]["n"] for key in keys if key in means), default=0)
        cells = [_cell(means.get(key), clean.get(key), differences.get(key)) for key in keys]
        table.add_row(escape(arm), str(seeds), *cells)
    return table


def clean_summary(results: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Means over the rows of sets that no training saw, where some were seen."""
    found: Sequence[Mapping[str, Any]] = ((results.get("contamination") or {}).get("clean") or {}).get("summary", [])
    return found


def _cell(mean: Mapping[str, Any] | None, clean: Mapping[str, Any] | None, difference: Mapping[str, Any] | None) -> str:
    if mean is None:
        return "-"
    measure = mean["metric"].rpartition("/")[2]

    def interval(row: Mapping[str, Any], key: str, sign: str) -> str:
        middle, low, high = (f"{scale(measure) * row[k]:{sign}.{digits(measure)}f}" for k in (key, "low", "high"))
        return f"{middle} ({low} to {high})"

    lines = [interval(mean, "mean", "")]
    if clean is not None:
        lines.append(f"clean {interval(clean, 'mean', '')}")
    if difference is not None:
        lines.append(f"{interval(difference, 'difference', '+')} {_p(difference)}")
    return "\n".join(lines)


def _p(difference: Mapping[str, Any]) -> str:
    """The p-value, and where a sweep corrected it the corrected one; or that the baseline is at the ceiling."""

    def shown(name: str, value: float) -> str:
        return f"{name}<0.001" if value < 0.001 else f"{name}={value:.3f}"

    if not difference.get("ranked", True):
        return "not ranked"
    corrected = difference.get("p_holm")
    return shown("p", difference["p_value"]) + (f" {shown('holm', corrected)}" if corrected is not None else "")
