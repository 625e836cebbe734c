"""What a recipe would do, before it does it: sizes, layers, and the first rows as the model will see them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from infosteer.experiments.inputs import check_arms, training_rows
from infosteer.experiments.judge import load_sets
from infosteer.experiments.parts import Parts
from infosteer.experiments.recipe import Recipe
from infosteer.experiments.schema import flat
from infosteer.experiments.sections import Arm
from infosteer.experiments.stand_in import skeleton_of, tokenizer_of, told
from infosteer.experiments.study import check_inputs
from infosteer.training.encode import IGNORED, Encoded, encode_rows
from infosteer.training.pretrain_config import config_from_recipe
from infosteer.training.settings import TrainSettings


def preview(recipe: Recipe, count: int) -> dict[str, Any]:
    """Check everything that needs no weights, and describe it.

    Returns: ``summary`` (text by name) and ``rows``: the first ``count`` rows with their tokens, each with its text, id
        and whether it carries loss.

    Raises: InfoSteerError for whatever a run would refuse at its start.
    """
    training = training_rows(recipe.data, recipe.seeds[0])
    sets = load_sets(recipe)
    check_arms(recipe, skeleton_of(recipe.model)[0])
    tokenizer = tokenizer_of(recipe.model)[0]
    train = recipe.train
    encoded = _encoded(training.rows, tokenizer, train)
    lengths = [len(row["input_ids"]) for row in encoded.rows]
    summary = {
        "recipe": recipe.name or "(no name)",
        "model": recipe.model,
        **({"note": note} if (note := told(recipe.model)) else {}),
        "arms": "; ".join(f"{name}: {_arm(arm)}" for name, arm in recipe.arms.items()),
        **_own_rows(recipe, tokenizer),
        "baseline": recipe.baseline,
        "before training": "evaluated too, as the row base" if recipe.evaluate_base else "not evaluated",
        "seeds": f"{', '.join(map(str, recipe.seeds))} ({len(recipe.arms) * len(recipe.seeds)} trainings)",
        "training rows": f"{len(training.rows)}, and {training.skipped} bad ones skipped",
        "from": ", ".join(recipe.data.sources),
        "tokens a row": f"{min(lengths)} to {max(lengths)}, mean {sum(lengths) / len(lengths):.0f}",
        "cut at max_length": f"{encoded.truncated} rows; {encoded.dropped} dropped, no label left",
        "steps": _steps(train, len(lengths)),
        "loss on": "the completion" if train.completion_only_loss else "prompt and completion",
        "adapter": "none, all weights" if train.peft is None else f"{train.peft.method}, rank {train.peft.r}",
        "evaluation": "; ".join(f"{name}: {len(one.rows)} rows, {one.scoring}" for name, one in sets.items()),
    }
    return {"summary": summary, "rows": [_row(row, tokenizer) for row in encoded.rows[:count]]}


def preview_pretraining(data: Mapping[str, Any]) -> dict[str, Any]:
    """Check a recipe of stage ``pretrain`` and describe it, as ``preview`` does; there are no rows to show.

    Raises: ConfigError for a setting that pretraining does not know, or an impossible value.
    """
    import torch

    from infosteer.training.pretrain import make_model

    config = config_from_recipe(data)
    with torch.device("meta"):
        make_model(config, 2, 0, 1)
    summary = {
        "recipe": data.get("name") or "(no name)",
        "pretrains": f"{config.family}, {', '.join(f'{key} {value}' for key, value in config.architecture.items())}",
        "world": f"lab:{config.lab or 'facts'}",
        "steps": f"{config.steps:,} in {len(config.stages)} stages",
        "optimizer": config.optimizer,
    }
    return {"summary": summary, "rows": []}


def preview_parts(parts: Parts, count: int) -> dict[str, Any]:
    """Check everything that needs no weights of the chosen parts, and describe them: the first as ``preview`` does.

    Raises: as ``preview``; DataError that lists every part whose rows are missing.
    """
    sizes: dict[str, str] = {}

    def check(recipe: Recipe) -> None:
        rows = len(training_rows(recipe.data, recipe.seeds[0]).rows)
        sets = ", ".join(f"{name} {len(one.rows)}" for name, one in load_sets(recipe).items())
        sizes[_task(recipe)] = f"{rows} training rows; steps: {_steps(recipe.train, rows)}; asks {sets}"
        check_arms(recipe, skeleton_of(recipe.model)[0])

    check_inputs(parts, check)
    lines = {f"part {part.name}": f"{part.recipe.model}; {sizes[_task(part.recipe)]}" for part in parts.chosen}
    first = preview(parts.chosen[0].recipe, count)
    told_of = parts.reproduces
    about = f"; beside table {told_of.table} of arXiv {told_of.paper}" if told_of is not None else ""
    summary = {"parts": f"{len(parts.chosen)}{about}", **lines, **first["summary"]}
    return {"summary": summary, "rows": first["rows"]}


def _steps(train: TrainSettings, rows: int) -> str:
    batch = train.per_device_train_batch_size * train.gradient_accumulation_steps
    steps = train.max_steps if train.max_steps > 0 else math.ceil(rows / batch * train.num_train_epochs)
    warmup = train.warmup_steps * steps if train.warmup_steps < 1 else train.warmup_steps
    never = "; the warm-up never ends" if warmup >= steps else ""
    return f"about {steps} of {batch} rows, on one device{never}"


def _task(recipe: Recipe) -> str:
    return repr((recipe.data, recipe.evaluate))


def _arm(arm: Arm) -> str:
    methods = ", ".join(str(method["method"]) for method in arm.methods) or "plain"
    own = [f"{key}={value}" for section in ("train", "data") for key, value in flat(getattr(arm, section), section)]
    return f"{methods} ({', '.join(own)})" if own else methods


def _own_rows(recipe: Recipe, tokenizer: Any) -> dict[str, str]:
    """A line for every arm whose training rows are not the recipe's: they are read and encoded too."""
    lines = {}
    for name in recipe.arms:
        train, data = recipe.train_for(name), recipe.data_for(name)
        changed = (data, train.completion_only_loss, train.max_length)
        if changed != (recipe.data, recipe.train.completion_only_loss, recipe.train.max_length):
            rows = training_rows(data, recipe.seeds[0])
            encoded = _encoded(rows.rows, tokenizer, train)
            lines[f"rows of {name}"] = (
                f"{len(encoded.rows)}, and {rows.skipped} bad ones skipped; {encoded.truncated} cut, "
                f"{encoded.dropped} dropped"
            )
    return lines


def _encoded(rows: list[dict[str, Any]], tokenizer: Any, train: TrainSettings) -> Encoded:
    return encode_rows(rows, tokenizer, completion_only_loss=train.completion_only_loss, max_length=train.max_length)


def _row(row: dict[str, list[int]], tokenizer: Any) -> dict[str, Any]:
    tokens = [
        {"text": tokenizer.decode([token]), "id": token, "loss": label != IGNORED}
        for token, label in zip(row["input_ids"], row["labels"], strict=True)
    ]
    return {
        "tokens_total": len(tokens),
        "tokens_with_loss": sum(token["loss"] for token in tokens),
        "tokens": tokens,
    }
