"""Sweeps from end to end on a tiny model: what is chosen, what the results say, and that nothing runs twice."""

from __future__ import annotations

import json
import math
import shutil
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import tiny
import yaml

from infosteer.errors import ConfigError, InfoSteerError, RunError
from infosteer.experiments.run import run
from infosteer.experiments.sweep import folder as folder_module
from infosteer.experiments.sweep.drive import plan_of, sweep
from infosteer.experiments.sweep.folder import SweepDir
from infosteer.experiments.sweep.forecast import forecast
from infosteer.experiments.sweep.reporter import Progress, SweepReporter

RATES = [1e-5, 1e-2]
TUNED: dict[str, Any] = {
    "grid": {"train.learning_rate": RATES},
    "tune": {"seeds": [11, 12], "metric": "id/answer_nll", "sets": {"id": {"limit": 4}}},
}
WILD = [{"method": "key_lift", "alpha": 1e38, "fraction": 1.0}] * 2  # 1e76 overflows


class Told(SweepReporter):
    """Remembers what was done."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.left: list[float | None] = []
        self.best: dict[str, str] = {}

    def trial_done(self, *, what: str, outcome: Mapping[str, Any], progress: Progress) -> None:
        self.done.append(what)
        self.left.append(progress.seconds_left)

    def chosen(self, *, arm: str, cell: str, score: float | None) -> None:
        self.best[arm] = cell


def recipe(inputs: Path, **changes: Any) -> dict[str, Any]:
    changes = {"train": {"max_steps": 2}, **changes}
    return tiny.recipe(inputs, **changes)


def results(path: Path) -> dict[str, Any]:
    return json.loads((path / "results.json").read_text())


@pytest.fixture(scope="module")
def swept(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sweep that tuned two arms and ran them on two seeds; read only."""
    return sweep(recipe(inputs, sweep=TUNED), tmp_path_factory.mktemp("sweeps") / "tuned")


def test_each_arm_gets_its_best_cell_and_the_table_is_kept(swept: Path) -> None:
    plan, _ = plan_of(swept / "recipe.yaml")
    folder = SweepDir(swept)
    scores: dict[tuple[str, float], list[float]] = {}
    for row in plan.tuning:
        outcome = folder.outcome(row.trial)
        assert outcome is not None
        assert len(outcome["examples"]["id"]["answer_nll"]) == 4, "tuning evaluates the few that it was told to"
        score = statistics.fmean(outcome["examples"]["id"]["answer_nll"])
        scores.setdefault((row.arm, row.cell["train.learning_rate"]), []).append(score)
    facts = results(swept)["sweep"]
    for line in facts["tuning"]["rows"]:
        rate = line["cell"]["train.learning_rate"]
        mean = statistics.fmean(scores[line["arm"], rate])
        assert math.isclose(line["mean"], mean, rel_tol=1e-12)
        best = min(RATES, key=lambda one: statistics.fmean(scores[line["arm"], one]))
        assert line["chosen"] == (rate == best), "a loss is minimised"
        if line["chosen"]:
            assert facts["chosen"][line["arm"]] == {"cell": line["cell"], "score": line["mean"]}
    assert len(facts["tuning"]["rows"]) == 4
    assert facts["budget"] == {
        arm: {"cells": 2, "tune_trials": 4, "tune_steps": 8, "final_trials": 2, "final_steps": 4}
        for arm in ("plain", "lift")
    }
    assert facts["missing"] == 0


def test_final_trials_are_those_of_run_bit_by_bit(swept: Path, inputs: Path, tmp_path: Path) -> None:
    found = results(swept)
    (rate,) = {found["settings"][arm]["train"]["learning_rate"] for arm in ("plain", "lift")}
    path = run(recipe(inputs, train={"max_steps": 2, "learning_rate": rate}), tmp_path / "run")
    plan, _ = plan_of(swept / "recipe.yaml")
    for row in plan.final({arm: {"train.learning_rate": rate} for arm in ("plain", "lift")}):
        ours = SweepDir(swept).outcome(row.trial)
        assert ours is not None
        theirs = json.loads((path / "outcomes" / row.arm / f"seed-{row.seed}.json").read_text())
        for key in ("metrics", "examples", "sets", "settings", "train"):
            assert ours[key] == theirs[key], key
    by_run = results(path)
    assert found["summary"] == by_run["summary"]
    for ours, theirs in zip(found["comparisons"], by_run["comparisons"], strict=True):
        assert ours == ours | theirs, "what a run says, and more"
        assert ours["p_holm"] == ours["p_value"], "one comparison in each family"
    assert [(a["arm"], a["seed"], a["metrics"]) for a in found["arms"]] == [
        (a["arm"], a["seed"], a["metrics"]) for a in by_run["arms"]
    ]


def test_the_table_of_trials_is_tidy(swept: Path) -> None:
    table = pyarrow.parquet.read_table(swept / "trials.parquet").to_pylist()
    assert {line["phase"] for line in table} == {"tune", "final"}
    chosen = results(swept)["sweep"]["chosen"]["lift"]["cell"]["train.learning_rate"]
    mine = [line for line in table if line["arm"] == "lift" and line["metric"] == "id/answer_nll"]
    assert len(mine) == 4 + 2
    assert {line["seed"] for line in mine if line["phase"] == "final"} == {1, 2}
    assert all(line["chosen"] == (line["train.learning_rate"] == chosen) for line in mine)
    assert all(line["status"] == "finished" and line["steps"] == 2 and line["seconds"] > 0 for line in mine)
    final = {line["seed"]: line["value"] for line in mine if line["phase"] == "final"}
    assert final == {
        arm["seed"]: arm["metrics"]["id/answer_nll"] for arm in results(swept)["arms"] if arm["arm"] == "lift"
    }
    monitored = {line["metric"] for line in table if line["arm"] == "lift"} - {line["metric"] for line in mine}
    assert "infosteer/change" in monitored, "the session's monitors are there too"


def test_what_is_done_never_runs_again(swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "copy"
    shutil.copytree(swept, path)
    plan, _ = plan_of(path / "recipe.yaml")
    gone = plan.tuning[3].trial
    shutil.rmtree(path / "trials" / gone.key)
    (path / "results.json").unlink()
    measured = []
    real = folder_module.measure
    monkeypatch.setattr(folder_module, "measure", lambda f, trial, b: measured.append(trial.key) or real(f, trial, b))
    told = Told()
    sweep(path / "recipe.yaml", path, reporter=told)
    assert measured == [gone.key]
    assert len(told.done) == 1
    assert results(path) == results(swept)
    sweep(path / "recipe.yaml", path)
    assert measured == [gone.key]


def test_another_recipe_is_refused_unless_it_is_an_update(swept: Path, inputs: Path, tmp_path: Path) -> None:
    path = tmp_path / "copy"
    shutil.copytree(swept, path)
    more = recipe(inputs, sweep={**TUNED, "workers": 1, "tune": {**TUNED["tune"], "seeds": [11]}}, seeds=[1])
    with pytest.raises(RunError, match=r"seeds: \[1, 2\] -> \[1\]"):
        sweep(more, path)
    told = Told()
    sweep(more, path, update=True, reporter=told)
    assert told.done == [], "all its trials were there"
    assert {arm["seed"] for arm in results(path)["arms"]} == {1}


def test_folders_of_before_a_setting_was_added_go_on(swept: Path, tmp_path: Path) -> None:
    path = tmp_path / "copy"
    shutil.copytree(swept, path)
    stored = yaml.safe_load((path / "recipe.yaml").read_text())
    del stored["train"]["weight_decay"]
    del stored["arms"]["lift"][0]["alpha"]
    (path / "recipe.yaml").write_text(yaml.safe_dump(stored, sort_keys=False))
    told = Told()
    sweep(swept / "recipe.yaml", path, reporter=told)
    assert told.done == []


def test_an_outcome_made_with_another_default_is_not_reused(swept: Path, tmp_path: Path) -> None:
    path = tmp_path / "copy"
    shutil.copytree(swept, path)
    plan, _ = plan_of(path / "recipe.yaml")
    trial = next(row.trial for row in plan.tuning if row.arm == "lift")
    file = SweepDir(path).trial(trial).outcome_file("arm", trial.seed)
    outcome = json.loads(file.read_text())
    outcome["settings"]["methods"][0]["alpha"] = 0.9
    file.write_text(json.dumps(outcome))
    with pytest.raises(RunError, match=r"methods\[0\]\.alpha: 0\.9, now 1\.0"):
        sweep(path / "recipe.yaml", path)


def test_the_number_of_workers_is_not_part_of_the_recipe(swept: Path, tmp_path: Path) -> None:
    path = tmp_path / "copy"
    shutil.copytree(swept, path)
    sweep(path / "recipe.yaml", path, overrides=["sweep.workers=9"])
    assert results(path) == results(swept)


def test_every_cell_is_a_row_where_nothing_is_chosen(inputs: Path, tmp_path: Path) -> None:
    arms = {"plain": [], "lift": [{"method": "key_lift"}], "off": [{"method": "key_lift", "strength": 0}]}
    grid = {"arms.lift[0].fraction": [0.0, 0.5]}
    told = Told()
    test = {"source": str(inputs / "test.jsonl"), "max_new_tokens": 3}
    changes: dict[str, Any] = {"arms": arms, "seeds": [5], "evaluate_base": True, "evaluate": {"id": test}}
    path = sweep(recipe(inputs, sweep={"grid": grid}, **changes), tmp_path / "sweep", reporter=told)
    found = results(path)
    assert [arm["arm"] for arm in found["arms"]] == ["base", "plain", "lift fraction=0", "lift fraction=0.5", "off"]
    metrics = {arm["arm"]: arm["metrics"] for arm in found["arms"]}
    assert metrics["lift fraction=0"] == metrics["plain"] == metrics["off"]
    assert metrics["lift fraction=0.5"] != metrics["plain"] != metrics["base"]
    assert {row["baseline"] for row in found["comparisons"]} == {"plain"}
    assert {row["n"] for row in found["summary"] if row["arm"] == "base"} == {0}
    assert told.done[0] == "the model before training"
    assert len(told.done) == 5
    assert told.left[0] is None, "nothing was trained yet"
    assert told.left[-1] == 0.0
    assert all(left is not None and left > 0 for left in told.left[1:-1])
    assert found["sweep"]["chosen"] is None


def test_a_trial_that_two_arms_share_is_done_once(inputs: Path, tmp_path: Path) -> None:
    told = Told()
    arms = {"plain": [], "again": {"train": {"learning_rate": 1e-3}}}
    path = sweep(recipe(inputs, arms=arms, seeds=[1]), tmp_path / "sweep", reporter=told)
    assert told.done == ["plain, seed 1"]
    assert [arm["arm"] for arm in results(path)["arms"]] == ["plain", "again"]
    assert {row["difference"] for row in results(path)["comparisons"]} == {0.0}
    assert {row["n"] for row in results(path)["comparisons"]} == {1}
    assert {row["p_value"] for row in results(path)["comparisons"]} == {1.0}


def test_a_failing_trial_is_recorded_and_tried_again(inputs: Path, tmp_path: Path) -> None:
    arms = {"plain": [], "wild": WILD}
    told = Told()
    path = tmp_path / "sweep"
    for _ in range(2):
        with pytest.raises(RunError, match=r"wild learning_rate=.*, seed 1: the training loss is not finite"):
            sweep(
                recipe(inputs, arms=arms, seeds=[1], sweep={"grid": {"train.learning_rate": [1e-3, 1e-4]}}),
                path,
                reporter=told,
            )
    plain = ["plain learning_rate=0.001, seed 1", "plain learning_rate=0.0001, seed 1"]
    wild = ["wild learning_rate=0.001, seed 1", "wild learning_rate=0.0001, seed 1"]
    assert told.done == [*plain, *wild, *wild]
    found = results(path)
    assert [arm["arm"] for arm in found["arms"]] == [what.partition(",")[0] for what in plain]
    assert [failure["arm"] for failure in found["failures"]] == [what.partition(",")[0] for what in wild]
    lines = pyarrow.parquet.read_table(path / "trials.parquet").to_pylist()
    assert [(line["metric"], line["value"]) for line in lines if line["status"] == "failed"] == [(None, None)] * 2


def test_an_arm_that_fails_everywhere_gets_no_cell(inputs: Path, tmp_path: Path) -> None:
    tuned = {**TUNED, "tune": {**TUNED["tune"], "seeds": [11]}}
    told = Told()
    with pytest.raises(RunError, match="2 rows of the sweep failed"):
        sweep(recipe(inputs, arms={"plain": [], "wild": WILD}, seeds=[1], sweep=tuned), tmp_path / "s", reporter=told)
    found = results(tmp_path / "s")
    assert list(found["sweep"]["chosen"]) == ["plain"]
    assert told.best["wild"] == ""
    assert [arm["arm"] for arm in found["arms"]] == ["plain"]
    assert any(note.startswith("wild: every cell failed") for note in found["notes"])


def test_a_bug_in_one_trial_does_not_end_the_others(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from infosteer.experiments.bench import Bench

    real = Bench.train

    def broken(self: Bench, *arguments: Any) -> Any:
        if arguments[2] == 1:
            raise ZeroDivisionError("a bug")
        return real(self, *arguments)

    monkeypatch.setattr(Bench, "train", broken)
    with pytest.raises(RunError, match="ZeroDivisionError: a bug"):
        sweep(recipe(inputs, arms={"plain": []}), tmp_path / "s")
    assert [arm["seed"] for arm in results(tmp_path / "s")["arms"]] == [2]


def test_a_failed_evaluation_of_the_base_is_a_failure_too(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any, **options: Any) -> Any:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(folder_module, "base_outcome", broken)
    with pytest.raises(RunError, match="base, seed 0: ZeroDivisionError: a bug"):
        sweep(recipe(inputs, arms={"plain": []}, seeds=[1], evaluate_base=True), tmp_path / "s")
    found = results(tmp_path / "s")
    assert [arm["arm"] for arm in found["arms"]] == ["plain"]
    assert found["sweep"]["missing"] == 0
    assert any("one seed" in note for note in found["notes"])
    lines = pyarrow.parquet.read_table(tmp_path / "s" / "trials.parquet").to_pylist()
    assert [line["metric"] for line in lines if line["arm"] == "base"] == [None]


def test_a_metric_that_is_not_measured_is_said_after_one_trial(inputs: Path, tmp_path: Path) -> None:
    tuned = {**TUNED, "tune": {**TUNED["tune"], "metric": "id/exact_mach"}}
    told = Told()
    with pytest.raises(ConfigError, match="id/exact_match"):
        sweep(recipe(inputs, sweep=tuned), tmp_path / "s", reporter=told)
    assert len(list((tmp_path / "s").glob("trials/*/outcomes/*/*.json"))) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"data": {"train": "/no/such/rows.jsonl"}},
        {"arms": {"plain": [], "x": [{"method": "key_lift", "layers": [7]}]}},
        {"evaluate": {"id": "/no/such/rows.jsonl"}},
    ],
)
def test_bad_input_is_refused_before_the_first_trial(inputs: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(InfoSteerError, match=r"7|no such data file"):
        sweep(recipe(inputs, **changes), tmp_path / "s")
    assert not (tmp_path / "s" / "trials").exists()


def test_the_forecast_is_read_off_finished_trials(swept: Path, inputs: Path, tmp_path: Path) -> None:
    plan, _ = plan_of(recipe(inputs, sweep=TUNED))
    before = forecast(plan, tmp_path / "nothing", workers=3)
    assert (before["trials"], before["done"], before["minutes_left"]) == (8 + 4, 0, None)
    assert not (tmp_path / "nothing").exists()
    more = plan_of(recipe(inputs, sweep=TUNED, seeds=[1, 2, 3, 4]))[0]
    after = forecast(more, swept)
    assert (after["trials"], after["done"]) == (8 + 8, 12)
    assert after["minutes_left"] >= 0
