"""``infosteer eval``'s settings: what is refused, lm-eval's shots, and rows that are bad."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from infosteer.errors import ConfigError, DataError
from infosteer.experiments.suite.run import run_suite
from infosteer.training.loading import load_model, load_tokenizer

from .suite_inputs import asked, read_json


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dtype": "int8"}, "unknown dtype"),
        ({"engine": "magic"}, "unknown engine"),
        ({"batch_size": 0}, "--batch-size is a whole number from 1"),
        ({"limit": -1}, "--limit is a whole number from 1"),
        ({"decode": False, "options": False}, "nothing to measure"),
        ({"engine": "vllm"}, "decodes only"),
        ({"tasks": ()}, "no task is named"),
        ({"tasks": ("boolk",)}, "unknown task"),
        ({"tasks": ("boolq", "boolq=lab:facts/new_people")}, "two sets have one name"),
        ({"tasks": ("lab:facts/new_people",), "shots": 2}, "shots are for tasks"),
        ({"device": "no such thing"}, "device"),
    ],
)
def test_bad_settings(world: Path, tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        run_suite(asked(world, **changes), tmp_path / "out")
    assert not (tmp_path / "out").exists(), "nothing was begun"


@pytest.mark.parametrize("shots", [0, 1])
def test_tasks_of_lm_eval_are_asked_with_their_own_shots_or_those_asked_for(
    world: Path, tmp_path: Path, shots: int
) -> None:
    pytest.importorskip("lm_eval")
    from infosteer.evaluation.harness import run_harness

    from .harness_tasks import TASKS, write_task

    task = write_task(tmp_path, "tiny_shots", *TASKS["tiny_shots"])
    found = run_suite(asked(world, tasks=(f"lm_eval:{task}",), shots=shots), tmp_path / "eval")
    model, tokenizer = load_model(str(world / "model")), load_tokenizer(str(world / "model"))
    expected = run_harness(model, tokenizer, [str(task)], batch_size=2, num_fewshot=shots or None)["lm_eval:tiny_shots"]
    (outcome,) = (read_json(file) for file in found.glob("outcomes/*/seed-0.json"))
    assert outcome["examples"]["lm_eval:tiny_shots"]["acc"] == expected.per_example["acc"]
    assert outcome["sets"]["lm_eval:tiny_shots"]["settings"]["num_fewshot"] == (shots or 2), "two are the task's own"


def test_bad_rows_are_named_with_file_and_line(world: Path, tmp_path: Path) -> None:
    data = shutil.copytree(world / "data", tmp_path / "data")
    with (data / "boolq" / "test.jsonl").open("a") as file:
        file.write(json.dumps({"instruction": "is it?\n\nAnswer format: true/false", "input": "", "output": "",
                               "answer": "perhaps"}) + "\n")  # fmt: skip
    with pytest.raises(DataError, match=r"test\.jsonl:12"):
        run_suite(asked(world, data=str(data)), tmp_path / "out")
    path = run_suite(asked(world, data=str(data), skip_bad_rows=True, tasks=("boolq",)), tmp_path / "out")
    assert "boolq: 1 bad rows were skipped" in read_json(path / "results.json")["notes"]
