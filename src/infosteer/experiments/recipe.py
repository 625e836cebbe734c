"""Recipes: what to train, in which arms, from which seeds, and how to judge it. One YAML file says all of it.

Every key is declared here or in ``training.settings``; a key that is not declared is refused.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from infosteer.core.registry import build_method, describe_method
from infosteer.errors import ConfigError
from infosteer.experiments.library import read_recipe
from infosteer.experiments.overrides import apply_override
from infosteer.experiments.schema import build, merged, partial, to_plain
from infosteer.experiments.sections import Arm, DataSettings, EvaluateSettings
from infosteer.experiments.source import KeyPath, Source
from infosteer.experiments.sweep.settings import SweepSettings
from infosteer.training.settings import TrainSettings, setting

DATA_VARIABLE = "INFOSTEER_DATA"  # stands for the folder that shipped recipes call ../shared/data
BASE_ARM = "base"  # what the model before training is called where ``evaluate_base`` is set
BASE_SEED = 0  # no seed trained it; a number keeps files and results of one shape
_DATA_PREFIX = "../shared/data/"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """A whole comparison: model, data, training, arms, seeds, evaluation."""

    name: str = setting("", "names the default output folder; the file's name unless given")
    description: str = setting("", "for people; not used")
    model: str = setting("embedded", "`embedded`, `embedded:reasoning`, a folder, or a hub id")
    trust_structure: bool = setting(False, "let a structural search find the FFN sites of an unknown model")
    data: DataSettings = field(metadata={"help": "the training rows"})
    train: TrainSettings = field(default_factory=TrainSettings, metadata={"help": "how every arm is trained"})
    arms: dict[str, Arm] = field(
        metadata={
            "help": "name -> list of methods, or a mapping as below; the empty list is plain training, the baseline of "
            "comparisons"
        }
    )
    seeds: tuple[int, ...] = setting((1,), "every arm is trained once per seed; equal seeds share data order and start")
    evaluate: dict[str, EvaluateSettings] = field(metadata={"help": "name -> set; names appear in results"})
    evaluate_base: bool = setting(
        False, "evaluate the model before any training too, as the row `base`; lab questions then have `utilisation`"
    )
    sweep: SweepSettings | None = field(
        default=None, metadata={"help": "what `infosteer sweep` varies; `infosteer run` refuses a recipe that has it"}
    )

    @property
    def baseline(self) -> str:
        """The arm that others are compared with: the first plain one, else one without methods, else the first."""
        bare = [name for name, arm in self.arms.items() if not arm.methods]
        plain = [name for name in bare if self.arms[name].is_plain]
        return [*plain, *bare, *self.arms][0]

    def train_for(self, arm: str) -> TrainSettings:
        """How an arm is trained: the recipe's settings with the arm's own put in."""
        return _with_own(self.train, self.arms[arm].train, ("arms", arm, "train"))

    def data_for(self, arm: str) -> DataSettings:
        """The training rows of an arm: the recipe's settings with the arm's own put in."""
        return _with_own(self.data, self.arms[arm].data, ("arms", arm, "data"))

    def settings_of(self, arm: str) -> dict[str, Any]:
        """All that makes an arm what it is, as plain data: methods, train, data."""
        own = {"methods": self.arms[arm].methods, "train": self.train_for(arm), "data": self.data_for(arm)}
        return dict(to_plain(own))

    def to_config(self) -> dict[str, Any]:
        """Plain data that ``recipe_from`` turns back into an equal recipe."""
        plain = dict(to_plain(self))
        plain["arms"] = {
            name: {key: value for key, value in arm.items() if value or key == "methods"}
            if arm["train"] or arm["data"]
            else arm["methods"]
            for name, arm in plain["arms"].items()
        }
        if self.sweep is None:
            del plain["sweep"]
        return plain


def read_raw(
    spec: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()
) -> tuple[dict[str, Any], Source, Path]:
    """A recipe's plain data with the overrides applied, its source, and the folder relative paths may start from.

    Raises: ConfigError for a file that is missing or not plain YAML, and for overrides that do not parse.
    """
    if isinstance(spec, Mapping):
        data, source, folder = copy.deepcopy(dict(spec)), Source("recipe"), Path.cwd()
    else:
        data, source, folder, name = read_recipe(spec)
        if isinstance(data, dict):
            data.setdefault("name", name)
    if not isinstance(data, dict):
        raise ConfigError("A recipe is a mapping of keys to values.", where=source.name, got=type(data).__name__)
    return prepared(data, overrides), source, folder


def prepared(data: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """``data`` with sets that are given as a source alone written out, and the overrides applied, in place."""
    sets = data.get("evaluate")
    if isinstance(sets, Mapping):
        data["evaluate"] = {k: {"source": v} if isinstance(v, str) else v for k, v in sets.items()}
    for override in overrides:
        apply_override(data, override)
    return data


def pretrains(data: Mapping[str, Any]) -> bool:
    """Whether a recipe's mapping makes a base model instead of fine-tuning one."""
    train = data.get("train")
    return isinstance(train, Mapping) and train.get("stage") == "pretrain"


def load_recipe(spec: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """A checked recipe from a file, a shipped name, or a mapping.

    Raises: ConfigError naming the key, its line and the nearest known key.
    """
    return recipe_from(*read_raw(spec, overrides))


def recipe_from(data: Mapping[str, Any], source: Source, folder: Path) -> Recipe:
    """Check plain data against the declared keys, resolve paths, and write every method out with its defaults."""
    data = dict(data)
    if "parts" in data:
        raise ConfigError(
            "This recipe has parts, each a recipe of its own.",
            where=source.at(("parts",)),
            fix="`infosteer run` and `infosteer validate` take it as a whole; name one value of each part to have one",
        )
    if pretrains(data):
        raise ConfigError(
            "This recipe makes a base model; here is place for fine-tuning alone.",
            where=source.at(("train", "stage")),
            got="pretrain",
            fix="`infosteer run` makes the model, `infosteer validate` checks the recipe",
        )
    arms = data.get("arms")
    if isinstance(arms, Mapping):
        data["arms"] = {name: [] if methods is None else methods for name, methods in arms.items()}
    recipe = build(Recipe, data, (), source)
    _check(recipe, source)
    arms = {name: _resolve_arm(arm, name, data["arms"][name], source, folder) for name, arm in recipe.arms.items()}
    sets = {name: _resolve_set(one, folder) for name, one in recipe.evaluate.items()}
    found = tuple(resolve_path(source, folder) for source in recipe.data.sources)
    rows = replace(recipe.data, train=found[0] if isinstance(recipe.data.train, str) else found)
    if rows.calibration is not None:
        rows = replace(rows, calibration=resolve_path(rows.calibration, folder))
    model, sweep = resolve_path(recipe.model, folder), _resolve_sweep(recipe.sweep, folder)
    resolved = replace(recipe, arms=arms, evaluate=sets, data=rows, model=model, sweep=sweep)
    for name in arms:
        _check_training(resolved.train_for(name), resolved.data_for(name), ("arms", name), source)
    return resolved


def resolve_path(text: str, folder: Path) -> str:
    """A path that exists from here, the recipe's folder or its parent, made absolute; else the text itself."""
    if text.partition(":")[0] in ("embedded", "lab", "task") or not text:
        return text
    shared = os.environ.get(DATA_VARIABLE)
    if shared and f"{text}/".startswith(_DATA_PREFIX):
        return str(Path(shared).expanduser().resolve() / text[len(_DATA_PREFIX) :])
    for base in (Path.cwd(), folder, folder.parent):
        candidate = base / Path(text).expanduser()
        if candidate.exists():
            return str(candidate.resolve())
    return text


def _resolve_set(settings: EvaluateSettings, folder: Path) -> EvaluateSettings:
    """A set whose source, or the data folder of the task that it is, is an absolute path where it exists."""
    options = dict(settings.options)
    if isinstance(options.get("data"), str):
        options["data"] = resolve_path(options["data"], folder)
    return replace(settings, source=resolve_path(settings.source, folder), options=options)


def _resolve_sweep(sweep: SweepSettings | None, folder: Path) -> SweepSettings | None:
    """A sweep's values as plain data, its paths resolved."""

    def resolved(key: str, value: Any) -> Any:
        path = isinstance(value, str) and (key == "model" or key.endswith("data.train"))
        return resolve_path(value, folder) if path else to_plain(value)

    if sweep is None or sweep.grid is None:
        return sweep
    return replace(sweep, grid={key: tuple(resolved(key, v) for v in values) for key, values in sweep.grid.items()})


def _with_own(settings: Any, own: Mapping[str, Any], path: KeyPath) -> Any:
    return build(type(settings), merged(to_plain(settings), own), path, Source("recipe")) if own else settings


def _resolve_arm(arm: Arm, name: str, raw: Any, source: Source, folder: Path) -> Arm:
    path: KeyPath = ("arms", name, "methods") if isinstance(raw, Mapping) else ("arms", name)
    methods = tuple(_resolve_method(m, (*path, i), source) for i, m in enumerate(arm.methods))
    train = partial(TrainSettings, arm.train, ("arms", name, "train"), source)
    data = partial(DataSettings, arm.data, ("arms", name, "data"), source)
    if "train" in data:
        rows = data["train"]
        data["train"] = resolve_path(rows, folder) if isinstance(rows, str) else [resolve_path(r, folder) for r in rows]
    if data.get("calibration") is not None:
        data["calibration"] = resolve_path(data["calibration"], folder)
    return Arm(methods=methods, train=train, data=data)


def _resolve_method(mapping: dict[str, Any], path: KeyPath, source: Source) -> dict[str, Any]:
    try:
        return dict(describe_method(build_method(mapping, where=source.at(path))))
    except ConfigError as error:
        if error.where is not None:
            raise
        raise ConfigError(
            error.what, where=source.at(path), got=error.got, expected=error.expected, fix=error.fix
        ) from None


def _check(recipe: Recipe, source: Source) -> None:
    if not recipe.arms:
        raise ConfigError("A recipe needs at least one arm.", where=source.at(("arms",)), expected="e.g. {plain: []}")
    if not recipe.evaluate:
        raise ConfigError("A recipe needs at least one evaluation set.", where=source.at(("evaluate",)))
    for section, names in (("arms", recipe.arms), ("evaluate", recipe.evaluate)):
        for name in names:
            if not _NAME.fullmatch(name):
                raise ConfigError(
                    "This name cannot be a folder's name.",
                    where=source.at((section, name)),
                    got=name,
                    expected="letters, digits, and _ . + -",
                )
    if recipe.evaluate_base and BASE_ARM in recipe.arms:
        raise ConfigError(
            "With evaluate_base this name stands for the model before training.",
            where=source.at(("arms", BASE_ARM)),
            got=BASE_ARM,
            fix="give the arm another name, or set evaluate_base: false",
        )
    if recipe.name and not all(_NAME.fullmatch(part) for part in recipe.name.split("/")):
        raise ConfigError("This name cannot be a folder's name.", where=source.at(("name",)), got=recipe.name)
    if not recipe.seeds:
        raise ConfigError("A recipe needs at least one seed.", where=source.at(("seeds",)))
    if len(set(recipe.seeds)) < len(recipe.seeds) or min(recipe.seeds) < 0 or max(recipe.seeds) >= 2**32:
        raise ConfigError(
            "Seeds must be different whole numbers from 0 to 2^32 - 1.", where=source.at(("seeds",)), got=recipe.seeds
        )
    _check_training(recipe.train, recipe.data, (), source)


def _check_training(train: TrainSettings, data: DataSettings, path: KeyPath, source: Source) -> None:
    if not data.sources:
        raise ConfigError("A recipe needs training rows.", where=source.at((*path, "data", "train")))
    if train.packing and train.max_length is None:
        raise ConfigError("Packing needs a sequence length.", where=source.at((*path, "train", "max_length")), got=None)
    if train.stage != "sft":
        raise ConfigError("Arms are compared in fine-tuning only.", where=source.at((*path, "train", "stage")))
