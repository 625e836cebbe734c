"""Published figures that results are set beside: read from ``figures.yaml``, stated nowhere else."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infosteer.core.config import load_yaml
from infosteer.errors import ConfigError
from infosteer.experiments.parts import Reproduces

FILE = Path(__file__).resolve().with_name("figures.yaml")


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """One published table, in percent.

    Attributes:
        paper, title: for people.
        number: the table's.
        sets: columns of single sets.
        averages: column -> the sets it is the mean of.
        rows: arm -> what the table calls it.
        models: model -> arm -> column -> figure.
        unnamed: arm -> column -> figure, of a model that the paper does not name.
        cautions: what must be said beside the figures.
    """

    paper: str
    number: int
    title: str
    sets: tuple[str, ...]
    averages: dict[str, tuple[str, ...]]
    rows: dict[str, str]
    models: dict[str, dict[str, dict[str, float]]]
    unnamed: dict[str, dict[str, float]]
    cautions: tuple[str, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns, in order."""
        return (*self.sets, *self.averages)

    def of(self, model: str) -> dict[str, dict[str, float]]:
        """Arm -> column -> figure: the model's own, or those of the model that is not named."""
        return self.models.get(model, {}) if self.models else self.unnamed


def load_figures(reproduces: Reproduces) -> Figures:
    """The figures of one table.

    Raises: ConfigError for a paper or table that is not there, or a row that the table does not have.
    """
    papers = _papers()
    where = "reproduces"
    if reproduces.paper not in papers:
        raise ConfigError(
            "There are no figures of this paper.",
            where=f"{where}.paper",
            got=reproduces.paper,
            expected=", ".join(papers),
            fix="leave reproduces out, or add the figures to figures.yaml",
        )
    paper = papers[reproduces.paper]
    if reproduces.table not in paper["tables"]:
        raise ConfigError(
            "There are no figures of this table.",
            where=f"{where}.table",
            got=reproduces.table,
            expected=", ".join(map(str, paper["tables"])),
        )
    table = paper["tables"][reproduces.table]
    for arm, row in reproduces.rows.items():
        if row not in table["rows"]:
            raise ConfigError(
                "The table has no such row.", where=f"{where}.rows.{arm}", got=row, expected=", ".join(table["rows"])
            )
    sets = tuple(table.get("sets", ()))
    return Figures(
        paper=paper["title"],
        number=reproduces.table,
        title=table["title"],
        sets=sets,
        averages={name: tuple(of) for name, of in table.get("averages", {}).items()},
        rows=dict(table["rows"]),
        models={model: _rows(rows, sets) for model, rows in table.get("models", {}).items()},
        unnamed=_rows(table.get("unnamed", {}), sets),
        cautions=tuple(table.get("cautions", ())),
    )


def _rows(rows: Mapping[str, Any], sets: tuple[str, ...]) -> dict[str, dict[str, float]]:
    return {arm: dict(v) if isinstance(v, Mapping) else dict(zip(sets, v, strict=True)) for arm, v in rows.items()}


@functools.cache
def _papers() -> dict[str, Any]:
    return dict(load_yaml(FILE))
