"""Worked examples before the question, and tasks as sources of recipes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from infosteer.errors import ConfigError, DataError
from infosteer.evaluation import load_set
from infosteer.evaluation.sets import question_key
from infosteer.evaluation.tasks import load_task, training_rows

from .task_rows import DATA, GSM8K, needs_data, with_training, write


def test_worked_examples_are_training_rows_that_ask_no_test_question(tmp_path: Path) -> None:
    data = with_training(tmp_path)
    plain = load_task("gsm8k", data=data)
    found = load_task("gsm8k", data=data, shots=6, limit=1)
    assert (found.shots, found.shots_seed, len(found.rows)) == (6, 0, 1)
    front = found.rows[0]["prompt"].removesuffix(plain.rows[0]["prompt"])
    asked = re.findall(r"(\d) plus 1\?\n\n### Response:\nThe answer is (\d)\.\n\n", front)
    assert sorted(int(number) for number, _ in asked) == [3, 4, 5, 6, 7, 8]  # 1 and 2 are test questions
    assert all(int(answer) == int(number) + 1 for number, answer in asked)
    assert "\n\n### Instruction:" in found.rows[0]["stop"]
    with pytest.raises(DataError, match=r"fewer worked examples(.|\n)*6 training rows"):
        load_task("gsm8k", data=data, shots=7)


def test_worked_examples_depend_on_the_seed_alone(tmp_path: Path) -> None:
    data = with_training(tmp_path)

    def asked(**settings: int) -> list[str]:
        return [row["prompt"] for row in load_task("gsm8k", data=data, shots=2, **settings).rows]

    prompts = {seed: asked(seed=seed) for seed in range(6)}
    assert prompts[0] == asked()
    assert len({tuple(one) for one in prompts.values()}) > 1
    fronts = {prompt.rpartition("### Instruction:")[0] for prompt in prompts[0]}
    assert len(fronts) == 1, "every question has the same examples before it"
    for wrong in (-1, True, 1.5):
        with pytest.raises(ConfigError, match="shots"):
            load_task("gsm8k", data=data, shots=wrong)  # type: ignore[arg-type]


def test_where_there_is_no_training_split_there_are_no_examples(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no split 'train'(.|\n)*task gsm8k"):
        load_task("gsm8k", data=write(tmp_path, "gsm8k", GSM8K), shots=1)
    (tmp_path / "wsc").mkdir()
    schema = {"context_options": ["He saw that he", "He saw that Jo"], "continuation": "ran.", "gold": 0}
    file = tmp_path / "winograd_wsc.jsonl"
    file.write_text(json.dumps(schema) + "\n")
    with pytest.raises(DataError, match="no training rows"):
        load_task("wsc", data=tmp_path, shots=1)


def test_an_own_template_ends_answers_where_its_next_question_would_begin(tmp_path: Path) -> None:
    data = with_training(tmp_path)
    assert "\n\nQ:" in load_task("gsm8k", data=data, shots=1, template="Q: {instruction}\nA: ").rows[0]["stop"]
    assert "\n\n" in load_task("gsm8k", data=data, shots=1, template="plain").rows[0]["stop"]


@needs_data
def test_training_splits_hold_no_test_question() -> None:
    for name in ("openbookqa", "gsm8k", "aqua", "mawps"):
        train = {question_key(row["prompt"]) for row in training_rows(name, data=DATA)}
        assert len(train) > 200
        assert not train & {question_key(row["prompt"]) for row in load_task(name, data=DATA).rows}


def test_a_task_is_a_source_of_recipes(tmp_path: Path) -> None:
    data = with_training(tmp_path / "rows")
    spec = {"source": "task:gsm8k", "data": "rows", "limit": 2, "shots": 1, "template": "alpaca", "max_new_tokens": 9}
    found = load_set("math", spec | {"stop": ["!"]}, base_dir=tmp_path)
    same = load_task("gsm8k", data=data, limit=2, shots=1, template="alpaca")
    assert (found.name, found.task, found.max_new_tokens) == ("math", "gsm8k", 9)
    assert found.rows == [row | {"stop": ["!"]} for row in same.rows]
    assert load_set("math", {"source": "task:gsm8k", "data": str(data)}, limit=1).facts["chance"] == 0
    for extra, message in (
        ({"scoring": "number"}, "brings its own scoring"),
        ({"split": "train"}, "unknown key 'split'"),
        ({"dta": "x"}, "did you mean 'data'"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_set("math", {"source": "task:gsm8k", "data": str(data), **extra})
    with pytest.raises(ConfigError, match="unknown task"):
        load_set("math", "task:gsm9k")
