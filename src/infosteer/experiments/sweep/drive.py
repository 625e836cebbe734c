"""``infosteer sweep``: plan, do every trial once with as many processes as asked for, and say what came out."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from infosteer.errors import ConfigError, RunError
from infosteer.experiments.bench import Bench
from infosteer.experiments.recipe import BASE_ARM, read_raw, recipe_from
from infosteer.experiments.reporter import Reporter
from infosteer.experiments.run import RUNS
from infosteer.experiments.schema import to_plain
from infosteer.experiments.sweep.cells import canonical
from infosteer.experiments.sweep.choose import chosen_cells
from infosteer.experiments.sweep.cluster import work_on_cluster
from infosteer.experiments.sweep.folder import SweepDir
from infosteer.experiments.sweep.plan import Plan, Trial, distinct
from infosteer.experiments.sweep.pool import Pool
from infosteer.experiments.sweep.reporter import SweepReporter
from infosteer.experiments.sweep.results import write_results
from infosteer.experiments.sweep.watch import Watch
from infosteer.experiments.sweep.work import POLL_S, open_trials, work

_REWRITE_S = 60.0  # results are rewritten while trials go on, this often or 20 times as long as writing takes


def sweep(
    recipe: str | Path | Mapping[str, Any],
    output: str | Path | None = None,
    *,
    overrides: Sequence[str] = (),
    workers: int | None = None,
    update: bool = False,
    ray: str | None = None,
    reporter: SweepReporter | None = None,
) -> Path:
    """Run a recipe's sweep, or go on with it where it stopped.

    Args:
        recipe: a YAML file, a shipped recipe's name, or a mapping; without a ``sweep`` section all arms and seeds are
            the trials.
        output: the sweep's folder; ``runs/<recipe's name>`` unless given.
        overrides: ``key=value`` changes to the recipe.
        workers: processes on this machine, instead of the recipe's.
        update: go on in the folder of another recipe; trials that both have are kept.
        ray: ``local``, or the address of a Ray cluster (``auto`` finds it), to do the trials there.
        reporter: gets progress events.

    Returns: the sweep's folder; ``results.json`` in it says what came out.

    Raises: InfoSteerError for anything wrong with recipe, data, model or folder; RunError at the end when a trial
        failed, with the results of all others saved.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            "A sweep starts its own processes.", got="a launcher's", fix="`infosteer sweep --workers N`, or --ray"
        )
    plan, path = plan_of(recipe, output, overrides)
    count = plan.sweep.workers if workers is None else workers
    if count < 1:
        raise ConfigError("A sweep needs at least one process.", where="workers", got=count)
    folder = SweepDir(path)
    folder.open(plan.recipe, update=update)
    return Sweep(plan, folder, count, ray, reporter or SweepReporter()).run()


def plan_of(
    recipe: str | Path | Mapping[str, Any], output: str | Path | None = None, overrides: Sequence[str] = ()
) -> tuple[Plan, Path]:
    """The checked plan of a recipe, and its folder."""
    data, source, folder = read_raw(recipe, overrides)
    checked = recipe_from(data, source, folder)
    return Plan(checked, source, folder), Path(output) if output else RUNS / (checked.name or "sweep")


class Sweep:
    """One sweep in one folder, as seen by a process that was started by hand; others may work beside it."""

    def __init__(self, plan: Plan, folder: SweepDir, workers: int, ray: str | None, reporter: SweepReporter) -> None:
        self.plan, self.folder, self.workers, self.ray, self.reporter = plan, folder, workers, ray, reporter
        self.bench = Bench(Reporter())
        self._written = time.monotonic()
        self._pause = _REWRITE_S

    def run(self) -> Path:
        """Do what is not done, in as many processes as asked for."""
        try:
            for trial in self._known():
                self.folder.forget_failure(trial)
            watch = Watch(self.plan, self.folder, self.reporter, self.workers)
            self.reporter.sweep_started(
                path=self.folder.path,
                total=watch.total,
                done=watch.done,
                workers=self.workers,
                baseline=self.plan.baseline,
            )
            if open_trials(self.plan, self.folder):
                self._check()
                try:
                    self._work(watch)
                finally:
                    results = write_results(self.plan, self.folder)
            else:
                results = write_results(self.plan, self.folder)
        finally:
            self.reporter.close()
        if results["failures"]:
            first = results["failures"][0]
            raise RunError(
                f"{len(results['failures'])} rows of the sweep failed; the results hold the others.",
                where=self.folder.results_file,
                got=f"{first['arm']}, seed {first['seed']}: {first['error'].splitlines()[0]}",
                fix="see `failures` there; the same command tries the failed trials again",
            )
        return self.folder.path

    def _known(self) -> list[Trial]:
        """All trials that can be named by now."""
        rows = list(self.plan.tuning)
        chosen = chosen_cells(self.plan, self.folder)
        return distinct([*rows, *self.plan.final(chosen)] if chosen is not None else rows)

    def _check(self) -> None:
        """Find out before the first trial what would stop a later one: sets, rows, layers that do not exist."""
        seen = set()
        rows = [*self.plan.tuning, *self.plan.final({arm: cells[0] for arm, cells in self.plan.cells.items()})]
        for trial in distinct(rows):
            recipe = trial.recipe
            data = to_plain(recipe.data_for(next(iter(recipe.arms))))
            key = canonical([recipe.model, data, to_plain(recipe.arms), to_plain(recipe.evaluate)])
            if key not in seen and trial.arm != BASE_ARM:
                seen.add(key)
                self.bench.check(recipe)

    def _work(self, watch: Watch) -> None:
        def look() -> None:
            watch.look()
            self._rewrite()

        if self.ray is not None:
            work_on_cluster(self.plan, self.folder, self.ray, self.workers, look)
        elif self.workers == 1:
            work(self.plan, self.folder, self.bench, look)
        else:
            pool = Pool(self.plan, self.folder, self.workers)
            try:
                while pool.tend():
                    look()
                    time.sleep(POLL_S)
            finally:
                pool.stop()
            work(self.plan, self.folder, self.bench, look)  # nothing, unless a failed trial was given back meanwhile
        watch.look()

    def _rewrite(self) -> None:
        """Results on the way, so that whoever looks sees them and a kill loses none."""
        started = time.monotonic()
        if started - self._written < self._pause:
            return
        write_results(self.plan, self.folder)
        self._written = time.monotonic()
        self._pause = max(_REWRITE_S, 20 * (self._written - started))
