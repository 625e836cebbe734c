"""Looking inside a run: its saved models, the texts to read with them, and the files that its report shows."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infosteer.core.registry import build_method
from infosteer.core.surfaces import InterventionMethod
from infosteer.errors import ConfigError, RunError
from infosteer.experiments.inputs import calibration_texts
from infosteer.experiments.judge import load_sets, row_text
from infosteer.experiments.recipe import BASE_ARM, Recipe, load_recipe
from infosteer.experiments.rundir import RunDir

if TYPE_CHECKING:
    from infosteer.inspection.write import Subject

TEXTS = 6  # shown token by token
CORPUS = 200  # of each evaluation set, for key regions
_LONGEST = 1_000  # characters of a text that is shown
_MODEL_FILES = ("config.json", "adapter_config.json")


def look_inside(
    run: Path,
    *,
    texts: Mapping[str, str] | None = None,
    layers: str = "all",
    seed: int | None = None,
    note: Callable[[str], None] = lambda line: None,
) -> list[Path]:
    """Reads the base and every saved model of one seed, and leaves what they do in the run's folder.

    Args:
        texts: name -> text to show token by token; the first examples of the evaluation sets unless given.
        seed: whose models; the first one that has any unless given.
        note: told what is being read.

    Returns:
        ``inspection/tokens.json``, ``regions.json``, ``memories.json``.

    Raises:
        RunError: a folder that is no run, or one that kept no models. Otherwise as reading models and data does.
    """
    from infosteer.inspection.write import write_inspection
    from infosteer.training.loading import load_tokenizer

    folder = RunDir(run)
    if not folder.recipe_file.is_file():
        raise RunError("This is not a run's folder.", where=run, expected="recipe.yaml, as `infosteer run` writes it")
    recipe = load_recipe(str(folder.recipe_file))
    seed, saved = _saved(recipe, folder, seed)
    subjects = [_subject(recipe, BASE_ARM, None, recipe.model)]
    subjects += [_subject(recipe, arm, seed, str(place)) for arm, place in saved.items()]
    for arm in recipe.arms:
        if arm not in saved:
            note(f"{arm}: no model was kept for seed {seed}, it is left out")
    examples, corpus = _examples(recipe, load_tokenizer(recipe.model))
    frozen = calibration_texts(recipe.data)
    return write_inspection(
        run,
        subjects,
        texts or examples,
        frozen or corpus,
        layers=layers,
        source="of the recipe's calibration and evaluation data" if frozen else "of the recipe's evaluation sets",
        note=note,
    )


def _saved(recipe: Recipe, folder: RunDir, seed: int | None) -> tuple[int, dict[str, Path]]:
    """The seed to read and the folders of its models, by arm."""
    if seed is not None and seed not in recipe.seeds:
        raise ConfigError(
            "the run has no such seed", where="seed", got=seed, expected=", ".join(map(str, recipe.seeds))
        )
    for candidate in recipe.seeds if seed is None else (seed,):
        places = {arm: folder.checkpoint_folder(arm, candidate) for arm in recipe.arms}
        found = {arm: p for arm, p in places.items() if any((p / name).is_file() for name in _MODEL_FILES)}
        if found:
            return candidate, found
    raise RunError(
        "The run kept no models" + ("." if seed is None else f" of seed {seed}."),
        where=folder.path / "checkpoints",
        expected="models that `train.save_model: true` keeps",
        fix="run the recipe again into another folder with train.save_model=true",
    )


def _subject(recipe: Recipe, arm: str, seed: int | None, place: str) -> Subject:
    from infosteer.inspection.write import Subject
    from infosteer.training.loading import load_model, load_tokenizer, merge_adapters

    methods = [build_method(mapping) for mapping in recipe.arms[arm].methods] if arm in recipe.arms else []
    edits = [method for method in methods if isinstance(method, InterventionMethod) and not method.off]

    def load() -> tuple[Any, Any]:
        return merge_adapters(load_model(place)), load_tokenizer(recipe.model)

    return Subject(name=arm, seed=seed, load=load, edits=edits)


def _examples(recipe: Recipe, tokenizer: Any) -> tuple[dict[str, str], list[str]]:
    """A few examples to show, from every set in turn, and the texts of all sets."""
    by_set = {
        name: [row_text(row, tokenizer) for row in loaded.rows[:CORPUS]] for name, loaded in load_sets(recipe).items()
    }
    turns = itertools.chain.from_iterable(
        ((f"{name} {i + 1}", texts[i]) for name, texts in by_set.items() if i < len(texts)) for i in range(TEXTS)
    )
    shown = {name: text[:_LONGEST] for name, text in itertools.islice(turns, TEXTS)}
    return shown, [text for texts in by_set.values() for text in texts]
