"""``infosteer sweep``: what it prints, for people and for programs, and its exit codes."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import yaml
from rich.console import Console

from infosteer.cli.sweep_progress import SweepBar, duration
from infosteer.experiments.sweep.reporter import Progress

Call = Callable[..., tuple[int, str, str]]
SWEEP = {"grid": {"train.learning_rate": [1e-4, 1e-2]}, "tune": {"seeds": [11], "metric": "id/answer_nll"}}


@pytest.fixture
def recipe(inputs: Path, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    config = tiny.recipe(inputs, seeds=[1], sweep=SWEEP, train={"max_steps": 2})
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


def test_a_sweep_is_planned_done_and_shown(infosteer: Call, recipe: Path, tmp_path: Path) -> None:
    out_dir = tmp_path / "out"
    code, out, err = infosteer("sweep", recipe, "-o", out_dir, "--dry-run")
    assert code == 0, err
    assert "unknown until a trial was timed" in out
    assert not out_dir.exists()

    code, out, err = infosteer("sweep", recipe, "--output", out_dir)
    assert code == 0, err
    assert "6 trials, 0 done before; 1 worker; baseline arm: plain" in err
    assert "[1/6] tuning plain learning_rate=0.0001, seed 11: " in err
    assert "chosen for lift: learning_rate=" in err
    assert "left" in err
    for word in ("chosen by id/answer_nll on tuning seeds 11", "tuning steps", "mean by arm", "difference from plain"):
        assert word in out
    assert str(out_dir / "results.json") in out

    code, out, err = infosteer("sweep", recipe, "-o", out_dir, "--json")
    assert code == 0
    assert json.loads(out) == json.loads((out_dir / "results.json").read_text())
    code, out, _ = infosteer("sweep", recipe, "-o", out_dir, "--dry-run", "--json")
    facts = json.loads(out)
    assert (facts["trials"], facts["done"], facts["minutes_left"]) == (6, 6, 0.0)
    assert facts["tuning_trials"] == {"plain": 2, "lift": 2}

    code, _, err = infosteer("sweep", recipe, "-o", out_dir, "train.weight_decay=0.5")
    assert code == 1
    assert "train.weight_decay: 0.01 -> 0.5" in err
    assert "--update" in err
    code, _, err = infosteer("run", recipe, "-o", tmp_path / "run")
    assert code == 1
    assert "infosteer sweep" in err


def test_a_failed_trial_shows_the_others_and_exits_with_1(infosteer: Call, recipe: Path, tmp_path: Path) -> None:
    wild = "arms.wild=[{method: key_lift, alpha: 1e38, fraction: 1}, {method: key_lift, alpha: 1e38, fraction: 1}]"
    code, out, err = infosteer("sweep", recipe, "-o", tmp_path / "out", wild)
    assert code == 1
    assert "FAILED: the training loss is not finite" in err
    assert "chosen for wild: nothing, trials failed" in err
    assert "2 rows of the sweep failed" in err
    assert "mean by arm" in out
    assert "none: trials failed" in out


@pytest.mark.parametrize("arguments", [("--workers", "0"), ("sweep",), ("--no-such-option",)])
def test_bad_usage_exits_with_2(infosteer: Call, recipe: Path, arguments: tuple[str, ...]) -> None:
    code, _, err = infosteer("sweep", recipe, *arguments)
    assert code == 2
    assert "Traceback" not in err


def test_validate_shows_the_sweep(infosteer: Call, recipe: Path) -> None:
    code, out, err = infosteer("validate", recipe, "--rows", "0")
    assert code == 0, err
    assert "train.learning_rate: 0.0001, 0.01" in out
    assert "plain 2, lift 2 on seeds 11" in out
    code, _, err = infosteer("validate", recipe, "sweep.tune.seeds=[1]")
    assert code == 1
    assert "cannot judge" in err


def test_the_bar_on_a_terminal() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120, highlight=False)
    bar = SweepBar(console)
    bar.sweep_started(path=Path("p"), total=3, done=1, workers=2, baseline="plain")
    outcome = {"status": "finished", "metrics": {"id/x": 0.25}, "ran": {"seconds": 3.2}}
    bar.trial_done(what="plain, seed 1", outcome=outcome, progress=Progress(done=2, total=3, seconds_left=100.0))
    failed = {"status": "failed", "error": "it broke\nbadly", "ran": {"seconds": None}}
    bar.trial_done(what="[b]odd", outcome=failed, progress=Progress(done=3, total=3, seconds_left=None))
    bar.close()
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "[2/3] plain, seed 1: 3 s; id/x 0.250; about 2 min left" in text
    assert "[b]odd: FAILED: it broke" in text
    assert "badly" not in text


def test_durations_as_people_say_them() -> None:
    assert [duration(s) for s in (0.4, 89, 90, 5399, 5400, 12000)] == [
        "0 s",
        "89 s",
        "2 min",
        "1 h 30 min",
        "1 h 30 min",
        "3 h 20 min",
    ]
