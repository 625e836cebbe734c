"""What goes into the trainings: rows, and methods that fit the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from infosteer.experiments.recipe import Recipe
from infosteer.experiments.sections import DataSettings

GENERATED = "lab:"  # sources whose rows are drawn from the seed


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingRows:
    """Rows of all sources in a row, and how many bad ones were left out."""

    rows: list[dict[str, Any]]
    skipped: int


def training_rows(data: DataSettings, seed: int) -> TrainingRows:
    """The training rows of one seed; a generated source draws them from the seed, the same for every arm."""
    from infosteer.training.rows import read_rows

    rows: list[dict[str, Any]] = []
    skipped = 0
    for source in data.sources:
        options = {"seed": seed, **data.options} if source.startswith(GENERATED) else data.options
        part = read_rows(
            source,
            purpose="train",
            format=data.format,
            split=data.split,
            fields=data.fields,
            template=data.template,
            skip_bad_rows=data.skip_bad_rows,
            limit=data.limit,
            **options,
        )
        rows += part
        skipped += part.skipped
    return TrainingRows(rows=rows, skipped=skipped)


def check_layers(recipe: Recipe) -> None:
    """Every method's layers against the model's, without loading weights.

    Raises: ArchitectureError for a model without known sites; ConfigError for layers that it does not have.
    """
    from infosteer.core.registry import build_method
    from infosteer.models import locate
    from infosteer.training.loading import load_skeleton

    if not any(arm.methods for arm in recipe.arms.values()):
        return
    sites = locate(load_skeleton(recipe.model), trust_structure=recipe.trust_structure)
    for name, arm in recipe.arms.items():
        for index, mapping in enumerate(arm.methods):
            method = build_method(mapping, where=f"arms.{name}[{index}]")
            if hasattr(method, "select"):
                method.select(sites)
