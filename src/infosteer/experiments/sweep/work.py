"""Working on a sweep's folder: whoever calls this does trials that nobody else is at, until all are done.

Any number of processes may do so at once. They agree on nothing but the folder: the plan is a function of the recipe,
the choice of cells a function of the tuning outcomes.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

from infosteer.experiments.bench import Bench
from infosteer.experiments.recipe import BASE_ARM
from infosteer.experiments.sweep.choose import chosen_cells
from infosteer.experiments.sweep.folder import SweepDir, check_metric, do_trial
from infosteer.experiments.sweep.plan import Plan, Trial, distinct

POLL_S = 0.2


def work(plan: Plan, folder: SweepDir, bench: Bench, done: Callable[[], None] = lambda: None) -> None:
    """Do trials until every one has an outcome, by this process or another.

    Args:
        done: called after every trial of this process, and while it waits for others.

    Raises: RunError for a disk or folder that cannot be written; ConfigError for a tuning metric that is not measured.
    """
    frozen = False
    while trials := open_trials(plan, folder):
        mine = 0
        for trial in trials:
            if not folder.done(trial) and do_trial(folder.trial(trial), trial, bench):
                mine += 1
                if not frozen:  # the libraries are loaded by now; going through them takes longer than a small trial
                    gc.collect()
                    gc.freeze()
                    frozen = True
                check_tuning(plan, folder, trial)
                done()
        if not mine:
            time.sleep(POLL_S)
            done()


def open_trials(plan: Plan, folder: SweepDir) -> list[Trial]:
    """The trials without an outcome: those of tuning, and when there is none left those of the final seeds."""
    tuning = [trial for trial in distinct(plan.tuning) if not folder.done(trial)]
    if tuning:
        return tuning
    chosen = chosen_cells(plan, folder)
    if chosen is None:  # another process lets a failed trial be tried again, just now
        return open_trials(plan, folder)
    return [trial for trial in distinct(plan.final(chosen)) if not folder.done(trial)]


def check_tuning(plan: Plan, folder: SweepDir, trial: Trial) -> None:
    """Raises: ConfigError, after the first trial instead of the last, for a tuning metric that is not measured."""
    tune = plan.sweep.tune
    if tune is not None and trial.arm != BASE_ARM and trial.seed in tune.seeds:
        measured = tuple(metric for metric in tune.metrics if not metric.endswith("/utilisation"))  # added later
        check_metric(folder.outcome(trial), measured, "sweep.tune.metric")
