"""Trials on a Ray cluster.

The process that was started by hand claims a trial in the sweep's folder, hands it over, and writes what comes back:
the machines of the cluster need no common folder.
"""

from __future__ import annotations

import io
import logging
import os
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from infosteer.errors import ConfigError, RunError
from infosteer.experiments.bench import Bench, failed_outcome
from infosteer.experiments.recipe import load_recipe
from infosteer.experiments.reporter import Reporter
from infosteer.experiments.rundir import RunDir, disk_errors
from infosteer.experiments.sweep.folder import SweepDir, lost, measure
from infosteer.experiments.sweep.plan import Plan, Trial
from infosteer.experiments.sweep.pool import DEATHS, worker_environment
from infosteer.experiments.sweep.work import POLL_S, check_tuning, open_trials

LOCAL = "local"
_KEPT = ("metrics.jsonl", "checkpoints")  # of a trial's folder, beside its outcome
_bench: Bench | None = None  # of a Ray worker process, which does many trials


def work_on_cluster(plan: Plan, folder: SweepDir, address: str, workers: int, done: Callable[[], None]) -> None:
    """Do trials on a Ray cluster until every one has an outcome.

    Args:
        address: ``local`` starts a cluster on this machine that does ``workers`` trials at once; ``auto`` or an address
            joins one that is there, which does one trial a GPU, or a core where it has no GPU.
        done: called after every trial, and while none is ready.

    Raises: ConfigError when Ray is not installed or the cluster is out of reach; RunError for a folder that cannot be
        written.
    """
    ray = _connected(address, workers)
    try:
        resources = ray.cluster_resources()
        gpus = int(resources.get("GPU", 0))
        slots = max(1, gpus or int(resources.get("CPU", 1)))
        task = ray.remote(num_cpus=1, num_gpus=1 if gpus else 0, max_retries=0)(remote_trial)
        _Hand(plan, folder, ray, task, slots).work(done)
    finally:
        ray.shutdown()


class _Hand:
    """Hands trials to the cluster and takes their outcomes."""

    def __init__(self, plan: Plan, folder: SweepDir, ray: Any, task: Any, slots: int) -> None:
        self.plan, self.folder, self.ray, self.task, self.slots = plan, folder, ray, task, slots
        self.held: dict[Any, tuple[Trial, RunDir]] = {}  # what is under way, claimed here
        self.deaths: dict[str, int] = {}

    def work(self, done: Callable[[], None]) -> None:
        try:
            while trials := open_trials(self.plan, self.folder):
                self._hand_out(trials)
                if self.held:
                    ready, _ = self.ray.wait(list(self.held), num_returns=1, timeout=POLL_S)
                    for reference in ready:
                        self._take(reference)
                done()
        finally:
            for reference, (_, place) in self.held.items():
                self.ray.cancel(reference, force=True)
                place.close()

    def _hand_out(self, trials: list[Trial]) -> None:
        mine = {trial.key for trial, _ in self.held.values()}
        for trial in trials:
            if len(self.held) >= self.slots:
                return
            place = self.folder.trial(trial)
            if trial.key in mine or not place.claim(trial.recipe):
                continue
            if self.folder.done(trial):
                place.close()
                continue
            self.held[self.task.remote(trial.recipe.to_config(), trial.key, trial.arm, trial.seed)] = trial, place

    def _take(self, reference: Any) -> None:
        trial, place = self.held.pop(reference)
        try:
            outcome, files = self.ray.get(reference)
        except self.ray.exceptions.RayError as error:  # the machine or process is gone; the trial itself raises nothing
            self.deaths[trial.key] = self.deaths.get(trial.key, 0) + 1
            place.close()
            if self.deaths[trial.key] >= DEATHS:
                reason = RunError(
                    "The cluster lost this trial.", where=place.path, got=f"{type(error).__name__}, {DEATHS} times"
                )
                self.folder.give_up(trial, reason)
            return
        try:
            with disk_errors(place.path), tarfile.open(fileobj=io.BytesIO(files)) as archive:
                archive.extractall(place.path, filter="data")
            place.write_outcome(outcome)
        finally:
            place.close()
        check_tuning(self.plan, self.folder, trial)


def remote_trial(config: dict[str, Any], key: str, arm: str, seed: int) -> tuple[dict[str, Any], bytes]:
    """Do one trial in a folder of its own, wherever Ray runs this.

    Returns: its outcome, and what else is to be kept of its folder, as a tar archive.
    """
    global _bench
    _bench = _bench or Bench(Reporter())
    with tempfile.TemporaryDirectory(prefix="infosteer-") as temporary:
        place = RunDir(Path(temporary))
        try:
            trial = Trial(key=key, recipe=load_recipe(config), arm=arm, seed=seed)
            outcome = measure(place, trial, _bench)
        except Exception as error:  # a machine without the data, or with a full disk
            outcome = {**failed_outcome(arm, seed, error), "ran": lost()}
        files = io.BytesIO()
        with tarfile.open(fileobj=files, mode="w") as archive:
            for name in _KEPT:
                if (place.path / name).exists():
                    archive.add(place.path / name, arcname=name)
        return outcome, files.getvalue()


def _connected(address: str, workers: int) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise ConfigError(
            "Ray is not installed.", where="--ray", got=address, fix="pip install 'infosteer[scale]', or use --workers"
        ) from None
    quiet: dict[str, Any] = {"include_dashboard": False} if address == LOCAL else {}
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "GOMP_SPINCOUNT", "TRANSFORMERS_VERBOSITY", "TOKENIZERS_PARALLELISM")
    environment = worker_environment(workers)
    shared = {name: environment[name] for name in names} if address == LOCAL else {"TOKENIZERS_PARALLELISM": "false"}
    try:
        ray.init(
            address=None if address == LOCAL else address,
            num_cpus=workers if address == LOCAL else None,
            runtime_env={"env_vars": shared},
            log_to_driver=False,
            logging_level=logging.ERROR,
            **quiet,
        )
    except Exception as error:  # Ray raises many kinds
        raise ConfigError(
            "The Ray cluster is out of reach.", where="--ray", got=f"{address}: {type(error).__name__}: {error}"
        ) from error
    return ray
