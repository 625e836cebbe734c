"""The model before training as the first row of a run, and utilisation, which needs it."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

from infosteer.errors import ConfigError
from infosteer.evaluation import evaluate, load_set
from infosteer.experiments import base as base_module
from infosteer.experiments.recipe import load_recipe
from infosteer.experiments.reporter import Reporter
from infosteer.experiments.run import run
from infosteer.experiments.table import tables

LAB = {
    "lab": {"source": "lab:facts/new_people", "limit": 12, "max_new_tokens": 3, "score_options": False},
    "recall": {"source": "lab:facts/recall", "limit": 4, "max_new_tokens": 3, "score_options": False},
}


class Notes(Reporter):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def with_base(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of ``finished`` with the base; read only."""
    return run(tiny.recipe(inputs, evaluate_base=True), tmp_path_factory.mktemp("runs") / "with_base")


def test_the_base_is_the_model_before_training(with_base: Path, finished: Path, inputs: Path) -> None:
    model, tokenizer = (auto.from_pretrained(inputs / "model") for auto in (AutoModelForCausalLM, AutoTokenizer))
    rows = load_set("id", {"source": str(inputs / "test.jsonl"), "max_new_tokens": 3})
    expected = evaluate(model.eval(), tokenizer, [rows])["id"]
    outcome = read(with_base / "outcomes/base/seed-0.json")
    assert outcome["examples"]["id"] == expected.per_example
    assert outcome["stored"] == {}, "no lab question is asked"
    ours, theirs = read(with_base / "results.json"), read(finished / "results.json")
    assert ours["arms"][0] == {"arm": "base", "seed": 0, "metrics": outcome["metrics"]}
    first = [row for row in ours["summary"] if row["arm"] == "base"]
    assert ours["summary"][: len(first)] == first
    assert {row["n"] for row in first} == {0}
    nll = next(row for row in first if row["metric"] == "id/answer_nll")
    scores = np.array(expected.per_example["answer_nll"])
    assert nll["mean"] == pytest.approx(scores.mean())
    width = 2 * 2.365 * scores.std(ddof=1) / np.sqrt(len(scores))  # t with 7 degrees of freedom
    assert nll["high"] - nll["low"] == pytest.approx(width, rel=0.1)
    assert ours["arms"][1:] == theirs["arms"], "the arms are those of the run without the key"
    assert ours["summary"][len(first) :] == theirs["summary"]
    assert ours["comparisons"] == theirs["comparisons"]


def test_the_table_shows_it_first(with_base: Path) -> None:
    console = Console(file=io.StringIO(), width=140)
    for part in tables(read(with_base / "results.json")):
        console.print(part)
    lines = [line.split() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    rows = [line[:2] for line in lines if line and line[0] in ("base", "plain", "lift") and len(line) > 1]
    assert rows == [["base", "0"], ["plain", "2"], ["lift", "2"]] * 2, "two measures"


def test_it_is_evaluated_once(with_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "copy"
    shutil.copytree(with_base, path)
    (path / "outcomes/plain/seed-2.json").unlink()
    calls: list[int] = []
    real = base_module.evaluate_sets

    def counted(*args: Any, **kwargs: Any) -> dict[str, dict[str, Any]]:
        calls.append(1)
        return real(*args, **kwargs)

    monkeypatch.setattr(base_module, "evaluate_sets", counted)
    run(path / "recipe.yaml", path)
    assert calls == []
    (path / "outcomes/base/seed-0.json").unlink()
    told = Notes()
    run(path / "recipe.yaml", path, reporter=told)
    assert calls == [1]
    assert [note.partition(":")[0] for note in told.notes] == ["base", "base"]
    assert read(path / "results.json") == read(with_base / "results.json")
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["event"], line["step"]) for line in lines if line["arm"] == "base"] == [("evaluate", 0)]


def test_a_seed_0_of_the_arms_is_not_compared_with_it(
    inputs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = run(tiny.recipe(inputs, evaluate_base=True, seeds=[0], arms={"plain": []}), tmp_path / "run")
    found = read(path / "results.json")
    assert [(one["arm"], one["seed"]) for one in found["arms"]] == [("base", 0), ("plain", 0)]
    assert found["comparisons"] == []
    assert capfd.readouterr() == ("", ""), "no bar of another library"


def test_its_name_is_reserved_with_the_key_alone(inputs: Path) -> None:
    arms: dict[str, Any] = {"base": [], "lift": [{"method": "key_lift"}]}
    assert load_recipe(tiny.recipe(inputs, arms=arms)).baseline == "base"
    with pytest.raises(ConfigError, match="before training") as caught:
        load_recipe(tiny.recipe(inputs, arms=arms, evaluate_base=True))
    assert "arms.base" in str(caught.value)


def answers(monkeypatch: pytest.MonkeyPatch, stored: list[bool], right: dict[str, list[int]]) -> None:
    """Let the base store, and base and arms answer, what the test says; the real tiny model knows nothing."""
    from infosteer import evaluation
    from infosteer.experiments import bench as bench_module

    calls = iter(right.values())
    real = base_module.evaluate_sets

    def evaluated(*args: Any, **kwargs: Any) -> dict[str, dict[str, Any]]:
        judged = real(*args, **kwargs)
        scores = [float(one) for one in next(calls)]
        judged["lab"]["examples"]["exact_match"] = scores
        judged["lab"]["measures"]["exact_match"] = sum(scores) / len(scores)
        return judged

    monkeypatch.setattr(evaluation, "stored_facts", lambda *args, **kwargs: {"lab": stored})
    monkeypatch.setattr(base_module, "evaluate_sets", evaluated)
    monkeypatch.setattr(bench_module, "evaluate_sets", evaluated)


def test_utilisation_is_answered_of_stored(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = [True] * 8 + [False] * 4
    right = {
        "base": [0] * 12,
        "plain": [1, 1, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1],  # 6 answered, 2 of them stored
        "lift": [1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0],  # 5 answered, all stored
    }
    answers(monkeypatch, stored, right)
    path = run(tiny.recipe(inputs, evaluate=LAB, evaluate_base=True, seeds=[1]), tmp_path / "run")
    found = read(path / "results.json")
    means = {(row["arm"], row["metric"]): row["mean"] for row in found["summary"]}
    wanted = {"base": 0.0, "plain": 2 / 8, "lift": 5 / 8}
    assert {arm: means[arm, "lab/utilisation"] for arm in wanted} == pytest.approx(wanted)
    assert {one["arm"]: one["metrics"]["lab/utilisation"] for one in found["arms"]} == pytest.approx(wanted)
    assert means["plain", "lab/exact_match"] == pytest.approx(6 / 12)
    assert not [metric for _, metric in means if metric == "recall/utilisation"], "completions are no questions"
    (pair,) = [row for row in found["comparisons"] if row["metric"] == "lab/utilisation"]
    assert pair["difference"] == pytest.approx(3 / 8)
    assert pair["p_value"] == pytest.approx(2 * 1 / 2**3), "McNemar: three examples changed, all for the better"
    assert pair["low"] < 3 / 8 < pair["high"] <= 1
    outcome = read(path / "outcomes/plain/seed-1.json")
    assert outcome["examples"]["lab"]["utilisation"] == [1, 1, 0, 0, 0, 0, 0, 0, None, None, None, None]
    assert outcome["sets"]["lab"]["stored"] == 8
    assert read(path / "outcomes/base/seed-0.json")["stored"] == {"lab": stored}
    assert any("lab 8 of 12" in note for note in found["notes"])


def test_without_a_stored_fact_there_is_no_utilisation(inputs: Path, tmp_path: Path) -> None:
    """The tiny model is random: it stores nothing, and nothing is divided by zero."""
    path = run(tiny.recipe(inputs, evaluate=LAB, evaluate_base=True, seeds=[1], arms={"plain": []}), tmp_path / "run")
    found = read(path / "results.json")
    assert not [row for row in found["summary"] if row["metric"].endswith("utilisation")]
    assert any("lab 0 of 12" in note for note in found["notes"])
    assert read(path / "outcomes/plain/seed-1.json")["sets"]["lab"]["stored"] == 0


@pytest.mark.parametrize("bf16", [None, True])
def test_an_arm_that_learns_nothing_equals_the_base(inputs: Path, tmp_path: Path, bf16: bool | None) -> None:
    """The base is evaluated as arms are, mixed precision included."""
    train = {"learning_rate": 1e-30, "weight_decay": 0.0, "max_steps": 1, "bf16": bf16}
    recipe = tiny.recipe(inputs, evaluate_base=True, seeds=[1], arms={"plain": []}, train=train)
    path = run(recipe, tmp_path / "run")
    base, plain = (read(path / "outcomes" / name) for name in ("base/seed-0.json", "plain/seed-1.json"))
    assert plain["examples"] == base["examples"]
    found = {name: {k: v for k, v in of_set.items() if k != "contamination"} for name, of_set in plain["sets"].items()}
    assert found == base["sets"], "only what was trained on is known of the arm alone"
