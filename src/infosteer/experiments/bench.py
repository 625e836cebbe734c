"""Where single trainings are done, one arm from one seed: train and evaluate; rows and sets stay loaded."""

from __future__ import annotations

import gc
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from infosteer.core.metrics import PREFIX
from infosteer.errors import InfoSteerError, RunError
from infosteer.experiments.contaminated import check_rows
from infosteer.experiments.inputs import GENERATED, TrainingRows, calibration_texts, check_arms, training_rows
from infosteer.experiments.judge import add_probes, ask_probes, evaluate_sets, load_sets, outcome_of
from infosteer.experiments.recipe import Recipe
from infosteer.experiments.reporter import Reporter
from infosteer.experiments.rundir import RunDir, disk_full
from infosteer.experiments.schema import to_plain

_ROWS = 4  # kinds of training rows kept: arms of one seed may differ in their data


class Bench:
    """Does trainings for a run or a sweep. Under several processes, only the first one writes and tells."""

    def __init__(self, reporter: Reporter, *, main: bool = True) -> None:
        self.reporter = reporter
        self.main = main
        self._rows: dict[str, TrainingRows] = {}
        self._sets: tuple[str, dict[str, Any]] = ("", {})
        self._seen: dict[str, dict[str, dict[str, Any]]] = {}

    def check(self, recipe: Recipe) -> None:
        """Find out before the first step what would stop a later arm: sets, rows, layers that do not exist.

        Raises: InfoSteerError for whatever is missing or unusable.
        """
        self.sets(recipe)
        told = set()
        for arm in recipe.arms:
            sources = ", ".join(recipe.data_for(arm).sources)
            skipped = self.rows(recipe, arm, recipe.seeds[0]).skipped
            if skipped and sources not in told:
                told.add(sources)
                self.reporter.note(f"{skipped} bad rows skipped in {sources}")
        check_arms(recipe)

    def sets(self, recipe: Recipe) -> dict[str, Any]:
        """The recipe's evaluation sets."""
        key = json.dumps(to_plain(recipe.evaluate), sort_keys=True)
        if self._sets[0] != key:
            self._sets = key, load_sets(recipe)
        return self._sets[1]

    def rows(self, recipe: Recipe, arm: str, seed: int) -> TrainingRows:
        """The training rows of one arm and seed."""
        data = recipe.data_for(arm)
        drawn = seed if any(source.startswith(GENERATED) for source in data.sources) else None
        key = json.dumps([to_plain(data), drawn], sort_keys=True)
        if key not in self._rows:
            while len(self._rows) >= _ROWS:
                del self._rows[next(iter(self._rows))]
            self._rows[key] = training_rows(data, seed)
        return self._rows[key]

    def train(self, recipe: Recipe, arm: str, seed: int, folder: RunDir) -> dict[str, Any] | None:
        """Train one arm from one seed, going on from its last checkpoint, and evaluate it.

        Returns: its outcome, on the main process; elsewhere None. Writing it is left to the caller. ``train.monitors``
            in it are the last values that the session logged (entropies, changes, probes).

        Raises: InfoSteerError for an arm that fails; RunError for a full disk.
        """
        from infosteer.training.callbacks import checkpoint_step, last_checkpoint
        from infosteer.training.sft import train_sft

        place = folder.checkpoint_folder(arm, seed)
        begin = checkpoint_step(last_checkpoint(place))
        if self.main:
            if begin == 0:
                folder.clear_checkpoint(arm, seed)
            else:
                self.reporter.note(f"{arm}, seed {seed}: goes on from step {begin}")
            folder.rewind(arm, seed, begin)
        rows = self.rows(recipe, arm, seed).rows

        monitors: dict[str, float] = {}

        def log(line: Mapping[str, Any]) -> None:
            monitors.update({key: value for key, value in line.items() if key.startswith(PREFIX)})
            event = "train_end" if "train_runtime" in line else "train"
            folder.log({"event": event, "arm": arm, "seed": seed, **line})
            self.reporter.logged(arm=arm, seed=seed, line=line)

        outcome = None
        try:
            trained = train_sft(
                model=recipe.model,
                rows=rows,
                settings=recipe.train_for(arm),
                methods=list(recipe.arms[arm].methods),
                seed=seed,
                output_dir=place,
                trust_structure=recipe.trust_structure,
                calibration=calibration_texts(recipe.data_for(arm)),
                on_log=log,
                on_step=lambda done, total: self.reporter.steps(done=done, total=total),
            )
            try:
                if self.main:
                    outcome = self._evaluate(recipe, arm, seed, trained)
                    outcome["train"]["monitors"] = {key: v for key, v in monitors.items() if math.isfinite(v)}
            finally:
                trained.close()
            trained.wait()
        except (KeyboardInterrupt, InfoSteerError):
            raise
        except Exception as error:
            if disk_full(error):
                raise disk_error(folder.path, error) from error
            raise
        del trained
        gc.collect()
        return outcome

    def _evaluate(self, recipe: Recipe, arm: str, seed: int, trained: Any) -> dict[str, Any]:
        sets, rows = self.sets(recipe), trained.rows
        judged = evaluate_sets(
            trained.model, trained.tokenizer, sets, recipe, methods=trained.methods, progress=self.evaluating
        )
        ask_probes(judged, trained.model, trained.tokenizer, sets, recipe, methods=trained.methods)
        edits = trained.served_edits()
        trained.close()  # probes come with a session of their own
        add_probes(judged, trained.model, trained.tokenizer, sets, recipe, edits=edits)
        rows_sha256 = _fingerprint(rows)
        for name, found in self._contamination(recipe, arm, seed, rows, rows_sha256).items():
            judged[name]["contamination"] = found
        return {
            **outcome_of(arm, seed, judged),
            "settings": recipe.settings_of(arm),
            "train": {
                "rows": len(rows),
                "rows_sha256": rows_sha256,
                "truncated": trained.encoded.truncated,
                "dropped": trained.encoded.dropped,
                "steps": trained.steps,
                "loss": trained.train_loss,
            },
        }

    def _contamination(
        self, recipe: Recipe, arm: str, seed: int, rows: Sequence[Mapping[str, Any]], rows_sha256: str
    ) -> dict[str, dict[str, Any]]:
        """What these rows hold of every evaluation set; arms that train on the same ones are looked up once."""
        sets, known = self.sets(recipe), self.rows(recipe, arm, seed)
        key = f"{rows_sha256} {self._sets[0]}"
        if key not in self._seen:
            while len(self._seen) >= _ROWS:
                del self._seen[next(iter(self._seen))]
            found = check_rows(sets, rows, known.rows, known.places)
            self._seen[key] = {name: one.to_json() for name, one in found.items()}
        return self._seen[key]

    def evaluating(self, what: str, done: int, total: int) -> None:
        """Pass the progress of an evaluation on."""
        self.reporter.evaluating(what=what, done=done, total=total)


def failed_outcome(arm: str, seed: int, error: Exception) -> dict[str, Any]:
    """What the file of a training says that did not come to its end."""
    text = str(error) if isinstance(error, InfoSteerError) else f"{type(error).__name__}: {error}"
    return {"schema": 1, "arm": arm, "seed": seed, "status": "failed", "kind": type(error).__name__, "error": text}


def disk_error(path: Path, error: BaseException) -> RunError:
    """The error for a disk without room; the caller raises it."""
    return RunError(
        "The disk is full.",
        where=path,
        got=str(error).splitlines()[0] if str(error) else type(error).__name__,
        fix="make room, then run the same command again: finished work is kept (train.save_model=false needs less)",
    )


def _fingerprint(rows: Sequence[Mapping[str, Any]]) -> str:
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()[:16]
