"""``infosteer eval``: what its folder says, of tasks, rows, averages, batches, and training data looked through."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from infosteer.core.config import load_yaml
from infosteer.evaluation import evaluate, load_set
from infosteer.evaluation.engines import TransformersEngine
from infosteer.evaluation.shares import wilson
from infosteer.evaluation.tasks import load_task
from infosteer.experiments.suite.batch_effect import batch_effect
from infosteer.experiments.suite.run import run_suite
from infosteer.experiments.suite.table import markdown, other_lines, rows_of
from infosteer.inspection.comparison.compare import compare_runs
from infosteer.inspection.report import write_report
from infosteer.training.loading import load_model, load_tokenizer

from .conftest import TAUGHT
from .suite_inputs import asked, read_json, read_lines


def test_scores_are_those_of_a_plain_evaluation(done: Path, world: Path) -> None:
    outcome = read_json(done / "outcomes" / "model" / "seed-0.json")
    model, tokenizer = load_model(str(world / "model")).eval(), load_tokenizer(str(world / "model"))
    sets = [load_task(name, data=world / "data") for name in ("boolq", "gsm8k")]
    found = evaluate(model, tokenizer, [*sets, load_set("taught", world / "taught.jsonl")], batch_size=64,
                     max_new_tokens=6)  # fmt: skip
    for name, result in found.items():
        for measure, value in result.measures.items():
            assert outcome["metrics"][f"{name}/{measure}"] == pytest.approx(value, abs=1e-5), (name, measure)
    assert outcome["metrics"]["taught/exact_match"] == 0.8, "four of five rows are what it was taught"
    assert outcome["sets"]["boolq"]["settings"]["batch_size"] == 2
    assert outcome["sets"]["boolq"]["settings"]["dtype"] == "float32"


def test_results_have_intervals_chance_and_macro_averages(done: Path) -> None:
    results = read_json(done / "results.json")
    assert results["schema"] == 1
    tasks = {row["task"]: row for row in results["tasks"]}
    assert list(tasks) == ["boolq", "gsm8k", "taught"]
    assert (tasks["boolq"]["chance"], tasks["gsm8k"]["chance"], tasks["taught"]["chance"]) == (0.5, 0, 0)
    assert tasks["boolq"]["majority"] == pytest.approx(7 / 11)
    assert [row["n"] for row in results["tasks"]] == [11, 9, 5]
    assert tasks["boolq"]["asked"]["wording"] == "llm-adapters"
    assert {"template", "shots", "version"} <= tasks["boolq"]["asked"].keys()
    outcome = read_json(done / "outcomes" / "model" / "seed-0.json")
    for task in ("boolq", "gsm8k", "taught"):
        scores = outcome["examples"][task]["exact_match"]
        found = tasks[task]["measures"]["exact_match"]
        assert (found["low"], found["high"]) == pytest.approx(wilson(sum(scores), len(scores)))
        chance = tasks[task]["chance"]
        side = "above" if found["low"] > chance else "below" if found["high"] < chance else "holds"
        assert found.get("beside_chance") == (side if chance else None)
        assert tasks[task]["failures"] == outcome["sets"][task]["failures"]
        assert tasks[task]["contamination"] is None
    (mean,) = [row for row in results["macro"] if row["measure"] == "exact_match"]
    assert mean["group"] == "all"
    assert mean["mean"] == pytest.approx(sum(tasks[t]["measures"]["exact_match"]["mean"] for t in tasks) / 3)
    assert mean["low"] < mean["mean"] < mean["high"]
    assert mean["chance"] == pytest.approx(0.5 / 3)
    assert "unweighted mean" in mean["rule"]
    assert any(note.startswith("one seed") for note in results["notes"])
    assert results["evaluation"]["batch_size"] == 2
    assert results["environment"]["packages"]["torch"]


def test_predictions_stand_row_by_row(done: Path, world: Path) -> None:
    rows = read_lines(done / "predictions" / "model" / "seed-0" / "taught.jsonl")
    assert [row["row"] for row in rows] == list(range(5))
    assert [row["prediction"] for row in rows[:4]] == list(TAUGHT.values())
    assert rows[0]["prompt_sha256"] == rows[4]["prompt_sha256"] != rows[1]["prompt_sha256"]
    assert [row["correct"] for row in rows] == [True, True, True, True, False]
    numbers = read_lines(done / "predictions" / "model" / "seed-0" / "gsm8k.jsonl")
    assert {"extracted", "strict", "strict_correct"} <= numbers[0].keys()
    outcome = read_json(done / "outcomes" / "model" / "seed-0.json")
    boolq = read_lines(done / "predictions" / "model" / "seed-0" / "boolq.jsonl")
    assert [row["scores"]["option_accuracy"] for row in boolq] == outcome["examples"]["boolq"]["option_accuracy"]


def test_the_folder_is_a_run(done: Path, world: Path, tmp_path: Path) -> None:
    other = run_suite(asked(world, models=(f"second={world / 'model'}",)), tmp_path / "other")
    found = compare_runs([done, other])
    rows = {row["metric"]: row for row in found["comparisons"]}
    assert rows["boolq/exact_match"]["paired_by"] == "seed and example"
    assert all(row["difference"] == 0 for row in rows.values()), "one model under two names"
    assert not any("do not evaluate the same rows" in note for note in found["notes"])
    page = write_report(done).read_text()
    assert "boolq" in page
    assert "Preliminary" not in page
    config = load_yaml(done / "recipe.yaml")
    assert config["evaluate"]["boolq"]["rows"] == 11
    assert "not a run" not in page


def test_tables(done: Path) -> None:
    results = read_json(done / "results.json")
    rows = rows_of(results, "model")
    assert [row[0] for row in rows] == ["boolq", "gsm8k", "taught", "mean of all"]
    assert rows[0][2:4] == ["50.0", "63.6"]
    assert rows[2][4] == "80.0 (37.6 to 96.4)"
    assert rows[2][6] == rows[3][6] == "-", "without options, and so for all three together"
    table = markdown(results, "model").splitlines()
    assert len({line.count("|") for line in table}) == 1
    assert other_lines(results, "model") == []


def test_documents_have_no_chance(world: Path, tmp_path: Path) -> None:
    (tmp_path / "prose.txt").write_text("The quick brown fox\n<|endoftext|>\njumps over the lazy dog.\n")
    path = run_suite(asked(world, tasks=(f"prose={tmp_path / 'prose.txt'}",)), tmp_path / "out")
    results = read_json(path / "results.json")
    (task,) = results["tasks"]
    assert task["chance"] is None
    assert set(task["measures"]) == {"nll", "bits_per_byte"}
    assert rows_of(results, "model") == []
    assert other_lines(results, "model")[0].startswith("prose (2 rows): loss on text")


def test_halves_can_be_left_out(world: Path, tmp_path: Path) -> None:
    path = run_suite(asked(world, decode=False, tasks=("boolq",)), tmp_path / "likelihoods")
    (task,) = read_json(path / "results.json")["tasks"]
    assert set(task["measures"]) == {"answer_nll", "option_accuracy", "option_accuracy_norm"}
    assert read_lines(path / "predictions" / "model" / "seed-0" / "boolq.jsonl")[0].keys() == {"row", "scores"}
    path = run_suite(asked(world, options=False, tasks=("boolq",)), tmp_path / "decoded")
    (task,) = read_json(path / "results.json")["tasks"]
    assert {"exact_match", "strict_match"} <= set(task["measures"])
    assert not any("option" in name or "nll" in name for name in task["measures"])


def test_training_rows_are_looked_through(world: Path, tmp_path: Path) -> None:
    train = tmp_path / "train.jsonl"
    prompt, answer = next(iter(TAUGHT.items()))
    train.write_text(json.dumps({"prompt": prompt, "completion": answer}) + "\n")
    settings = asked(world, tasks=(str(world / "taught.jsonl"),), against=(str(train),))
    results = read_json(run_suite(settings, tmp_path / "out") / "results.json")
    (task,) = results["tasks"]
    assert results["contamination"]["sets"]["taught"]["dirty"] == [0, 4], "two rows ask this question"
    assert (task["contamination"]["dirty"], task["contamination"]["normalised"]) == (2, 2)
    assert task["contamination"]["clean"]["exact_match"]["mean"] == 1
    assert any(note.startswith("taught: 2 of 5 rows are dirty") for note in results["notes"])
    assert "2 of 5 rows stand in training data" in other_lines(results, "model")[0]


def test_the_effect_of_the_batch_size_is_measured(world: Path, tmp_path: Path) -> None:
    path = run_suite(asked(world, dtype="bfloat16"), tmp_path / "out")
    results = read_json(path / "results.json")
    (effect,) = results["batch_effect"]
    assert (effect["batch_sizes"], effect["rows"], effect["option_rows"]) == ([1, 2], 8 + 8 + 5, 8)
    for key in ("predictions", "verdicts", "options"):
        assert 0 <= effect[key]["low"] <= effect[key]["share"] <= effect[key]["high"] <= 1
    assert "changed between batch sizes 1 and 2" in other_lines(results, "model")[-1]
    path = run_suite(asked(world, check_rows=3, tasks=("boolq",)), tmp_path / "float32")
    (effect,) = read_json(path / "results.json")["batch_effect"]
    assert effect["rows"] == 3
    assert effect["predictions"]["share"] == effect["verdicts"]["share"] == effect["options"]["share"] == 0
    assert effect["nll_largest"] < 1e-5


def test_changes_are_counted(world: Path, taught_model: Any, tokenizer: Any) -> None:
    """An engine that answers otherwise when it is asked alone."""

    class Fickle(TransformersEngine):
        def decode(self, prompts: Any, **settings: Any) -> Any:
            from dataclasses import replace

            found = super().decode(prompts, **settings)
            if settings["batch_size"] > 1:
                return found
            return [replace(one, text="no" if i in (0, 2) else one.text) for i, one in enumerate(found)]

    from infosteer.evaluation.evaluate import evaluate_with

    engine, sets = Fickle(taught_model, tokenizer), {"taught": load_set("taught", world / "taught.jsonl")}
    results = evaluate_with(engine, sets.values(), batch_size=4)
    effect = batch_effect(engine, sets, results, rows=5, batch_size=4)
    assert effect["predictions"]["share"] == effect["verdicts"]["share"] == 2 / 5
    assert effect["options"] is None
    assert effect["predictions"]["low"] == wilson(2, 5)[0]
