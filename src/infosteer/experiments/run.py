"""``infosteer run``: every arm from every seed, trained, evaluated, saved; then what all of it says together."""

from __future__ import annotations

import gc
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from infosteer.errors import InfoSteerError, NoEffectError, NonFiniteLossError, RunError
from infosteer.experiments.base import base_outcome
from infosteer.experiments.inputs import GENERATED, TrainingRows, check_layers, training_rows
from infosteer.experiments.judge import add_utilisation, evaluate_sets, load_sets, outcome_of, overlaps
from infosteer.experiments.recipe import BASE_ARM, BASE_SEED, Recipe, read_raw, recipe_from, resolve_path
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

    Returns: the run's folder; ``results.json`` in it says what came out.

    Raises: InfoSteerError for anything wrong with recipe, data, model or folder; RunError at the end when an arm
        failed, with the results of all others saved.
    """
    data, source, folder = read_raw(recipe, overrides)
    train = data.get("train")
    if isinstance(train, Mapping) and train.get("stage") == "pretrain":
        return _pretrain(data, folder, Path(output) if output else RUNS / str(data.get("name") or "pretrain"))
    checked = recipe_from(data, source, folder)
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
        self.sets: dict[str, Any] = {}
        self.stored: dict[str, list[bool]] = {}  # set -> whether the base stores the fact of each example
        self._rows: tuple[int, TrainingRows] | None = None

    def run(self) -> Path:
        """Train what is not finished, in the order of seeds, so that whole comparisons come early."""
        if self.main:
            self.folder.open(self.recipe)
        try:
            self._run()
        except OSError as error:
            if disk_full(error):
                raise _disk_error(self.folder.path, error) from error
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
            self._preflight()
        if base_missing and self.main:  # before the arms: their utilisation is over the facts that the base stores
            base = self._evaluate_base()
        self.stored = (base or {}).get("stored", {})
        failures = []
        for arm, seed in todo:
            try:
                self._train(arm, seed)
            except ARM_ERRORS as error:
                if self.processes > 1:  # the other ranks wait in a collective: the launcher must end them
                    raise
                self._record_failure(arm, seed, error)
                failures.append(f"{arm}, seed {seed}: {error.what}")
        if self.main and (not todo or not self.folder.results_file.is_file()):
            write_results(self.recipe, self.folder)
        if failures:
            raise RunError(
                f"{len(failures)} of {trainings} trainings failed; the results hold the others.",
                where=self.folder.results_file,
                got="; ".join(failures),
                fix="lower the learning rate or the method's strength; the same command tries the failed ones again",
            )

    def _preflight(self) -> None:
        """Find out before the first step what would stop a later arm: sets, rows, layers that do not exist."""
        self.sets = load_sets(self.recipe)
        if skipped := self._training_rows(self.recipe.seeds[0]).skipped:
            self.reporter.note(f"{skipped} bad rows skipped in {', '.join(self.recipe.data.sources)}")
        check_layers(self.recipe)

    def _evaluate_base(self) -> dict[str, Any]:
        self.reporter.note(f"{BASE_ARM}: evaluating the model before training")
        outcome = base_outcome(self.recipe, self.sets, progress=self._evaluating)
        self.folder.rewind(BASE_ARM, BASE_SEED, 0)
        self.folder.log({"event": "evaluate", "arm": BASE_ARM, "seed": BASE_SEED, "step": 0, **outcome["metrics"]})
        self.folder.write_outcome(outcome)
        write_results(self.recipe, self.folder)
        self.reporter.note(f"{BASE_ARM}: " + ", ".join(f"{m} {value:.3f}" for m, value in outcome["metrics"].items()))
        return outcome

    def _evaluating(self, what: str, done: int, total: int) -> None:
        self.reporter.evaluating(what=what, done=done, total=total)

    def _training_rows(self, seed: int) -> TrainingRows:
        generated = any(source.startswith(GENERATED) for source in self.recipe.data.sources)
        if self._rows is None or (self._rows[0] != seed and generated):
            self._rows = seed, training_rows(self.recipe, seed)
        return self._rows[1]

    def _train(self, arm: str, seed: int) -> None:
        from infosteer.training.sft import checkpoint_step, last_checkpoint, train_sft

        folder = self.folder.checkpoint_folder(arm, seed)
        begin = checkpoint_step(last_checkpoint(folder))
        if self.main:
            if begin == 0:
                self.folder.clear_checkpoint(arm, seed)
            else:
                self.reporter.note(f"{arm}, seed {seed}: goes on from step {begin}")
            self.folder.rewind(arm, seed, begin)
        self.reporter.training_started(arm=arm, seed=seed)
        rows = self._training_rows(seed).rows
        try:
            trained = train_sft(
                model=self.recipe.model,
                rows=rows,
                settings=self.recipe.train,
                methods=list(self.recipe.arms[arm]),
                seed=seed,
                output_dir=folder,
                trust_structure=self.recipe.trust_structure,
                on_log=lambda line: self._log(arm, seed, line),
                on_step=lambda done, total: self.reporter.steps(done=done, total=total),
            )
            try:
                if self.main:
                    self._evaluate(arm, seed, trained, rows)
            finally:
                trained.close()
            trained.wait()
        except (KeyboardInterrupt, InfoSteerError):
            raise
        except Exception as error:
            if disk_full(error):
                raise _disk_error(self.folder.path, error) from error
            raise
        del trained
        gc.collect()

    def _evaluate(self, arm: str, seed: int, trained: Any, rows: list[dict[str, Any]]) -> None:
        judged = evaluate_sets(trained.model, trained.tokenizer, self.sets, self.recipe, progress=self._evaluating)
        add_utilisation(judged, self.stored)
        outcome = outcome_of(arm, seed, judged)
        metrics = outcome["metrics"]
        self.folder.log({"event": "evaluate", "arm": arm, "seed": seed, "step": trained.steps, **metrics})
        self.folder.write_outcome(
            {
                **outcome,
                "train": {
                    "rows": len(rows),
                    "rows_sha256": _fingerprint(rows),
                    "overlap": overlaps(rows, self.sets),
                    "truncated": trained.encoded.truncated,
                    "dropped": trained.encoded.dropped,
                    "steps": trained.steps,
                    "loss": trained.train_loss,
                },
            }
        )
        write_results(self.recipe, self.folder)
        self.reporter.training_finished(arm=arm, seed=seed, metrics=metrics, seconds=trained.seconds)

    def _log(self, arm: str, seed: int, line: Mapping[str, Any]) -> None:
        event = "train_end" if "train_runtime" in line else "train"
        self.folder.log({"event": event, "arm": arm, "seed": seed, **line})
        self.reporter.logged(arm=arm, seed=seed, line=line)

    def _record_failure(self, arm: str, seed: int, error: InfoSteerError) -> None:
        self.folder.log({"event": "failed", "arm": arm, "seed": seed, "error": error.what})
        self.folder.write_outcome(
            {
                "schema": 1,
                "arm": arm,
                "seed": seed,
                "status": "failed",
                "kind": type(error).__name__,
                "error": str(error),
            }
        )
        write_results(self.recipe, self.folder)
        self.reporter.training_failed(arm=arm, seed=seed, error=error)


def _pretrain(data: dict[str, Any], folder: Path, path: Path) -> Path:
    from infosteer.training.pretrain import run_pretrain

    section = data.get("data")
    if isinstance(section, dict) and isinstance(section.get("general_text"), str):
        section["general_text"] = resolve_path(section["general_text"], folder)
    run_pretrain(data, path)
    return path


def _fingerprint(rows: list[dict[str, Any]]) -> str:
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()[:16]


def _disk_error(path: Path, error: BaseException) -> RunError:
    return RunError(
        "The disk is full.",
        where=path,
        got=str(error).splitlines()[0] if str(error) else type(error).__name__,
        fix="make room, then run the same command again: finished work is kept (train.save_model=false needs less)",
    )
