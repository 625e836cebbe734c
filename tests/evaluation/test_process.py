"""Scoring of worked solutions: chosen by the rows, three measures, and each of them by hand."""

from __future__ import annotations

import json

import pytest

from infosteer.errors import ConfigError
from infosteer.evaluation import evaluate, metrics
from infosteer.evaluation.decode import Decoded
from infosteer.evaluation.engines import TransformersEngine
from infosteer.evaluation.extract import is_worked_solution, judge
from infosteer.evaluation.sets import load_set
from infosteer.lab import load

from .conftest import tiny


def test_lab_sets_are_scored_by_their_steps() -> None:
    found = load_set("id", {"source": "lab:reasoning/id", "limit": 5})
    assert found.scoring == "process"
    assert load_set("id", {"source": "lab:reasoning/id", "limit": 5, "scoring": "number"}).scoring == "number"
    assert load_set("q", {"source": "lab:facts/recall", "limit": 5}).scoring == "exact_match"
    with pytest.raises(ConfigError, match="a worked solution as answer"):
        load_set("q", {"source": "lab:facts/recall", "limit": 5, "scoring": "process"})


def test_a_file_of_worked_solutions_is_scored_the_same_way(tmp_path) -> None:
    rows = [{"prompt": r["prompt"], "completion": r["completion"]} for r in load("reasoning", count=3, operations=2)]
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert load_set("q", str(tmp_path / "q.jsonl")).scoring == "process"


def test_judge() -> None:
    gold = load("reasoning/id", limit=1)[0]["answer"]
    answer = gold.split("<answer> ")[1].split(" ")[0]
    found = judge(f" {gold}", {"answer": gold}, "process")
    assert (found.extracted, found.correct, found.measures) == (answer, True, {"verified": 1.0, "process": 1.0})
    found = judge(f"<answer> {answer} </answer>", {"answer": gold}, "process")
    assert (found.extracted, found.correct, found.measures) == (answer, True, {"verified": 0.0, "process": 0.0})
    found = judge("nonsense", {"answer": gold}, "process")
    assert (found.extracted, found.correct) == (None, False)
    assert is_worked_solution(gold)
    assert not any(map(is_worked_solution, ("", "7", "Define a b as c; so c = 3.", "<answer> 3 </answer>")))


def test_measures_of_a_set(monkeypatch, tokenizer) -> None:
    rows = load_set("id", {"source": "lab:reasoning/id", "limit": 4})
    gold = [row["answer"] for row in rows.rows]
    replies = [gold[0], gold[1].replace("Define", "Forget", 1), gold[2].split("<answer>")[0], gold[3]]
    done = [Decoded(text=text, tokens=1, finished=True, too_long=False) for text in replies]
    monkeypatch.setattr(TransformersEngine, "decode", lambda *a, **k: done)
    found = evaluate(tiny("llama", len(tokenizer), positions=2048), tokenizer, [rows])["id"]
    by_name = metrics({"id": found})
    assert by_name["id/exact_match"] == 0.75
    assert by_name["id/verified"] == 0.5
    assert found.per_example["process"][0] == found.per_example["process"][2] == found.per_example["process"][3] == 1
    assert by_name["id/process"] == sum(found.per_example["process"]) / 4 < 1
    assert found.failures["no_answer"] == 1
    assert by_name["id/answer_nll"] > 0
