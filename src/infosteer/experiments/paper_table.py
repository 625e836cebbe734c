"""A published table with our results beside its figures, in Markdown.

A column that is an average has the mean of its sets; its interval joins theirs as of independent trainings: with half
widths d_i on one side, sqrt(sum d_i^2) / n there. Where some of its sets have no result, it is the mean of the others,
marked, and compared with the published mean of the same sets if that can be had.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from infosteer.experiments.figures import Figures

MEASURE = "exact_match"
PARTIAL = "*"  # marks an average over some of its sets


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """A mean, or a difference from the plain arm, with its 95 % interval, in percent; over ``of`` sets."""

    mean: float
    low: float
    high: float
    seeds: int = 0
    of: int = 1


@dataclass(kw_only=True, slots=True)
class Cells:
    """Our side: model -> arm -> column. ``rows``: arm -> the published row it stands beside."""

    means: dict[str, dict[str, dict[str, Cell]]] = field(default_factory=dict)
    gains: dict[str, dict[str, dict[str, Cell]]] = field(default_factory=dict)
    rows: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    warning: str = ""


def read_cells(runs: Iterable[tuple[str, Mapping[str, Any]]], figures: Figures, rows: Mapping[str, str]) -> Cells:
    """Our cells from (model, results.json) of every part; columns that average sets are filled in."""
    cells = Cells()
    for model, results in runs:
        for row in results["summary"]:
            _put(cells.means, model, row, row["mean"], row["n"])
        for row in results["comparisons"]:
            _put(cells.gains, model, row, row["difference"], 0)
        failed = [f"{model}, {one['arm']}, seed {one['seed']}: {one['error']}" for one in results["failures"]]
        cells.notes += [f"failed: {text.splitlines()[0]}" for text in failed]
        cells.notes += [note for note in results["notes"] if "preliminary" in note]
    for side in (cells.means, cells.gains):
        for arms in side.values():
            for arm, found in arms.items():
                cells.rows.setdefault(arm, rows.get(arm, arm))
                for name, of in figures.averages.items():
                    cell = _average([found[one] for one in of if one in found])
                    found.update({} if cell is None else {name: cell})
    return cells


def _put(side: dict[str, dict[str, dict[str, Cell]]], model: str, row: Mapping[str, Any], mean: float, n: int) -> None:
    name, _, measure = row["metric"].rpartition("/")
    if measure == MEASURE:
        cell = Cell(mean=100 * mean, low=100 * row["low"], high=100 * row["high"], seeds=n)
        side.setdefault(model, {}).setdefault(row["arm"], {})[name] = cell


def _average(cells: Sequence[Cell]) -> Cell | None:
    if not cells:
        return None
    n = len(cells)
    mean = math.fsum(c.mean for c in cells) / n
    below = math.sqrt(math.fsum((c.mean - c.low) ** 2 for c in cells)) / n
    above = math.sqrt(math.fsum((c.high - c.mean) ** 2 for c in cells)) / n
    return Cell(mean=mean, low=mean - below, high=mean + above, seeds=min(c.seeds for c in cells), of=n)


def published(figures: Figures, model: str, arm: str, column: str, sets: Iterable[str]) -> float | None:
    """The published figure of a cell; of an average over some sets, the mean of those, where they are published.

    Args:
        arm: the published row.
        sets: the sets that have a result of ours.
    """
    found = figures.of(model).get(arm, {})
    if column not in figures.averages:
        return found.get(column)
    wanted = figures.averages[column]
    here = [name for name in wanted if name in set(sets)]
    if len(here) in (0, len(wanted)) and column in found:
        return found[column]
    chosen = here or wanted
    if all(name in found for name in chosen):
        return math.fsum(found[name] for name in chosen) / len(chosen)
    return found.get(column)


def comparable(figures: Figures, model: str, arm: str, column: str, found: Mapping[str, Cell]) -> bool:
    """Whether ours and the published figure are over the same sets."""
    if column not in found:
        return False
    wanted = figures.averages.get(column)
    if wanted is None or found[column].of == len(wanted):
        return True
    return all(name in figures.of(model).get(arm, {}) for name in wanted if name in found)


def markdown(figures: Figures, cells: Cells) -> str:
    """The table: for every model the levels and the gains over plain training, with ours, published and difference."""
    lines = [f"# Table {figures.number}: {figures.title}", "", f"Beside the figures of {figures.paper}.", ""]
    lines += [f"**{cells.warning}**", ""] if cells.warning else []
    models = list(dict.fromkeys([*(m for m in figures.models if m in cells.means), *cells.means]))
    if not models:
        lines += ["No part has results yet.", ""]
    for model in models:
        lines += [f"## {model}", ""]
        if not figures.of(model):
            lines += ["The paper has no figures of this model.", ""]
        elif not figures.models:
            lines += ["The paper does not say which model its figures are of.", ""]
        lines += _level_table(figures, cells, model)
        gains = _gain_table(figures, cells, model)
        lines += ["Gain over plain training, paired by seed and example:", "", *gains] if gains else []
    return "\n".join([*lines, *_notes(figures, cells)]) + "\n"


def _level_table(figures: Figures, cells: Cells, model: str) -> list[str]:
    ours = cells.means[model]
    rows: list[tuple[str, list[list[str]]]] = []
    for arm in _arms(figures, cells, ours):
        row, found = cells.rows.get(arm, arm), ours.get(arm, {})
        block = []
        for column in figures.columns:
            cell, theirs = found.get(column), published(figures, model, row, column, found)
            same = comparable(figures, model, row, column, found)
            block.append(_block(figures, column, cell, theirs, same))
        rows.append((_label(figures, arm, row), block))
    return _rows(figures, rows)


def _gain_table(figures: Figures, cells: Cells, model: str) -> list[str]:
    ours = cells.gains.get(model, {})
    rows = []
    for arm in _arms(figures, cells, ours):
        if arm not in ours:
            continue
        row, found = cells.rows.get(arm, arm), ours[arm]
        block = []
        for column in figures.columns:
            cell = found.get(column)
            both = [published(figures, model, one, column, found) for one in (row, "plain")]
            theirs = None if None in both else both[0] - both[1]  # type: ignore[operator]
            same = all(comparable(figures, model, one, column, found) for one in (row, "plain"))
            block.append(_block(figures, column, cell, theirs, same, sign="+"))
        rows.append((_label(figures, arm, row), block))
    return _rows(figures, rows) if rows else []


def _label(figures: Figures, arm: str, row: str) -> str:
    if row not in figures.rows:
        return arm
    return figures.rows[row] if arm == row else f"{arm} (beside {figures.rows[row]})"


def _arms(figures: Figures, cells: Cells, ours: Mapping[str, Any]) -> list[str]:
    """Published rows in their order, each followed by our arms that stand beside it; then all others."""
    ordered: list[str] = []
    for row in figures.rows:
        ordered += [row, *(arm for arm in ours if cells.rows.get(arm) == row and arm != row)]
    return [*ordered, *(arm for arm in ours if arm not in ordered)]


def _block(
    figures: Figures, column: str, cell: Cell | None, theirs: float | None, same: bool, *, sign: str = ""
) -> list[str]:
    wanted = figures.averages.get(column)
    mark = PARTIAL if cell is not None and wanted is not None and cell.of < len(wanted) else ""
    own = f"{cell.mean:{sign}.1f} ({cell.low:{sign}.1f} to {cell.high:{sign}.1f}){mark}" if cell is not None else ""
    paper = f"{theirs:{sign}.1f}" if theirs is not None else ""
    difference = f"{cell.mean - theirs:+.1f}" if cell is not None and theirs is not None and same else ""
    return [own, paper, difference]


def _rows(figures: Figures, rows: Sequence[tuple[str, list[list[str]]]]) -> list[str]:
    lines = ["| | | " + " | ".join(c.replace("_", " ") for c in figures.columns) + " |"]
    lines.append("|---|---|" + "---|" * len(figures.columns))
    for label, block in rows:
        for index, kind in enumerate(("ours", "paper", "difference")):
            values = [column[index] for column in block]
            if any(values):
                lines.append(f"| {label} | {kind} | " + " | ".join(values) + " |")
    return [*lines, ""]


def _notes(figures: Figures, cells: Cells) -> list[str]:
    seeds = sorted({c.seeds for arms in cells.means.values() for arm in arms.values() for c in arm.values() if c.seeds})
    notes = ["right answers, %; ours with 95 % intervals; the paper gives none"]
    if seeds:
        notes.append("seeds of ours: " + ", ".join(map(str, seeds)) + "; the paper's: 3")
    partial = any(
        cell.of < len(figures.averages[column])
        for arms in cells.means.values()
        for found in arms.values()
        for column, cell in found.items()
        if column in figures.averages
    )
    if partial:
        notes.append(f"{PARTIAL} over the sets that have results, beside the same sets of the paper where it has them")
    notes += [f"caution: {text}" for text in figures.cautions]
    return [f"- {note}" for note in dict.fromkeys([*notes, *cells.notes])]
