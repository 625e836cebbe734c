"""Several processes, kills and interrupts: no trial is lost, none is done twice, and the results are the same bits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml

from infosteer.errors import RunError
from infosteer.experiments.rundir import RunDir
from infosteer.experiments.sweep.drive import plan_of, sweep
from infosteer.experiments.sweep.folder import SweepDir
from infosteer.experiments.sweep.pool import Pool
from infosteer.experiments.sweep.reporter import SweepReporter

# Sweeps the recipe in argv[1] into argv[2]; every trial that is really done leaves a line in argv[3]; in the middle of
# the trial whose number is argv[4] the process kills itself.
SCRIPT = """
import os, signal, sys
from infosteer.experiments.bench import Bench
from infosteer.experiments.sweep import folder
from infosteer.experiments.sweep.drive import sweep

recipe, path, log, fatal = *sys.argv[1:4], int(sys.argv[4])
begun = 0
real = folder.measure

def measure(place, trial, bench):
    global begun
    begun += 1
    with open(log, "a") as file:
        file.write(trial.key + "\\n")
    if begun == fatal:
        bench.reporter.steps = lambda *, done, total: done == 2 and os.kill(os.getpid(), signal.SIGKILL)
    return real(place, trial, bench)

folder.measure = measure
sweep(recipe, path)
"""
SWEEP = {"grid": {"train.learning_rate": [1e-4, 1e-2]}, "tune": {"seeds": [11], "metric": "id/answer_nll"}}
TRIALS = 4 + 2


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(sys.path)}


def start(recipe: Path, path: Path, log: Path, fatal: int = 0) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", SCRIPT, str(recipe), str(path), str(log), str(fatal)]
    return subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def results(path: Path) -> dict[str, Any]:
    return json.loads((path / "results.json").read_text())


@pytest.fixture(scope="module")
def recipe(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    train = {"max_steps": 4, "save_steps": 1, "peft": {"r": 2, "dropout": 0.1}}
    path.write_text(yaml.safe_dump(tiny.recipe(inputs, sweep=SWEEP, seeds=[1], train=train), sort_keys=False))
    return path


@pytest.fixture(scope="module")
def undisturbed(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The results of one process that nothing happened to."""
    return results(sweep(recipe, tmp_path_factory.mktemp("sweeps") / "undisturbed"))


@pytest.mark.slow
def test_two_sweeps_of_one_folder_of_which_one_is_killed(
    recipe: Path, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    path, log = tmp_path / "sweep", tmp_path / "log"
    helper, victim = start(recipe, path, log), start(recipe, path, log, fatal=2)
    _, told = helper.communicate(timeout=300)
    victim.communicate(timeout=300)
    assert helper.returncode == 0, told.decode()
    begun = Counter(log.read_text().split())
    assert len(begun) == TRIALS
    if victim.returncode == -signal.SIGKILL:  # else the other one was so quick that it left it no second trial
        assert sum(begun.values()) == TRIALS + 1, "the trial in which it died was taken over, and no other done twice"
    else:
        assert sum(begun.values()) == TRIALS
    assert results(path) == undisturbed


def test_a_killed_sweep_goes_on_to_the_same_results(recipe: Path, undisturbed: dict[str, Any], tmp_path: Path) -> None:
    path, log = tmp_path / "sweep", tmp_path / "log"
    killed = start(recipe, path, log, fatal=5)
    killed.communicate(timeout=300)
    assert killed.returncode == -signal.SIGKILL
    plan, _ = plan_of(recipe)
    folder = SweepDir(path)
    assert all(folder.finished(row.trial) for row in plan.tuning), "the final trials had begun"
    (last,) = (path / "trials" / log.read_text().split()[-1]).glob("checkpoints/arm/seed-1/checkpoint-1")
    assert (last / "whole").is_file()
    sweep(recipe, path)
    assert results(path) == undisturbed
    lines = [json.loads(line) for line in (last.parents[3] / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["event"] == "train"] == [2, 4], "no line is lost or doubled"


class Killer(SweepReporter):
    """Kills the worker that holds the second trial, once it holds it."""

    def __init__(self, path: Path, key: str) -> None:
        self.victim: int | None = None
        self.watch = threading.Thread(target=self._kill, args=(RunDir(path / "trials" / key),), daemon=True)

    def sweep_started(self, **facts: Any) -> None:
        self.watch.start()

    def _kill(self, folder: RunDir) -> None:
        while (holder := folder.holder()) in (None, os.getpid()):
            time.sleep(0.002)
        assert holder is not None
        os.kill(holder, signal.SIGKILL)
        self.victim = holder


def test_workers_share_the_trials_and_one_that_is_killed_is_replaced(
    recipe: Path, undisturbed: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    path = tmp_path / "sweep"
    plan, _ = plan_of(recipe)
    killer = Killer(path, plan.tuning[1].trial.key)
    sweep(recipe, path, workers=2, reporter=killer)
    assert killer.victim is not None
    assert results(path) == undisturbed
    ran = [json.loads(file.read_text())["ran"] for file in path.glob("trials/*/outcomes/arm/*.json")]
    assert len(ran) == TRIALS
    processes = {one["process"] for one in ran}
    assert os.getpid() not in processes
    assert killer.victim not in processes or len(processes) > 1
    assert {one["threads"] for one in ran} == {1}
    assert len(list((path / "logs").iterdir())) == 3


@pytest.mark.slow
def test_an_interrupt_is_said_in_one_line_and_ends_the_workers(recipe: Path, tmp_path: Path) -> None:
    path = tmp_path / "sweep"
    command = [sys.executable, "-m", "infosteer", "sweep", str(recipe), "-o", str(path), "--workers", "2"]
    long = ["train.max_steps=100000", "train.save_steps=null"]
    process = subprocess.Popen(
        [*command, *long],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell starts background jobs with interrupts ignored, and they hand that down
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 240
    while len(list(path.glob("trials/*/metrics.jsonl"))) < 2 and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.05)
    holders = {RunDir(file.parent).holder() for file in path.glob("trials/*/metrics.jsonl")}
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == ""
    assert "Interrupted. Finished trials are kept" in err
    assert "Traceback" not in err
    assert len(holders) == 2
    for holder in holders:
        assert holder is not None
        with pytest.raises(ProcessLookupError):
            os.kill(holder, 0)


def test_two_deaths_in_one_trial_are_its_failure(recipe: Path, tmp_path: Path) -> None:
    plan, _ = plan_of(recipe)
    folder = SweepDir(tmp_path)
    trial = plan.tuning[0].trial
    pool = Pool(plan, folder, 0)
    dead = subprocess.Popen([sys.executable, "-c", "pass"])
    dead.wait()
    place = folder.trial(trial)
    for deaths in (1, 2):
        assert place.claim(trial.recipe)
        (place.path / ".lock").write_text(str(dead.pid))
        place.close()
        pool.died(dead.pid, signal.SIGKILL)
        assert folder.done(trial) == (deaths == 2)
    outcome = folder.outcome(trial)
    assert outcome is not None
    assert "killed by signal 9, 2 times" in outcome["error"]


def test_a_held_trial_is_left_alone(recipe: Path, tmp_path: Path) -> None:
    plan, _ = plan_of(recipe)
    folder = SweepDir(tmp_path)
    trial = plan.tuning[0].trial
    holder = folder.trial(trial)
    assert holder.claim(trial.recipe)
    assert not folder.trial(trial).claim(trial.recipe)
    folder.give_up(trial, RunError("dead"))
    assert not folder.done(trial)
    holder.close()
    folder.give_up(trial, RunError("dead"))
    assert folder.done(trial)
    folder.forget_failure(trial)
    assert not folder.done(trial)


def test_a_sweep_that_was_killed_leaves_no_worker_behind(recipe: Path, tmp_path: Path) -> None:
    code = (
        "import os, subprocess, sys, time\n"
        "watch = 'import sys; from infosteer.experiments.sweep.worker import _end_with; _end_with(int(sys.argv[1]))'\n"
        "command = [sys.executable, '-c', watch, str(os.getpid())]\n"
        "print(subprocess.Popen(command, stdout=subprocess.DEVNULL).pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], env=environment(), stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    time.sleep(0.2)
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 60
    while _alive(worker) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _alive(worker)


def _alive(process: int) -> bool:
    """Whether a process runs; one that has ended and waits to be collected does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
