"""What goes into the trainings: rows, and methods that fit the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from infosteer.errors import ConfigError, DataError
from infosteer.experiments.adapters import check_adapters
from infosteer.experiments.recipe import Recipe
from infosteer.experiments.sections import DataSettings

GENERATED = "lab:"  # sources whose rows are drawn from the seed


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingRows:
    """Rows of all sources in a row, file and line of each, and how many bad ones were left out."""

    rows: list[dict[str, Any]]
    places: list[str]
    skipped: int


def training_rows(data: DataSettings, seed: int) -> TrainingRows:
    """The training rows of one seed; a generated source draws them from the seed, the same for every arm."""
    from infosteer.training.rows import read_rows

    rows: list[dict[str, Any]] = []
    places: list[str] = []
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
        places += part.places
        skipped += part.skipped
    return TrainingRows(rows=rows, places=places, skipped=skipped)


def calibration_texts(data: DataSettings) -> list[str] | None:
    """The texts for methods that ask which memories are in use; None where the recipe names none.

    Raises: DataError for a source that is missing or holds chat messages.
    """
    from infosteer.training.rows import read_rows

    if data.calibration is None:
        return None
    rows = read_rows(data.calibration, purpose="train", limit=data.calibration_limit)
    texts = [row["text"] if "text" in row else row["prompt"] + row["completion"] for row in rows if _is_text(row)]
    if len(texts) < len(rows):
        raise DataError(
            "Calibration takes texts, not chat messages.",
            where="data.calibration",
            got=data.calibration,
            expected="rows with text, or with prompt and completion as text",
        )
    return texts


def _is_text(row: Mapping[str, Any]) -> bool:
    return isinstance(row.get("text", row.get("completion")), str)


def check_arms(recipe: Recipe, skeleton: Any = None) -> None:
    """Every arm against the model, without loading weights: layers of its methods, their texts, modules for adapters.

    Args:
        skeleton: the model's modules without weights; read from its config unless given.

    Raises: ArchitectureError for a model without known sites; ConfigError for layers that it does not have, and for a
        method that needs a calibration text where there is none, or for modules that an adapter would not find;
        DataError for a text that cannot be read.
    """
    from infosteer.core.contract import SiteMethod
    from infosteer.core.registry import build_method
    from infosteer.core.surfaces import ParamMethod, ProbeMethod
    from infosteer.models import locate
    from infosteer.training.loading import load_skeleton

    adapted = any(recipe.train_for(name).peft is not None for name in recipe.arms)
    if not adapted and not any(arm.methods for arm in recipe.arms.values()):
        return
    modules = skeleton or load_skeleton(recipe.model)
    if adapted:
        check_adapters(recipe, modules)
    if not any(arm.methods for arm in recipe.arms.values()):
        return
    sites = locate(modules, trust_structure=recipe.trust_structure)
    for name, arm in recipe.arms.items():
        texts = calibration_texts(recipe.data_for(name))
        for index, mapping in enumerate(arm.methods):
            method = build_method(mapping, where=f"arms.{name}[{index}]")
            if isinstance(method, SiteMethod):
                method.select(sites)
            asks = isinstance(method, (ParamMethod, ProbeMethod)) and method.calibrates and not method.off
            if asks and texts is None:
                raise ConfigError(
                    f"{mapping['method']} needs a text that shows which memories are in use.",
                    where=f"arms.{name}[{index}]",
                    got="data.calibration is not set",
                    fix="set it to a source of texts, e.g. data: {calibration: lab:facts/texts}",
                )
