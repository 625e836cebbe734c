"""The model before any training: evaluated once a run, like an arm that no seed trained."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from infosteer.experiments.judge import add_probes, add_utilisation, ask_probes, evaluate_sets, outcome_of
from infosteer.experiments.recipe import BASE_ARM, BASE_SEED, Recipe

if TYPE_CHECKING:
    from infosteer.evaluation import EvalSet


def base_outcome(
    recipe: Recipe, sets: Mapping[str, EvalSet], *, progress: Callable[[str, int, int], None] | None = None
) -> dict[str, Any]:
    """Load the model, evaluate it on every set, and find which of the facts asked for it stores.

    Returns: an outcome like that of an arm, without ``train`` and with ``stored``: set -> for each example, whether the
        base stores its fact (lab question sets only).

    Raises: InfoSteerError for a model that cannot be loaded or evaluated.
    """
    from infosteer.evaluation import stored_facts
    from infosteer.training.loading import load_model, load_tokenizer

    tokenizer = load_tokenizer(recipe.model)
    with without_bars():
        model = load_model(recipe.model, dtype=recipe.train.dtype).eval()
    with _like_a_trained_arm(model, recipe.train.bf16):
        judged = evaluate_sets(model, tokenizer, sets, recipe, progress=progress)
        ask_probes(judged, model, tokenizer, sets, recipe)
        add_probes(judged, model, tokenizer, sets, recipe)
        batch_size = max(settings.batch_size for settings in recipe.evaluate.values())
        stored = stored_facts(model, tokenizer, sets, batch_size=batch_size, progress=progress)
    add_utilisation(judged, stored)
    return {**outcome_of(BASE_ARM, BASE_SEED, judged), "stored": stored}


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """Keeps the bars that transformers draws while it loads weights out of ours."""
    from transformers.utils import logging as transformers_logging

    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


@contextlib.contextmanager
def _like_a_trained_arm(model: Any, bf16: bool | None) -> Iterator[None]:
    """On the device and in the precision that the trainer leaves its models in, so that the rows compare."""
    import torch

    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    assert device is not None
    model.to(device)
    if bf16 is None:
        bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
        yield
