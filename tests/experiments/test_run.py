"""Runs: what lies in the folder, what resumes, what a failure leaves behind."""

from __future__ import annotations

import errno
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from infosteer.errors import ConfigError, DataError, InfoSteerError, RunError
from infosteer.experiments import rundir
from infosteer.experiments.recipe import load_recipe
from infosteer.experiments.reporter import Reporter
from infosteer.experiments.run import run


class Told(Reporter):
    """Remembers which trainings began and which failed."""

    def __init__(self) -> None:
        self.began: list[tuple[str, int]] = []
        self.failed: list[tuple[str, int]] = []

    def training_started(self, *, arm: str, seed: int) -> None:
        self.began.append((arm, seed))

    def training_failed(self, *, arm: str, seed: int, error: Exception) -> None:
        self.failed.append((arm, seed))


def results(path: Path) -> dict[str, Any]:
    return json.loads((path / "results.json").read_text())


def outcome(path: Path, arm: str, seed: int) -> dict[str, Any]:
    return json.loads((path / "outcomes" / arm / f"seed-{seed}.json").read_text())


def test_the_folder_of_a_run(finished: Path) -> None:
    found = results(finished)
    assert found["schema"] == 1
    assert {"environment", "arms", "summary", "comparisons"} <= set(found)
    assert [(a["arm"], a["seed"]) for a in found["arms"]] == [("plain", 1), ("lift", 1), ("plain", 2), ("lift", 2)]
    assert {"id/exact_match", "id/answer_nll"} <= set(found["arms"][0]["metrics"])
    assert {row["n"] for row in found["summary"]} == {2}
    assert {(c["arm"], c["baseline"]) for c in found["comparisons"]} == {("lift", "plain")}
    assert found["environment"]["packages"]["torch"] == torch.__version__
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    trained = [(line["arm"], line["seed"], line["step"]) for line in lines if line["event"] == "train"]
    assert trained == [(arm, seed, step) for seed in (1, 2) for arm in ("plain", "lift") for step in (2, 4)]
    assert all(line["infosteer/change"] > 0 for line in lines if line["event"] == "train" and line["arm"] == "lift")
    assert not list((finished / "checkpoints").glob("*/*")), "save_model: false keeps no model"


def test_means_and_differences_are_those_of_the_examples(finished: Path) -> None:
    scores = {
        arm: np.array([outcome(finished, arm, seed)["examples"]["id"]["answer_nll"] for seed in (1, 2)])
        for arm in ("plain", "lift")
    }
    found = results(finished)
    summary = {(row["arm"], row["metric"]): row for row in found["summary"]}
    for arm, table in scores.items():
        row = summary[arm, "id/answer_nll"]
        assert math.isclose(row["mean"], table.mean(), rel_tol=1e-12)
        assert row["low"] <= row["mean"] <= row["high"]
        per_seed = {a["seed"]: a["metrics"]["id/answer_nll"] for a in found["arms"] if a["arm"] == arm}
        np.testing.assert_allclose([per_seed[1], per_seed[2]], table.mean(axis=1), rtol=1e-12)
    difference = next(row for row in found["comparisons"] if row["metric"] == "id/answer_nll")
    assert math.isclose(difference["difference"], (scores["lift"] - scores["plain"]).mean(), rel_tol=1e-9)
    assert not np.array_equal(scores["plain"][0], scores["plain"][1]), "seeds differ"
    assert not np.array_equal(scores["plain"], scores["lift"]), "arms differ"


def test_the_resolved_recipe_gives_the_same_run(finished: Path, tmp_path: Path) -> None:
    assert load_recipe(finished / "recipe.yaml").to_config() == load_recipe(finished / "recipe.yaml", ()).to_config()
    again = run(finished / "recipe.yaml", tmp_path / "again")
    assert results(again) == results(finished)


def test_equal_arms_of_a_seed_start_and_train_alike(inputs: Path, tmp_path: Path) -> None:
    arms = {"plain": [], "lift": [{"method": "key_lift"}], "off": [{"method": "key_lift", "strength": 0}]}
    path = run(tiny.recipe(inputs, arms=arms, seeds=[5]), tmp_path / "run")
    plain, off = outcome(path, "plain", 5), outcome(path, "off", 5)
    assert plain["examples"] == off["examples"], "strength 0 is the bare trainer, bit by bit, after another arm"
    assert plain["train"]["loss"] == off["train"]["loss"]
    assert plain["train"]["rows_sha256"] == off["train"]["rows_sha256"]


def test_finished_trainings_never_run_again(finished: Path, tmp_path: Path) -> None:
    path = tmp_path / "copy"
    shutil.copytree(finished, path)
    (path / "results.json").unlink()
    told = Told()
    run(path / "recipe.yaml", path, reporter=told)
    assert told.began == []
    assert results(path) == results(finished)
    (path / "outcomes" / "lift" / "seed-1.json").unlink()
    run(path / "recipe.yaml", path, reporter=told)
    assert told.began == [("lift", 1)]
    assert results(path) == results(finished)
    metrics = (path / "metrics.jsonl").read_text().splitlines()
    assert len(metrics) == len((finished / "metrics.jsonl").read_text().splitlines()), "no line twice"


def test_another_recipe_in_the_same_folder_is_refused(finished: Path, tmp_path: Path) -> None:
    path = tmp_path / "copy"
    shutil.copytree(finished, path)
    with pytest.raises(RunError, match=r"train\.learning_rate: 0\.001 -> 0\.002"):
        run(path / "recipe.yaml", path, overrides=["train.learning_rate=2e-3"])
    assert results(path) == results(finished)


def test_a_folder_that_is_not_a_run_is_left_alone(inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(RunError, match=r"thesis\.txt"):
        run(tiny.recipe(inputs), tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_two_processes_do_not_write_one_run(finished: Path, tmp_path: Path) -> None:
    path = tmp_path / "copy"
    shutil.copytree(finished, path)
    holder = rundir.RunDir(path)
    holder.open(load_recipe(path / "recipe.yaml"))
    try:
        with pytest.raises(RunError, match="Another process"):
            run(path / "recipe.yaml", path)
    finally:
        holder.close()


def test_a_loss_that_is_not_finite_fails_its_arm_alone(inputs: Path, tmp_path: Path) -> None:
    arms = {"plain": [], "wild": [{"method": "key_lift", "alpha": 1e38, "fraction": 1.0}] * 2}  # 1e76 overflows
    recipe = tiny.recipe(inputs, arms=arms, seeds=[1])
    recipe["train"]["save_model"] = True
    told = Told()
    with pytest.raises(RunError, match="wild, seed 1"):
        run(recipe, tmp_path / "run", reporter=told)
    found = results(tmp_path / "run")
    assert [a["arm"] for a in found["arms"]] == ["plain"]
    assert [(f["arm"], f["seed"]) for f in found["failures"]] == [("wild", 1)]
    assert "finite" in found["failures"][0]["error"]
    assert told.failed == [("wild", 1)]
    kept = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "checkpoints" / "wild" / "seed-1" / "last-good")
    assert all(parameter.isfinite().all() for parameter in kept.parameters()), "the last good state is kept"
    with pytest.raises(RunError):
        run(recipe, tmp_path / "run", reporter=told)
    assert told.began == [("plain", 1), ("wild", 1), ("wild", 1)], "only the failed one is tried again"


def test_a_full_disk_stops_and_keeps_what_is_finished(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: Path
) -> None:
    real = rundir.os.fsync
    budget = [0]

    def fsync(descriptor: int) -> None:
        budget[0] += 1
        if budget[0] > 5:  # recipe, two outcomes and two results fit
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(rundir.os, "fsync", fsync)
    path = tmp_path / "run"
    with pytest.raises(RunError, match="the disk is full"):
        run(tiny.recipe(inputs), path)
    assert [a["arm"] for a in results(path)["arms"]] == ["plain", "lift"]
    assert not list(path.rglob("*.tmp")), "no half-written file stays"
    monkeypatch.undo()
    told = Told()
    run(tiny.recipe(inputs), path, reporter=told)
    assert told.began == [("plain", 2), ("lift", 2)]
    assert results(path) == results(finished)


def test_a_full_disk_while_saving_a_model(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trl import SFTTrainer

    def save_model(self: Any, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError("I/O error: No space left on device (os error 28)")  # what safetensors raises

    monkeypatch.setattr(SFTTrainer, "save_model", save_model)
    with pytest.raises(RunError, match="The disk is full"):
        run(tiny.recipe(inputs, train={"save_model": True}), tmp_path / "run")


def test_saved_models_load_with_plain_transformers(inputs: Path, tmp_path: Path) -> None:
    path = run(tiny.recipe(inputs, train={"save_model": True}, seeds=[1]), tmp_path / "run")
    folder = path / "checkpoints" / "lift" / "seed-1"
    model = AutoModelForCausalLM.from_pretrained(folder)
    base = AutoModelForCausalLM.from_pretrained(inputs / "model")
    assert (folder / "infosteer.json").is_file()
    assert not list(folder.glob("checkpoint-*"))
    assert any(not torch.equal(a, b) for a, b in zip(model.parameters(), base.parameters(), strict=True))
    assert AutoTokenizer.from_pretrained(folder)("x")["input_ids"]


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"model": "/no/such/folder"}, ConfigError, "no such model folder"),
        ({"model": "nobody/no-such-model"}, ConfigError, "hub"),
        ({"data": {"train": "/no/such/rows.jsonl"}}, DataError, "no such data file"),
        ({"evaluate": {"id": {"source": "/no/such/rows.jsonl"}}}, DataError, "no such data file"),
        ({"arms": {"plain": [], "x": [{"method": "key_lift", "layers": [7]}]}}, ConfigError, "7"),
        ({"train": {"lr_scheduler_type": "sideways"}}, ConfigError, "sideways"),
        ({"train": {"optim": "magic"}}, ConfigError, "magic"),
    ],
)
def test_bad_input_is_refused_before_training(
    inputs: Path, tmp_path: Path, changes: dict[str, Any], error: type[InfoSteerError], match: str
) -> None:
    with pytest.raises(error, match=match):
        run(tiny.recipe(inputs, **changes), tmp_path / "run")
    assert not list((tmp_path / "run").rglob("outcomes/*/*"))


def test_pickled_weights_are_not_read(inputs: Path, tmp_path: Path) -> None:
    model = tmp_path / "pickled"
    shutil.copytree(inputs / "model", model)
    torch.save(AutoModelForCausalLM.from_pretrained(model).state_dict(), model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()
    with pytest.raises(RunError, match="safetensors"):
        run(tiny.recipe(inputs, model=str(model)), tmp_path / "run")


def test_damaged_weights_are_a_run_error(inputs: Path, tmp_path: Path) -> None:
    model = tmp_path / "damaged"
    shutil.copytree(inputs / "model", model)
    raw = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(RunError, match="cannot be read"):
        run(tiny.recipe(inputs, model=str(model)), tmp_path / "run")
