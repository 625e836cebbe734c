"""What a sweep will do, before it does it: which trials, in which order, and which of them are the same."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from infosteer.core.registry import build_method
from infosteer.errors import ConfigError
from infosteer.experiments.overrides import set_key
from infosteer.experiments.recipe import BASE_ARM, BASE_SEED, Recipe, recipe_from, resolve_path
from infosteer.experiments.schema import build, merged, partial, to_plain, without_defaults
from infosteer.experiments.sections import Arm, EvaluateSettings
from infosteer.experiments.source import Source
from infosteer.experiments.sweep.cells import Cell, canonical, cells_of, check_keys, count_cells, label, shared
from infosteer.experiments.sweep.checks import check_tune, set_of
from infosteer.experiments.sweep.settings import MAX_TRIALS, SweepSettings
from infosteer.training.settings import TrainSettings

TRIAL_ARM = "arm"  # what every arm is called in a trial's own recipe: equal trials of two arms are one
TUNE, FINAL = "tune", "final"


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One training of one arm from one seed, or the evaluation of the model before any (``arm`` is then BASE_ARM).

    Attributes:
        key: content address: a hash of everything that decides the outcome. Equal trials have equal keys.
        recipe: a recipe with this arm and seed alone, resolved; ``infosteer run`` would take it.
    """

    key: str
    recipe: Recipe = field(repr=False, compare=False)
    arm: str
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """The place of a trial in the study; several rows may share one trial.

    Attributes:
        name: the arm, with the settings that make it one of several where nothing is tuned.
        base: the trial that evaluated the model before training on the same sets, where there is one.
    """

    arm: str
    name: str
    cell: Cell
    phase: str
    seed: int
    trial: Trial
    base: Trial | None


class Plan:
    """The rows and trials of a recipe with (or without) a ``sweep`` section.

    Raises: ConfigError for a section that cannot be meant: unknown keys and values, seeds used twice, unequal budgets,
        more than MAX_TRIALS trials.
    """

    def __init__(self, recipe: Recipe, source: Source, folder: Path | None = None) -> None:
        self.recipe = recipe
        self.sweep = recipe.sweep or SweepSettings()
        self._source = source
        self._folder = folder or Path.cwd()
        self._config = recipe.to_config()
        self._config.pop("sweep", None)
        self._variants: dict[str, Recipe] = {}
        check_keys(recipe, self.sweep, source)
        check_tune(recipe, self.sweep, source)
        self._check_size()
        self.cells = {arm: cells_of(self.sweep, arm, recipe.arms) for arm in recipe.arms}
        self.tune_sets = self._tune_sets()
        for arm in recipe.arms:
            for cell in self.cells[arm]:
                self._variant(arm, cell)  # every cell is checked before the first trial
        self.tuning = self._tuning_rows()
        self._check_budget()

    @property
    def baseline(self) -> str:
        """The arm that others are compared with."""
        return self.recipe.baseline

    def final(self, chosen: Mapping[str, Cell] | None = None) -> list[Row]:
        """The rows that the results are made of: the chosen cell of each arm, or, with nothing to choose, all cells.

        Seeds come first, so that whole comparisons come early.
        """
        if self.sweep.tune is None:
            cells = {arm: [(self.name(arm, cell), cell) for cell in self.cells[arm]] for arm in self.recipe.arms}
        else:
            cells = {arm: [(arm, cell)] for arm, cell in (chosen or {}).items()}
        sets = dict(self.recipe.evaluate)
        return [
            self._row(arm, name, cell, FINAL, seed, sets)
            for seed in self.recipe.seeds
            for arm, found in cells.items()
            for name, cell in found
        ]

    def name(self, arm: str, cell: Cell) -> str:
        """What a row of the results is called: the arm, and what varies about it."""
        return f"{arm} {label(cell)}" if cell else arm

    def baseline_of(self, cell: Cell) -> str:
        """The name of the row that a row with this cell is compared with: the baseline where all else is equal."""
        own = next(other for other in self.cells[self.baseline] if shared(other) == shared(cell))
        return self.name(self.baseline, own)

    def final_count(self) -> int:
        """How many final trials there will be, before anything is chosen; equal ones counted once where known."""
        if self.sweep.tune is not None:
            return len(self.recipe.arms) * len(self.recipe.seeds)
        return len(distinct(self.final()))

    def _row(self, arm: str, name: str, cell: Cell, phase: str, seed: int, sets: Mapping[str, EvaluateSettings]) -> Row:
        variant = self._variant(arm, cell)
        train = replace(variant.train, save_model=False) if phase == TUNE else variant.train
        recipe = replace(variant, train=train, seeds=(seed,), evaluate=dict(sets))
        base = _base_trial(recipe) if self.recipe.evaluate_base else None
        trial = Trial(key=address(recipe), recipe=recipe, arm=TRIAL_ARM, seed=seed)
        return Row(arm=arm, name=name, cell=cell, phase=phase, seed=seed, trial=trial, base=base)

    def _variant(self, arm: str, cell: Cell) -> Recipe:
        """The recipe with one arm, as this cell has it."""
        key = canonical([arm, cell])
        if key not in self._variants:
            config = copy.deepcopy(self._config)
            config["arms"] = {arm: config["arms"][arm]}
            for path, value in cell.items():
                set_key(config, path, copy.deepcopy(value), where=self._place(path))
            try:
                found = recipe_from(config, Source("sweep"), self._folder)
            except ConfigError as error:
                place = f"{self._place(*cell)}, in the cell {label(cell)}" if cell else error.where
                raise ConfigError(
                    error.what, where=place, got=error.got, expected=error.expected, fix=error.fix
                ) from None
            self._variants[key] = Recipe(
                model=found.model,
                trust_structure=found.trust_structure,
                data=found.data_for(arm),
                train=found.train_for(arm),
                arms={TRIAL_ARM: Arm(methods=found.arms[arm].methods)},
                evaluate=found.evaluate,
            )
        return self._variants[key]

    def _place(self, *keys: str) -> str:
        section = "grid" if keys[0] in (self.sweep.grid or {}) else "random"
        return self._source.at(("sweep", section, keys[0]))

    def _tuning_rows(self) -> list[Row]:
        tune = self.sweep.tune
        if tune is None:
            return []
        arms = list(self.recipe.arms) if tune.per_arm else [self.baseline]
        return [
            self._row(arm, self.name(arm, cell), cell, TUNE, seed, self.tune_sets)
            for seed in tune.seeds
            for arm in arms
            for cell in self.cells[arm]
        ]

    def _tune_sets(self) -> dict[str, EvaluateSettings]:
        tune = self.sweep.tune
        if tune is None:
            return {}
        found = {}
        for name, changes in (tune.sets or {set_of(metric): {} for metric in tune.metrics}).items():
            path = ("sweep", "tune", "sets", name)
            changes = {"source": changes} if isinstance(changes, str) else changes
            if name in self.recipe.evaluate:
                given = partial(EvaluateSettings, changes, path, self._source)
                settings = build(
                    EvaluateSettings, merged(to_plain(self.recipe.evaluate[name]), given), path, self._source
                )
            else:
                settings = build(EvaluateSettings, changes, path, self._source)
            found[name] = replace(settings, source=resolve_path(settings.source, self._folder))
        return found

    def _check_size(self) -> None:
        seeds = len(self.sweep.tune.seeds) if self.sweep.tune else len(self.recipe.seeds)
        total = sum(count_cells(self.sweep, arm, self.recipe.arms) for arm in self.recipe.arms) * seeds
        if total > MAX_TRIALS:
            raise ConfigError(
                "The sweep is too large.",
                where=self._source.at(("sweep",)),
                got=f"{total:,} trials",
                expected=f"<= {MAX_TRIALS:,}",
                fix="try fewer values, or draw some with sweep.random and sweep.trials",
            )

    def _check_budget(self) -> None:
        tune = self.sweep.tune
        if tune is None or tune.unequal_budget or not tune.per_arm:
            return
        counts = self.budget()
        if len(set(counts.values())) > 1:
            raise ConfigError(
                "The arms would not be tuned with equal budgets.",
                where=self._source.at(("sweep", "tune")),
                got="; ".join(f"{arm}: {count} tuning trials" for arm, count in counts.items()),
                expected="as many different trials for every arm, the baseline included",
                fix="give the other arms keys of their own too (arms.NAME.train.KEY), take the swept key out of the "
                "arm's own settings, or set sweep.tune.unequal_budget: true",
            )

    def budget(self) -> dict[str, int]:
        """Arm -> number of different tuning trials."""
        keys: dict[str, set[str]] = {arm: set() for arm in self.recipe.arms}
        for row in self.tuning:
            keys[row.arm].add(row.trial.key)
        return {arm: len(found) for arm, found in keys.items()}


def distinct(rows: Iterable[Row]) -> list[Trial]:
    """Every trial once, in the order of the rows; evaluations of the model before training come first."""
    rows = list(rows)
    bases = {row.base.key: row.base for row in rows if row.base is not None}
    return list((bases | {row.trial.key: row.trial for row in rows}).values())


def _base_trial(recipe: Recipe) -> Trial:
    """The evaluation before training that goes with a trial: the same for all that share model, sets and precision."""
    bare = replace(
        recipe,
        train=TrainSettings(dtype=recipe.train.dtype, bf16=recipe.train.bf16),
        arms={TRIAL_ARM: Arm()},
        seeds=(BASE_SEED,),
        evaluate_base=True,
    )
    return Trial(key=address(bare), recipe=bare, arm=BASE_ARM, seed=BASE_SEED)


def address(recipe: Recipe) -> str:
    """Content address of a recipe of one arm and seed: a hash of what decides its outcome and is not at its default.

    A setting that a later version adds changes no address where it is left at its default. (A default that a later
    version changes is noticed by what outcomes say about their settings.)
    """
    decides: dict[str, Any] = {
        "model": recipe.model,
        "trust_structure": recipe.trust_structure,
        "train": without_defaults(recipe.train),
        "seed": recipe.seeds[0],
        "evaluate": {name: without_defaults(settings) for name, settings in recipe.evaluate.items()},
    }
    if recipe.evaluate_base:  # the model before training: neither rows nor methods are for it
        decides["evaluate_base"] = True
    else:
        (arm,) = recipe.arms.values()
        decides |= {"data": without_defaults(recipe.data), "methods": [_own_settings(one) for one in arm.methods]}
    return hashlib.sha256(canonical(decides).encode()).hexdigest()[:20]


def _own_settings(method: Mapping[str, Any]) -> dict[str, Any]:
    """A method's mapping without the settings that have their default values."""
    name = method["method"]
    try:
        defaults = build_method({"method": name}).to_config()
    except ConfigError:  # a setting without a default
        return dict(method)
    return {key: value for key, value in method.items() if key == "method" or value != defaults.get(key)}
