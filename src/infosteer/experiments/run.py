"""``infosteer run``: every arm from every seed, trained, evaluated, saved; then what all of it says together."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from infosteer.errors import ConfigError, InfoSteerError, NoEffectError, NonFiniteLossError, RunError
from infosteer.experiments.base import base_outcome
from infosteer.experiments.bench import Bench, disk_error, failed_outcome
from infosteer.experiments.judge import add_stored
from infosteer.experiments.parts import parts_of
from infosteer.experiments.recipe import (
    BASE_ARM,
    BASE_SEED,
    Recipe,
    prepared,
    pretrains,
    read_raw,
    recipe_from,
    resolve_path,
)
from infosteer.experiments.reporter import Reporter
from infosteer.experiments.results import write_results
from infosteer.experiments.rundir import RunDir, disk_full

ARM_ERRORS = (NonFiniteLossError, NoEffectError)  # the arm's own failures: the others go on
RUNS = Path("runs")


def run(
    recipe: str | Path | Mapping[str, Any],
    output: str | Path | None = None,
    *,
    overrides: Sequence[str] = (),
    reporter: Reporter | None = None,
) -> Path:
    """Run a recipe, or go on with it where it stopped.

    Args:
        recipe: a YAML file, a shipped recipe's name, or a mapping.
        output: the run's folder; ``runs/<recipe's name>`` unless given.
        overrides: ``key=value`` changes to the recipe.
        reporter: gets progress events.

    Returns: the run's folder; ``results.json`` in it says what came out. Of a recipe in parts, the folder of the parts'
        runs; ``table.md`` in it is the table that the recipe reproduces.

    Raises: InfoSteerError for anything wrong with recipe, data, model or folder; RunError at the end when an arm
        failed, with the results of all others saved.
    """
    data, source, folder = read_raw(recipe)
    if "parts" in data:
        from infosteer.experiments.study import run_parts

        parts = parts_of(data, source, folder, overrides)
        return run_parts(parts, Path(output) if output else RUNS / parts.name, reporter or Reporter())
    data = prepared(data, overrides)
    if pretrains(data):
        return _pretrain(data, folder, Path(output) if output else RUNS / str(data.get("name") or "pretrain"))
    checked = recipe_from(data, source, folder)
    if checked.sweep is not None:
        raise ConfigError(
            "This recipe is a sweep.",
            where=source.at(("sweep",)),
            fix="run it with `infosteer sweep`, or remove the key",
        )
    path = Path(output) if output else RUNS / (checked.name or "run")
    return Run(checked, path, reporter or Reporter()).run()


class Run:
    """One recipe in one folder. Under several processes, only the first one writes and tells."""

    def __init__(self, recipe: Recipe, path: Path, reporter: Reporter) -> None:
        self.recipe = recipe
        self.folder = RunDir(path)
        self.main = int(os.environ.get("RANK", "0")) == 0
        self.processes = int(os.environ.get("WORLD_SIZE", "1"))
        self.reporter = reporter if self.main else Reporter()
        self.bench = Bench(self.reporter, main=self.main)
        self.stored: dict[str, list[bool]] = {}  # set -> whether the base stores the fact of each example

    def run(self) -> Path:
        """Train what is not finished, in the order of seeds, so that whole comparisons come early."""
        if self.main:
            self.folder.open(self.recipe)
        try:
            self._run()
        except OSError as error:
            if disk_full(error):
                raise disk_error(self.folder.path, error) from error
            raise
        finally:
            self.folder.close()
            self.reporter.close()
        return self.folder.path

    def _run(self) -> None:
        todo = [
            (arm, seed)
            for seed in self.recipe.seeds
            for arm in self.recipe.arms
            if (self.folder.read_outcome(arm, seed) or {}).get("status") != "finished"
        ]
        trainings = len(self.recipe.arms) * len(self.recipe.seeds)
        self.reporter.run_started(
            path=self.folder.path,
            trainings=trainings,
            finished=trainings - len(todo),
            baseline=self.recipe.baseline,
        )
        base = self.folder.read_outcome(BASE_ARM, BASE_SEED) if self.recipe.evaluate_base else None
        base_missing = self.recipe.evaluate_base and base is None
        if todo or base_missing:
            self.bench.check(self.recipe)
        if base_missing and self.main:  # before the arms: their utilisation is over the facts that the base stores
            base = self._evaluate_base()
        self.stored = (base or {}).get("stored", {})
        failures: dict[str, InfoSteerError] = {}
        for arm, seed in todo:
            try:
                self._train(arm, seed)
            except ARM_ERRORS as error:
                if self.processes > 1:  # the other ranks wait in a collective: the launcher must end them
                    raise
                self._record_failure(arm, seed, error)
                failures[f"{arm}, seed {seed}"] = error
        if self.main and (not todo or not self.folder.results_file.is_file()):
            write_results(self.recipe, self.folder)
        if failures:
            raise RunError(
                f"{len(failures)} of {trainings} trainings failed; the results hold the others.",
                where=self.folder.results_file,
                got="; ".join(f"{place}: {error.what}" for place, error in failures.items()),
                fix="; ".join(
                    dict.fromkeys(str(error.fix or f"see docs/errors/{error.page}.md") for error in failures.values())
                )
                + "; the same command tries the failed ones again",
            )

    def _evaluate_base(self) -> dict[str, Any]:
        self.reporter.note(f"{BASE_ARM}: evaluating the model before training")
        outcome = base_outcome(self.recipe, self.bench.sets(self.recipe), progress=self.bench.evaluating)
        self.folder.rewind(BASE_ARM, BASE_SEED, 0)
        self.folder.log({"event": "evaluate", "arm": BASE_ARM, "seed": BASE_SEED, "step": 0, **outcome["metrics"]})
        self.folder.write_outcome(outcome)
        write_results(self.recipe, self.folder)
        self.reporter.note(f"{BASE_ARM}: " + ", ".join(f"{m} {value:.3f}" for m, value in outcome["metrics"].items()))
        return outcome

    def _train(self, arm: str, seed: int) -> None:
        self.reporter.training_started(arm=arm, seed=seed)
        started = time.monotonic()
        outcome = self.bench.train(self.recipe, arm, seed, self.folder)
        if outcome is None:
            return
        add_stored(outcome, self.stored)
        metrics, steps = outcome["metrics"], outcome["train"]["steps"]
        self.folder.log({"event": "evaluate", "arm": arm, "seed": seed, "step": steps, **metrics})
        self.folder.write_outcome(outcome)
        write_results(self.recipe, self.folder)
        seconds = time.monotonic() - started
        self.reporter.training_finished(arm=arm, seed=seed, metrics=metrics, seconds=seconds)

    def _record_failure(self, arm: str, seed: int, error: InfoSteerError) -> None:
        self.folder.log({"event": "failed", "arm": arm, "seed": seed, "error": error.what})
        self.folder.write_outcome(failed_outcome(arm, seed, error))
        write_results(self.recipe, self.folder)
        self.reporter.training_failed(arm=arm, seed=seed, error=error)


def _pretrain(data: dict[str, Any], folder: Path, path: Path) -> Path:
    from infosteer.training.pretrain import run_pretrain

    if (path / "results.json").is_file():
        raise RunError("This folder holds a run that trained arms.", where=path, fix="give another one with --output")
    section = data.get("data")
    if isinstance(section, dict) and isinstance(section.get("general_text"), str):
        section["general_text"] = resolve_path(section["general_text"], folder)
    run_pretrain(data, path)
    return path
