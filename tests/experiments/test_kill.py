"""kill -9 at any moment: what is finished is kept, and the rest comes out with the same bits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import tiny
import yaml

from infosteer.experiments.run import run

# Trains the recipe given as arguments and kills itself at an optimiser step of the second training.
SUICIDE = """
import os, signal, sys
from infosteer.experiments.reporter import Reporter
from infosteer.experiments.run import run

class Killer(Reporter):
    trainings = 0

    def training_started(self, *, arm, seed):
        self.trainings += 1

    def steps(self, *, done, total):
        if self.trainings == 2 and done == 3:
            os.kill(os.getpid(), signal.SIGKILL)

run(sys.argv[1], sys.argv[2], reporter=Killer())
"""


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(sys.path)}


def write(folder: Path, recipe: dict[str, object]) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


def test_killed_in_the_middle_of_a_training_it_goes_on_from_the_checkpoint(inputs: Path, tmp_path: Path) -> None:
    # dropout makes the random states matter, adapters and accumulation the rest of the trainer's state
    train = {"save_steps": 2, "gradient_accumulation_steps": 2, "peft": {"r": 2, "dropout": 0.1}, "save_model": True}
    recipe = write(tmp_path, tiny.recipe(inputs, train=train, seeds=[1]))
    whole = run(recipe, tmp_path / "whole")
    path = tmp_path / "killed"
    done = subprocess.run([sys.executable, "-c", SUICIDE, str(recipe), str(path)], env=environment(), timeout=300)
    assert done.returncode == -signal.SIGKILL
    assert [p.parent.name for p in path.rglob("outcomes/*/*.json")] == ["plain"]
    assert (path / "checkpoints/lift/seed-1/checkpoint-2/whole").is_file()
    run(recipe, path)
    assert json.loads((path / "results.json").read_text()) == json.loads((whole / "results.json").read_text())
    for arm in ("plain", "lift"):
        adapter = Path("checkpoints") / arm / "seed-1" / "adapter_model.safetensors"
        assert (path / adapter).read_bytes() == (whole / adapter).read_bytes()
    ours, theirs = ((p / "metrics.jsonl").read_text().splitlines() for p in (path, whole))
    assert len(ours) == len(theirs), "no log line is lost or doubled"


def test_the_command_killed_after_its_first_training(finished: Path, inputs: Path, tmp_path: Path) -> None:
    recipe, path = write(tmp_path, tiny.recipe(inputs, seeds=[1])), tmp_path / "out"
    command = [sys.executable, "-m", "infosteer", "run", str(recipe), "--output", str(path)]
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    first = path / "outcomes" / "plain" / "seed-1.json"
    deadline = time.monotonic() + 240
    while not first.is_file() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert first.is_file()
    stamp = first.stat().st_mtime_ns
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert first.stat().st_mtime_ns == stamp, "a finished training never runs again"
    for arm in ("plain", "lift"):
        outcome = Path("outcomes") / arm / "seed-1.json"
        assert json.loads((path / outcome).read_text()) == json.loads((finished / outcome).read_text())
    assert "mean by arm" in done.stdout


def test_an_interrupt_is_said_in_one_line(inputs: Path, tmp_path: Path) -> None:
    recipe, path = write(tmp_path, tiny.recipe(inputs, train={"max_steps": 100_000})), tmp_path / "out"
    command = [sys.executable, "-m", "infosteer", "run", str(recipe), "--output", str(path)]
    process = subprocess.Popen(
        command,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A test run in the background of a shell ignores interrupts, and its children would too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while not (path / "metrics.jsonl").is_file() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == ""
    assert "Interrupted. What is finished is kept" in err
    assert "Traceback" not in err
