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

from infosteer.core.config import nearest
from infosteer.core.registry import build_method, describe_method
from infosteer.errors import ConfigError
from infosteer.experiments.schema import build, to_plain
from infosteer.experiments.source import KeyPath, Source, parse_recipe, read_recipe_file
from infosteer.training.settings import TrainSettings, setting

DATA_VARIABLE = "INFOSTEER_DATA"  # stands for the folder that shipped recipes call ../shared/data
BASE_ARM = "base"  # what the model before training is called where ``evaluate_base`` is set
BASE_SEED = 0  # no seed trained it; a number keeps files and results of one shape
_DATA_PREFIX = "../shared/data/"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
_FORMAT_HELP = (
    "prompt_completion, messages, instruction_output, llm_adapters, or text; null finds it from the columns when they "
    "leave no doubt"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSettings:
    """The training rows."""

    train: str | tuple[str, ...] = field(
        metadata={"help": "a JSONL, JSONL.gz or Parquet file, a folder, a hub id, or `lab:facts`; or a list of such"}
    )
    format: str | None = setting(None, _FORMAT_HELP)
    template: str = setting(
        "sections", "wording of instruction rows: sections, alpaca, plain, or a text with {instruction}"
    )
    fields: dict[str, str] = field(
        default_factory=dict, metadata={"help": "our column name -> the source's, e.g. `{prompt: question}`"}
    )
    split: str | None = setting(None, "split of a folder or hub data set")
    limit: int | None = setting(None, "use only this many good rows of each source", minimum=1)
    skip_bad_rows: bool = setting(False, "count rows without the needed fields instead of stopping at the first")
    options: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "settings of a generated source, e.g. `people: 40` for lab:facts"}
    )

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources, one or many."""
        return (self.train,) if isinstance(self.train, str) else self.train


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateSettings:
    """One evaluation set. A plain string in the recipe is short for ``{source: STRING}``."""

    source: str = field(metadata={"help": "as data.train, or a lab set such as `lab:facts/new_people`"})
    format: str | None = setting(None, "as data.format")
    template: str = setting("sections", "as data.template")
    fields: dict[str, str] = field(default_factory=dict, metadata={"help": "as data.fields"})
    split: str | None = setting(None, "split of a folder or hub data set")
    limit: int | None = setting(None, "use only this many good rows", minimum=1)
    batch_size: int = setting(64, "rows per forward", minimum=1)
    scoring: str | None = setting(
        None, "exact_match, number, option or text; null takes what the rows' format stands for"
    )
    score_options: bool = setting(
        True, "compare the likelihoods of the options too; false saves the time where answers are matched"
    )
    max_new_tokens: int | None = setting(None, "longest answer in tokens; null leaves it to the scoring", minimum=1)
    stop: str | tuple[str, ...] | None = setting(None, "text, or texts, that end an answer")
    skip_bad_rows: bool = setting(False, "count rows without the needed fields instead of stopping at the first")
    options: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "settings of the source, e.g. `revision` of a hub data set"}
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """A whole comparison: model, data, training, arms, seeds, evaluation."""

    name: str = setting("", "names the default output folder; the file's name unless given")
    description: str = setting("", "for people; not used")
    model: str = setting("embedded", "`embedded`, a folder, or a hub id")
    trust_structure: bool = setting(False, "let a structural search find the FFN sites of an unknown model")
    data: DataSettings = field(metadata={"help": "the training rows"})
    train: TrainSettings = field(default_factory=TrainSettings, metadata={"help": "how every arm is trained"})
    arms: dict[str, tuple[dict[str, Any], ...]] = field(
        metadata={"help": "name -> list of methods; the empty list is plain training, the baseline of comparisons"}
    )
    seeds: tuple[int, ...] = setting((1,), "every arm is trained once per seed; equal seeds share data order and start")
    evaluate: dict[str, EvaluateSettings] = field(metadata={"help": "name -> set; names appear in results"})
    evaluate_base: bool = setting(
        False, "evaluate the model before any training too, as the row `base`; lab questions then have `utilisation`"
    )

    @property
    def baseline(self) -> str:
        """The arm that others are compared with: the first one without methods, else the first."""
        return next((name for name, methods in self.arms.items() if not methods), next(iter(self.arms)))

    def to_config(self) -> dict[str, Any]:
        """Plain data that ``recipe_from`` turns back into an equal recipe."""
        return dict(to_plain(self))


def shipped_folder() -> Path:
    """Where shipped recipes lie: in the installed package, or in the repository of an editable install."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "recipes"
    return installed if installed.is_dir() else package.parents[1] / "recipes"


def shipped_recipes() -> dict[str, Path]:
    """Name -> file of every shipped recipe."""
    return {path.stem: path for path in sorted(shipped_folder().glob("*.yaml"))}


def find_recipe(spec: str | Path) -> Path:
    """The file of a recipe given by path or by shipped name.

    Raises: ConfigError when there is neither, naming the nearest shipped recipe.
    """
    path = Path(spec).expanduser()
    if path.is_file():
        return path
    shipped = shipped_recipes()
    if str(spec) in shipped:
        return shipped[str(spec)]
    close = nearest(path.stem, shipped)
    raise ConfigError(
        "There is no such recipe.",
        where=spec,
        expected=f"a YAML file, or one of {', '.join(shipped) or 'no shipped recipes'}",
        fix=f"did you mean {close!r}?" if close else "list shipped recipes with `infosteer ls --recipes`",
    )


def read_raw(
    spec: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()
) -> tuple[dict[str, Any], Source, Path]:
    """A recipe's plain data with the overrides applied, its source, and the folder relative paths may start from.

    Raises: ConfigError for a file that is missing or not plain YAML, and for overrides that do not parse.
    """
    if isinstance(spec, Mapping):
        data, source, folder = copy.deepcopy(dict(spec)), Source("recipe"), Path.cwd()
    else:
        path = find_recipe(spec)
        data, source = read_recipe_file(path)
        folder = path.resolve().parent
        if isinstance(data, dict):
            data.setdefault("name", path.stem)
    if not isinstance(data, dict):
        raise ConfigError("A recipe is a mapping of keys to values.", where=source.name, got=type(data).__name__)
    sets = data.get("evaluate")
    if isinstance(sets, Mapping):
        data["evaluate"] = {k: {"source": v} if isinstance(v, str) else v for k, v in sets.items()}
    for override in overrides:
        _apply_override(data, override)
    return data, source, folder


def load_recipe(spec: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """A checked recipe from a file, a shipped name, or a mapping.

    Raises: ConfigError naming the key, its line and the nearest known key.
    """
    return recipe_from(*read_raw(spec, overrides))


def recipe_from(data: Mapping[str, Any], source: Source, folder: Path) -> Recipe:
    """Check plain data against the declared keys, resolve paths, and write every method out with its defaults."""
    data = dict(data)
    arms = data.get("arms")
    if isinstance(arms, Mapping):
        data["arms"] = {name: [] if methods is None else methods for name, methods in arms.items()}
    recipe = build(Recipe, data, (), source)
    _check(recipe, source)
    arms = {
        name: tuple(_resolve_method(m, ("arms", name, i), source) for i, m in enumerate(methods))
        for name, methods in recipe.arms.items()
    }
    sets = {n: replace(s, source=resolve_path(s.source, folder)) for n, s in recipe.evaluate.items()}
    found = tuple(resolve_path(source, folder) for source in recipe.data.sources)
    rows = replace(recipe.data, train=found[0] if isinstance(recipe.data.train, str) else found)
    return replace(recipe, arms=arms, evaluate=sets, data=rows, model=resolve_path(recipe.model, folder))


def resolve_path(text: str, folder: Path) -> str:
    """A path that exists from here, the recipe's folder or its parent, made absolute; else the text itself."""
    if text == "embedded" or text.startswith("lab:") or not text:
        return text
    shared = os.environ.get(DATA_VARIABLE)
    if shared and text.startswith(_DATA_PREFIX):
        return str(Path(shared).expanduser().resolve() / text[len(_DATA_PREFIX) :])
    for base in (Path.cwd(), folder, folder.parent):
        candidate = base / Path(text).expanduser()
        if candidate.exists():
            return str(candidate.resolve())
    return text


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
    if recipe.name and not _NAME.fullmatch(recipe.name):
        raise ConfigError("This name cannot be a folder's name.", where=source.at(("name",)), got=recipe.name)
    if not recipe.seeds:
        raise ConfigError("A recipe needs at least one seed.", where=source.at(("seeds",)))
    if len(set(recipe.seeds)) < len(recipe.seeds) or min(recipe.seeds) < 0 or max(recipe.seeds) >= 2**32:
        raise ConfigError(
            "Seeds must be different whole numbers from 0 to 2^32 - 1.", where=source.at(("seeds",)), got=recipe.seeds
        )
    if not recipe.data.sources:
        raise ConfigError("A recipe needs training rows.", where=source.at(("data", "train")))
    train = recipe.train
    if train.packing and train.max_length is None:
        raise ConfigError("Packing needs a sequence length.", where=source.at(("train", "max_length")), got=None)


def _apply_override(data: dict[str, Any], override: str) -> None:
    """``train.learning_rate=1e-4``, ``seeds=[1,2]``, ``arms.reg[0].weight=0.1``; the value is YAML."""
    key, equals, text = override.partition("=")
    key = key.strip()
    parts: list[str | int] = [int(p) if p.isdigit() else p for p in re.split(r"[.\[\]]+", key.rstrip("]")) if p]
    if not equals or not parts:
        raise ConfigError("An override is written key=value.", got=override, expected="e.g. train.learning_rate=1e-4")
    value = parse_recipe(text, f"override {key}")[0] if text.strip() else None
    here: Any = data
    for index, part in enumerate(parts):
        last = index == len(parts) - 1
        if isinstance(here, list):
            if not isinstance(part, int) or part >= len(here):
                raise ConfigError("No such list entry.", where=f"override {key}", got=part, expected=f"< {len(here)}")
        elif isinstance(here, dict):
            part = str(part)
            if not last and here.get(part) is None:
                here[part] = {}
        else:
            raise ConfigError("This key has nothing inside it to change.", where=f"override {key}", got=here)
        if last:
            here[part] = value
        else:
            here = here[part]
