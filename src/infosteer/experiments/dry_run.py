"""A recipe on tiny random models: every arm and set once, in minutes on a CPU. Its numbers mean nothing.

The model is one of the recipe's family with three narrow layers and random weights; tokens are cut by the embedded
base's tokenizer; a few rows are trained on for two steps and a few are asked. Rows that are not here are made up.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from infosteer.errors import DataError
from infosteer.experiments.inputs import training_rows
from infosteer.experiments.judge import load_sets
from infosteer.experiments.known import Shape, config_of
from infosteer.experiments.parts import Part, Parts, covering, parts_of
from infosteer.experiments.recipe import Recipe, prepared, read_raw, recipe_from
from infosteer.experiments.reporter import Reporter
from infosteer.experiments.run import Run
from infosteer.experiments.sections import Arm, DataSettings, EvaluateSettings
from infosteer.experiments.stand_in import shape_at_hand
from infosteer.experiments.study import run_parts
from infosteer.training.loading import EMBEDDED, load_tokenizer

CONTEXT, LENGTH = 1024, 512
ROWS, ASKED = 8, 4
_TRAIN: dict[str, Any] = {
    "max_steps": 2,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "warmup_steps": 0,
    "logging_steps": 1,
    "save_steps": None,
    "save_model": False,
    "dtype": "float32",
    "bf16": False,
    "optim": "adamw_torch",
    "report_to": "none",
}
_MADE_UP = "rows-made-up.jsonl"
_QUESTION, _OPTIONS = "Question {}: made up.\nAnswer:", ["answer1", "answer2"]


@dataclass(kw_only=True, slots=True)
class Shrunk:
    """A recipe, or parts, made small.

    Attributes:
        models: folder of a tiny model -> the model it stands for.
        missing: what is not here and was made up, in words.
    """

    parts: Parts
    models: dict[str, str]
    missing: list[str] = field(default_factory=list)


def dry_run(
    recipe: str | Path | Mapping[str, Any],
    output: Path,
    *,
    overrides: Sequence[str] = (),
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Run a recipe, in parts or not, small.

    Returns: ``folder``, ``parts`` and ``trainings`` done, and what is ``missing`` for the real run, in words.

    Raises: InfoSteerError for whatever a run would refuse, but for missing rows.
    """
    data, source, folder = read_raw(recipe)
    reporter = reporter or Reporter()
    with tempfile.TemporaryDirectory(prefix="infosteer-dry-") as scratch:
        if "parts" in data:
            small = shrink(parts_of(data, source, folder, overrides), Path(scratch))
            run_parts(small.parts, output, reporter, stands_for=small.models)
            recipes, missing = [part.recipe for part in small.parts.chosen], small.missing
        else:
            one, missing = shrink_recipe(recipe_from(prepared(data, overrides), source, folder), Path(scratch), {})
            Run(one, output, reporter).run()
            recipes = [one]
    return {
        "folder": str(output),
        "parts": len(recipes),
        "trainings": sum(len(one.arms) * len(one.seeds) for one in recipes),
        "missing": missing,
    }


def shrink(parts: Parts, folder: Path) -> Shrunk:
    """As few of the parts as have every value of every axis, each made small; models and made-up rows go to ``folder``.

    Raises: InfoSteerError for models whose family is not described.
    """
    models: dict[str, str] = {}
    missing: dict[str, None] = {}
    small = []
    for part in covering(parts):
        recipe, absent = shrink_recipe(part.recipe, folder, models)
        small.append(Part(name=part.name, place=part.place, recipe=recipe))
        missing |= dict.fromkeys(absent)
    chosen = replace(parts, chosen=tuple(small))
    return Shrunk(parts=chosen, models={path: model for model, path in models.items()}, missing=list(missing))


def shrink_recipe(recipe: Recipe, folder: Path, models: dict[str, str]) -> tuple[Recipe, list[str]]:
    """One recipe made small, and what is missing for the real one. ``models``: model -> folder, filled in."""
    if recipe.model not in models:
        models[recipe.model] = str(tiny_model(recipe.model, folder / f"model-{len(models)}"))
    train = {**_TRAIN, "max_length": LENGTH if recipe.train.max_length is not None else None}
    missing: list[str] = []
    data, made_up = _data(recipe.data, folder, missing)
    arms = {}
    for name, arm in recipe.arms.items():
        own = {} if made_up else {k: v for k, v in arm.data.items() if k != "limit"}
        arms[name] = Arm(methods=arm.methods, train={k: v for k, v in arm.train.items() if k not in train}, data=own)
    small = replace(
        recipe,
        model=models[recipe.model],
        data=data,
        train=replace(recipe.train, **train),
        arms=arms,
        seeds=recipe.seeds[:1],
        evaluate={name: _set(name, one, folder, missing) for name, one in recipe.evaluate.items()},
    )
    return small, missing


def tiny_model(model: str, folder: Path) -> Path:
    """A random model of the same family with three layers, saved with the embedded base's tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM

    tokenizer = load_tokenizer(EMBEDDED)
    ids = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
    config = config_of(tiny_shape(shape_at_hand(model), len(tokenizer)), max_position_embeddings=CONTEXT, **ids)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config, trust_remote_code=False).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_shape(shape: Shape, vocabulary: int) -> Shape:
    """The same family and kind of attention, small; three layers, so that early, middle and late differ."""
    kv_heads = 2 if shape.kv_heads < shape.heads else 4
    small = replace(shape, layers=3, hidden=32, width=64, vocabulary=vocabulary)
    return replace(small, heads=4, kv_heads=kv_heads, head_dim=8)


def _data(data: DataSettings, folder: Path, missing: list[str]) -> tuple[DataSettings, bool]:
    small = replace(data, limit=min(data.limit or ROWS, ROWS))
    try:
        training_rows(small, 1)
    except DataError as error:
        missing.append(f"training rows {', '.join(data.sources)}: {error.what}")
        rows = [{"prompt": _QUESTION.format(i), "completion": " " + _OPTIONS[i % 2]} for i in range(ROWS)]
        return DataSettings(train=_written(folder / f"train-{_MADE_UP}", rows), format="prompt_completion"), True
    return small, False


def _set(name: str, one: EvaluateSettings, folder: Path, missing: list[str]) -> EvaluateSettings:
    small = replace(one, limit=min(one.limit or ASKED, ASKED), max_new_tokens=8, batch_size=ASKED)
    try:
        _load(name, small)
    except DataError as error:
        missing.append(f"test rows {one.source}: {error.what}")
        rows = [{"prompt": _QUESTION.format(i), "answer": _OPTIONS[i % 2], "options": _OPTIONS} for i in range(ASKED)]
        source = _written(folder / f"test-{_MADE_UP}", rows)
        return EvaluateSettings(source=source, format="prompt_completion", max_new_tokens=8, batch_size=ASKED)
    return small


def _load(name: str, settings: EvaluateSettings) -> None:
    load_sets(Recipe(data=DataSettings(train="lab:facts"), arms={"plain": Arm()}, evaluate={name: settings}))


def _written(path: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)
