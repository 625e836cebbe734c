"""Sweeps on Ray: a local cluster of two workers, and what is said where there is none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny

from infosteer.errors import ConfigError
from infosteer.experiments.recipe import load_recipe
from infosteer.experiments.sweep import cluster
from infosteer.experiments.sweep.drive import plan_of, sweep
from infosteer.experiments.sweep.folder import SweepDir

WILD = [{"method": "key_lift", "alpha": 1e38, "fraction": 1.0}] * 2  # 1e76 overflows
SWEEP = {"grid": {"train.learning_rate": [1e-4, 1e-2]}, "tune": {"seeds": [11], "metric": "id/answer_nll"}}


def results(path: Path) -> dict[str, Any]:
    return json.loads((path / "results.json").read_text())


def test_a_trial_done_elsewhere_is_the_same_trial(inputs: Path, tmp_path: Path) -> None:
    """What a Ray worker runs, without Ray."""
    recipe = tiny.recipe(inputs, arms={"plain": []}, seeds=[1], train={"save_model": True})
    plan, _ = plan_of(recipe)
    (row,) = plan.final()
    outcome, files = cluster.remote_trial(row.trial.recipe.to_config(), row.trial.key, "arm", 1)
    here = SweepDir(sweep(recipe, tmp_path / "here")).outcome(row.trial)
    assert here is not None
    assert {**outcome, "ran": 0} == {**here, "ran": 0}
    for name in (b"model.safetensors", b"metrics.jsonl"):
        assert name in files
    gone = {**row.trial.recipe.to_config(), "model": "/no/such/folder"}
    outcome, _ = cluster.remote_trial(gone, "x", "arm", 1)
    assert outcome["status"] == "failed"
    assert "no such model folder" in outcome["error"]


def test_without_ray_it_says_how_to_get_it(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"infosteer\[scale\]"):
        sweep(tiny.recipe(inputs), tmp_path / "s", ray="local")


@pytest.fixture
def ray_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="ray is not installed (pip install 'infosteer[scale]')")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))


@pytest.mark.slow
@pytest.mark.usefixtures("ray_is_there")
def test_a_local_cluster_of_two_workers(inputs: Path, tmp_path: Path) -> None:
    arms = {"plain": [], "lift": [{"method": "key_lift"}], "wild": WILD}
    recipe = tiny.recipe(inputs, arms=arms, seeds=[1], sweep=SWEEP, train={"max_steps": 2})
    code = (
        "import sys, json; from infosteer.experiments.sweep.drive import sweep\n"
        "from infosteer.errors import RunError\n"
        "try: sweep(json.loads(sys.argv[1]), sys.argv[2], ray='local', workers=2)\n"
        "except RunError as error: print(error)\n"
    )
    # a process of its own: Ray stays behind in the one that started it
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(recipe), str(tmp_path / "ray")],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "rows of the sweep failed" in done.stdout, done.stderr[-2000:]
    with pytest.raises(ValueError, match="rows of the sweep failed"):
        sweep(recipe, tmp_path / "here")
    by_ray, here = results(tmp_path / "ray"), results(tmp_path / "here")
    for found in (by_ray, here):
        for failure in found["failures"]:
            failure["error"] = failure["error"].splitlines()[0]  # the rest names a folder
    assert by_ray == here
    plan, _ = plan_of(load_recipe(tmp_path / "ray" / "recipe.yaml").to_config())
    outcomes = [SweepDir(tmp_path / "ray").outcome(row.trial) for row in plan.tuning]
    processes = {outcome["ran"]["process"] for outcome in outcomes if outcome}
    assert len(processes) == 2
    assert os.getpid() not in processes


@pytest.mark.slow
@pytest.mark.usefixtures("ray_is_there")
def test_a_cluster_out_of_reach_is_one_error(inputs: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="out of reach"):
        sweep(tiny.recipe(inputs), tmp_path / "s", ray="auto")
