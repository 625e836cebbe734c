"""Two processes (gloo): one writer, and the same training as one process with the same batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import yaml

from infosteer.experiments.run import run


def test_two_processes_train_as_one_and_write_once(inputs: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    arms = {"plain": [], "both": [{"method": "key_lift", "fraction": 0.1}, {"method": "key_entropy"}]}
    recipe.write_text(yaml.safe_dump(tiny.recipe(inputs, arms=arms, seeds=[1], evaluate_base=True), sort_keys=False))
    path = tmp_path / "two"
    # what `accelerate launch` starts for several GPUs; on a CPU it starts one process only
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [*launcher, "-m", "infosteer", "run", str(recipe), "--output", str(path)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("exact_match, %: mean by arm") == 1
    two = json.loads((path / "results.json").read_text())
    assert two["environment"]["processes"] == 2
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert [line["arm"] for line in lines if line["event"] == "evaluate"] == ["base", "plain", "both"]
    one_path = run(recipe, tmp_path / "one", overrides=["train.per_device_train_batch_size=8"])
    one = json.loads((one_path / "results.json").read_text())
    for ours, theirs in zip(two["arms"], one["arms"], strict=True):
        assert ours["metrics"]["id/answer_nll"] == pytest.approx(theirs["metrics"]["id/answer_nll"], abs=1e-5)
