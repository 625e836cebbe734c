"""An evaluation's results.json as tables: for a terminal, and as Markdown for documents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from infosteer.evaluation.measures import label, show, unit
from infosteer.experiments.suite.results import GENERATED, OPTION, OPTION_NORM, STRICT

if TYPE_CHECKING:
    from rich.console import RenderableType

COLUMNS = (
    "task",
    "n",
    "chance",
    "commonest",
    "right answers",
    "strictly",
    "right option",
    "by byte",
    "no answer",
    "unfinished",
)
_SIDES = {"above": "+", "below": "-", "holds": ""}  # beside a score whose interval leaves chance out
_NOTHING = "-"
_SCORES = (GENERATED, STRICT, OPTION, OPTION_NORM)
LEGEND = (
    "chance: what guessing scores, commonest: what the commonest answer alone would score; right answers: decoded, "
    "read by the suite's rule, strictly: by the strict rule; right option: the likeliest, by byte: per byte; "
    "in %, with 95 % intervals. + or -: the interval leaves chance out, above or below"
)


def rows_of(results: Mapping[str, Any], arm: str) -> list[list[str]]:
    """The cells of one arm: its tasks with known scores, then the macro averages of its groups.

    A score that only some tasks of a group have is not averaged here: its chance is another one.
    """
    rows = []
    for task in results["tasks"]:
        if task["arm"] != arm or not any(name in task["measures"] for name in _SCORES):
            continue
        scores = [_score(task["measures"].get(name), interval=name == GENERATED) for name in _SCORES]
        failures = [_count(task["failures"].get(name)) for name in ("no_answer", "unfinished")]
        rows.append(
            [task["task"], str(task["n"]), _chance(task["chance"]), _chance(task["majority"]), *scores, *failures]
        )
    groups: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in results["macro"]:
        if row["arm"] == arm:
            groups.setdefault(row["group"], {})[row["measure"]] = row
    for group, found in groups.items():
        first = max(found.values(), key=lambda row: len(row["tasks"]))
        whole = {name: row for name, row in found.items() if row["tasks"] == first["tasks"]}
        scores = [_score(whole.get(name), interval=name == GENERATED) for name in _SCORES]
        rows.append([f"mean of {group}", f"{len(first['tasks'])} tasks", _chance(first["chance"]), "", *scores, "", ""])
    return rows


def other_lines(results: Mapping[str, Any], arm: str) -> list[str]:
    """What the table has no column for: losses, measures of documents, of lm-eval's tasks, how batch sizes differ."""
    lines = []
    for task in results["tasks"]:
        known = any(name in task["measures"] for name in _SCORES)
        if task["arm"] == arm and not known:
            told = ", ".join(
                f"{label(m)} {_score(row, measure=m)} {unit(m)}".rstrip() for m, row in task["measures"].items()
            )
            lines.append(f"{task['task']} ({task['n']} rows): {told}")
        if task["arm"] == arm and task["contamination"] is not None:
            lines.append(_contaminated(task))
    for effect in results["batch_effect"]:
        if effect["arm"] == arm:
            parts = {"predictions": "predicted texts", "verdicts": "verdicts", "options": "likeliest options"}
            told = ", ".join(
                f"{words} {_score({'mean': effect[key]['share'], **effect[key]})}"
                for key, words in parts.items()
                if effect[key] is not None
            )
            sizes = " and ".join(map(str, effect["batch_sizes"]))
            told += f"; losses of answers by up to {effect['nll_largest']:.1g} nats a token"
            lines.append(f"changed between batch sizes {sizes}, % of {effect['rows']} rows: {told}")
    return lines


def tables(results: Mapping[str, Any]) -> list[RenderableType]:
    """One table an arm, what it has no column for, comparisons of macro averages, failures and notes."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    made: list[RenderableType] = []
    for arm in dict.fromkeys(task["arm"] for task in results["tasks"]):
        rows = rows_of(results, arm)
        if rows:
            table = Table(title=escape(arm), title_justify="left", box=box.SIMPLE_HEAD)
            for place, column in enumerate(COLUMNS):
                table.add_column(column, justify="left" if place == 0 else "right", overflow="fold")
            for row in rows:
                table.add_row(*map(escape, row), style="bold" if row[0].startswith("mean of ") else None)
            made.append(table)
        made += [Text(f"{arm}: {line}") for line in other_lines(results, arm)]
    made += [Text(line) for line in _compared(results)]
    made += [Text(f"failed: {f['arm']}, seed {f['seed']}: {f['error']}", style="red") for f in results["failures"]]
    made += [Text(f"note: {note}", style="dim") for note in [LEGEND, *results["notes"]]]
    return made


def markdown(results: Mapping[str, Any], arm: str) -> str:
    """One arm as a Markdown table."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---|" + "---:|" * (len(COLUMNS) - 1)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows_of(results, arm))]) + "\n"


def _contaminated(task: Mapping[str, Any]) -> str:
    found = task["contamination"]
    told = f"{task['task']}: {found['dirty']} of {found['examples']} rows stand in training data"
    clean = found["clean"].get(GENERATED)
    return told if clean is None else f"{told}; right answers on the others {_score(clean)}"


def _compared(results: Mapping[str, Any]) -> list[str]:
    lines = []
    for row in results["macro"]:
        pair = row.get("comparison")
        if pair is not None and row["measure"] in (GENERATED, OPTION):
            span = " to ".join(show(pair[key], row["measure"], sign=True, minus="-") for key in ("low", "high"))
            lines.append(
                f"mean of {row['group']}, {label(row['measure'])}: {row['arm']} minus {pair['baseline']} "
                f"{show(pair['difference'], row['measure'], sign=True, minus='-')} points ({span}), "
                f"p {pair['p_value']:.3f}"
            )
    return lines


def _score(row: Mapping[str, Any] | None, *, interval: bool = True, measure: str = GENERATED) -> str:
    if row is None:
        return _NOTHING
    mean, low, high = (show(row[key], measure, minus="-") for key in ("mean", "low", "high"))
    side = _SIDES[row["beside_chance"]] if "beside_chance" in row else ""
    return f"{mean} ({low} to {high}){side}" if interval else f"{mean}{side}"


def _chance(value: float | None) -> str:
    return _NOTHING if value is None else show(value, GENERATED)


def _count(value: int | None) -> str:
    return _NOTHING if value is None else str(value)
