"""results.json as tables for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

_SHARES = ("exact_match", "option_accuracy", "option_accuracy_norm")


def tables(results: Mapping[str, Any], *, per_table: int = 5) -> list[Table]:
    """Means by arm, then differences from the baseline; shares in percent, with 95 % intervals.

    Many metrics are spread over several tables, so that no column is squeezed out.
    """
    metrics = list(dict.fromkeys(row["metric"] for row in results["summary"]))
    groups = [metrics[i : i + per_table] for i in range(0, len(metrics), per_table)]
    made = []
    for index, group in enumerate(groups):
        made.append(_means(results, group, last=False))
        if results["comparisons"]:
            made.append(_differences(results, group))
        if index == len(groups) - 1 and results.get("notes"):
            made[-1].caption = "\n".join(["95 % intervals in brackets", *results["notes"]])
    for failure in results.get("failures", []):
        made.append(_failure(failure))
    return made


def is_share(metric: str) -> bool:
    """Whether a metric is a share of examples, shown in percent."""
    return metric.rpartition("/")[2] in _SHARES


def _means(results: Mapping[str, Any], metrics: list[str], *, last: bool) -> Table:
    table = _table("arm", "seeds", *metrics, title="Mean by arm")
    cells = {(row["arm"], row["metric"]): row for row in results["summary"]}
    for arm in dict.fromkeys(row["arm"] for row in results["summary"]):
        rows = [cells.get((arm, metric)) for metric in metrics]
        seeds = str(max((row["n"] for row in rows if row), default=0))
        table.add_row(arm, seeds, *(_mean(row) for row in rows))
    return table


def _differences(results: Mapping[str, Any], metrics: list[str]) -> Table:
    baseline = results["comparisons"][0]["baseline"]
    table = _table("arm", *metrics, title=f"Difference from {baseline}, paired by seed and example")
    cells = {(row["arm"], row["metric"]): row for row in results["comparisons"]}
    for arm in dict.fromkeys(row["arm"] for row in results["comparisons"]):
        table.add_row(arm, *(_difference(cells.get((arm, metric))) for metric in metrics))
    return table


def _failure(failure: Mapping[str, Any]) -> Table:
    table = _table("failed", "error", title=None)
    table.add_row(f"{failure['arm']}, seed {failure['seed']}", failure["error"])
    return table


def _table(*columns: str, title: str | None) -> Table:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", caption_justify="left")
    for index, column in enumerate(columns):
        table.add_column(escape(column), justify="left" if index == 0 else "right", overflow="fold")
    return table


def _mean(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "-"
    scale, digits = (100, 1) if is_share(row["metric"]) else (1, 3)
    mean, low, high = (scale * row[key] for key in ("mean", "low", "high"))
    return f"{mean:.{digits}f}\n({low:.{digits}f} to {high:.{digits}f})"


def _difference(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "-"
    scale, digits = (100, 1) if is_share(row["metric"]) else (1, 3)
    mean, low, high = (scale * row[key] for key in ("difference", "low", "high"))
    p = "p < 0.001" if row["p_value"] < 0.001 else f"p = {row['p_value']:.3f}"
    return f"{mean:+.{digits}f}\n({low:+.{digits}f} to {high:+.{digits}f})\n{p}"
