"""One evaluation in one folder: every model on every task, kept as it goes, and what all of it says together."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from infosteer.errors import ConfigError, InfoSteerError, RunError
from infosteer.evaluation import EvalSet, SetResult
from infosteer.evaluation.contamination import Contamination, check_sets
from infosteer.evaluation.engines.kept import KeptEngine
from infosteer.evaluation.engines.store import Store, key_of
from infosteer.evaluation.evaluate import evaluate_with
from infosteer.experiments.bench import disk_error, failed_outcome
from infosteer.experiments.environment import version
from infosteer.experiments.judge import judged_of, outcome_of
from infosteer.experiments.results import QUICK_RESAMPLES, RESAMPLES
from infosteer.experiments.rundir import RunDir, disk_full, write_atomic, write_recipe
from infosteer.experiments.suite.batch_effect import batch_effect
from infosteer.experiments.suite.models import Ready, identity_of, ready, stamp_of
from infosteer.experiments.suite.reporter import SuiteReporter
from infosteer.experiments.suite.results import build_results
from infosteer.experiments.suite.sets import Wanted, load_wanted
from infosteer.experiments.suite.settings import Arm, SuiteSettings, arms_of

OUTPUT = Path("runs") / "eval"


def run_suite(
    settings: SuiteSettings,
    output: str | Path | None = None,
    *,
    cache: str | Path | None = None,
    update: bool = False,
    reporter: SuiteReporter | None = None,
) -> Path:
    """Evaluate, or go on where it stopped.

    Args:
        settings: what is asked for.
        output: the evaluation's folder; ``runs/eval`` unless given.
        cache: folder of kept answers; ``cache`` in the output unless given. Several evaluations may share one.
        update: go on in the folder of other settings; answers that still hold are kept.
        reporter: gets progress events.

    Returns: the folder; ``results.json`` in it says what came out.

    Raises: InfoSteerError for anything wrong with settings, rows or folder; RunError at the end when a model failed,
        with the results of all others saved.
    """
    path = Path(output) if output is not None else OUTPUT
    return Suite(settings, path, Path(cache) if cache else path / "cache", reporter or SuiteReporter()).run(update)


class _Resolved:
    """Plain settings as ``RunDir`` takes a recipe."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = dict(config)

    def to_config(self) -> dict[str, Any]:
        return self.config


class Suite:
    """Models, tasks and the folder that they are evaluated in."""

    def __init__(self, settings: SuiteSettings, path: Path, cache: Path, reporter: SuiteReporter) -> None:
        self.settings, self.folder, self.cache, self.reporter = settings, RunDir(path), cache, reporter
        self.arms = arms_of(settings.models)
        self.wanted: Wanted = load_wanted(settings)
        self.config = self._resolved()
        self.contamination: dict[str, Contamination] = {}

    def _resolved(self) -> dict[str, Any]:
        arms: dict[str, dict[str, Any]] = {}
        for arm in self.arms:
            arms.setdefault(arm.name, {"models": {}})["models"][f"seed-{arm.seed}"] = arm.model
        config: dict[str, Any] = {
            "name": self.folder.path.resolve().name,
            "kind": "evaluation",
            "arms": arms,
            "settings": self.settings.to_config(),
            "groups": self.wanted.groups,
            "evaluate": self.wanted.to_config(),
        }
        seeds = {arm.seed for arm in self.arms}
        if len(self.arms) == len(arms) * len(seeds):  # else no list of seeds says what is there
            config["seeds"] = sorted(seeds)
        return config

    def run(self, update: bool) -> Path:
        """Evaluate what is not finished, and write the results."""
        self._open(update)
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

    def _open(self, update: bool) -> None:
        resolved = _Resolved(self.config)
        if not update or not self.folder.recipe_file.is_file():
            self.folder.open(
                resolved,
                fix="--update goes on in this folder and keeps answers that still hold; or choose another --output",
            )
            return
        if not self.folder.claim(resolved):
            raise RunError("Another process is writing this folder.", where=self.folder.path, fix="wait for it")
        for name in ("outcomes", "predictions"):  # of the settings before; answers that still hold are in the cache
            shutil.rmtree(self.folder.path / name, ignore_errors=True)
        write_recipe(self.folder.recipe_file, self.config)

    def _run(self) -> None:
        todo = [arm for arm in self.arms if not self._finished(arm)]
        self.reporter.started(
            path=self.folder.path,
            models=len(self.arms),
            finished=len(self.arms) - len(todo),
            tasks=len(self.wanted.names),
        )
        if self.settings.against and todo:
            self.reporter.note(f"looking for the questions in {', '.join(self.settings.against)}")
            self.contamination = check_sets(self.wanted.sets.values(), self.settings.against)
        failures = []
        for arm in todo:
            try:
                self._evaluate(arm)
            except InfoSteerError as error:
                if len(self.arms) == 1:
                    raise
                failures.append(f"{arm.name}, seed {arm.seed}: {error.what}")
                self.folder.write_outcome(failed_outcome(arm.name, arm.seed, error))
                self.reporter.model_failed(arm=arm.name, seed=arm.seed, error=error)
            self._write_results()
        if not todo:
            self._write_results()
        if failures:
            raise RunError(
                f"{len(failures)} of {len(self.arms)} models could not be evaluated; the results hold the others.",
                where=self.folder.results_file,
                got="; ".join(failures),
                fix="the same command tries them again",
            )

    def _finished(self, arm: Arm) -> bool:
        """Whether this model was evaluated, and its files are still those that were."""
        outcome = self.folder.read_outcome(arm.name, arm.seed)
        if outcome is None or outcome["status"] != "finished":
            return False
        return bool(outcome["model"]["stamp"] == stamp_of(arm.model))

    def _evaluate(self, arm: Arm) -> None:
        self.reporter.model_started(arm=arm.name, seed=arm.seed)
        began = time.monotonic()
        stamp = stamp_of(arm.model)
        with ready(arm, self.settings) as found:
            store = Store(self.cache / f"{found.fingerprint.replace('/', '--')}.jsonl")
            engine = KeptEngine(found.engine, store, identity_of(found))
            self.folder.rewind(arm.name, arm.seed, 0)
            results = {name: self._task(arm, engine, one) for name, one in self.wanted.sets.items()}
            effect = {}
            if self.settings.rows_checked:
                self.reporter.note(f"{arm.name}: asking {self.settings.rows_checked} rows a task one by one")
                effect = batch_effect(
                    engine,
                    {name: one for name, one in self.wanted.sets.items() if one.scoring != "text"},
                    results,
                    rows=self.settings.rows_checked,
                    batch_size=self.settings.batch_size,
                )
            results |= self._lm_eval(arm, found, store)
        judged = {name: judged_of(result) for name, result in results.items()}
        for name, one in self.contamination.items():
            judged[name]["contamination"] = one.to_json()
        outcome = outcome_of(arm.name, arm.seed, judged)
        model = {
            "model": arm.model,
            "seed": arm.seed,
            "fingerprint": found.fingerprint,
            "stamp": stamp,
            "methods": found.methods,
        }
        self.folder.write_outcome({**outcome, "model": model, "batch_effect": effect})
        self.reporter.model_finished(arm=arm.name, seed=arm.seed, seconds=time.monotonic() - began)

    def _task(self, arm: Arm, engine: KeptEngine, evalset: EvalSet) -> SetResult:
        began = time.monotonic()
        result = evaluate_with(
            engine,
            [evalset],
            batch_size=self.settings.batch_size,
            max_new_tokens=self.settings.max_new_tokens,
            seed=self.settings.seed,
            decoding=self.settings.decode,
            likelihoods=self.settings.options,
            progress=self.reporter.progress,
        )[evalset.name]
        self._keep(arm, result, time.monotonic() - began)
        return result

    def _keep(self, arm: Arm, result: SetResult, seconds: float) -> None:
        """Write what was predicted for every row, and say that a task is done."""
        lines = []
        for i in range(result.n):
            row = result.rows[i] if result.rows else {}
            scores = {m: _plain(v[i]) for m, v in result.per_example.items() if len(v) == result.n}
            lines.append(json.dumps({"row": i, **row, "scores": scores}, ensure_ascii=False, allow_nan=False))
        place = (
            self.folder.path / "predictions" / arm.name / f"seed-{arm.seed}" / f"{result.name.replace(':', '--')}.jsonl"
        )
        write_atomic(place, "".join(f"{line}\n" for line in lines))
        facts = {"n": result.n, "measures": result.measures, "failures": result.failures, "seconds": seconds}
        measures = {f"{result.name}/{m}": v for m, v in result.measures.items()}
        self.folder.log({"event": "evaluate", "arm": arm.name, "seed": arm.seed, "step": 0, **measures})
        self.reporter.task_finished(arm=arm.name, seed=arm.seed, task=result.name, facts=facts)

    def _lm_eval(self, arm: Arm, found: Ready, store: Store) -> dict[str, SetResult]:
        """Tasks of lm-evaluation-harness, each kept as a whole."""
        results: dict[str, SetResult] = {}
        for name in self.wanted.lm_eval:
            began = time.monotonic()
            asked = [name, self.settings.limit, self.settings.batch_size, self.settings.seed, self.settings.shots]
            key = key_of(identity_of(found), version("lm_eval"), found.engine.describe(), *asked)
            if key not in store:
                fresh = self._harness(found, name)
                store.keep({key: {task: asdict(result) for task, result in fresh.items()}})
            kept = {task: SetResult(**value) for task, value in store[key].items()}
            for result in kept.values():
                self._keep(arm, result, time.monotonic() - began)
            results |= kept
        return results

    def _harness(self, found: Ready, name: str) -> dict[str, SetResult]:
        if found.model is None:
            raise ConfigError("lm-eval's tasks need the transformers engine", got=self.settings.engine)
        from infosteer.evaluation.harness import run_harness

        return run_harness(
            found.model,
            found.engine.tokenizer,
            [name],
            limit=self.settings.limit,
            batch_size=self.settings.batch_size,
            seed=self.settings.seed,
            num_fewshot=self.settings.shots or None,  # none asked for: as many as the task itself says
            progress=self.reporter.progress,
        )

    def _write_results(self) -> None:
        outcomes = [o for arm in self.arms if (o := self.folder.read_outcome(arm.name, arm.seed)) is not None]
        results = build_results(
            self.config,
            self.arms,
            outcomes,
            {name: facts_of(one) for name, one in self.wanted.sets.items()},
            resamples=RESAMPLES if len(outcomes) == len(self.arms) else QUICK_RESAMPLES,
        )
        write_atomic(self.folder.results_file, json.dumps(results, indent=1, allow_nan=False) + "\n")


def facts_of(evalset: EvalSet) -> dict[str, Any]:
    """What is known of a set before any model: rows, how they are asked, and what guessing scores."""
    n = len(evalset.rows)
    known = {"rows": n, "asked": evalset.facts, "chance": None, "majority": None}
    if evalset.scoring == "text":
        return known
    commonest = Counter(row["answer"] for row in evalset.rows).most_common(1)[0][1]
    return known | {"chance": math.fsum(evalset.chances) / n, "majority": commonest / n}


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value
