"""Rows of tasks: local files, limits, templates, hostile rows, missing data, and the hub."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest

from infosteer.errors import ConfigError, DataError
from infosteer.evaluation import load_set
from infosteer.evaluation.tasks import expand, list_tasks, load_task, task_info
from infosteer.evaluation.tasks.facts import SUITE

from .task_rows import BOOLQ, DATA, GSM8K, OBQA, SUITE_TASKS, needs_data, write


@needs_data
@pytest.mark.parametrize("name", list_tasks())
def test_every_task_loads_from_local_files(name: str) -> None:
    """And a suite task's rows are those that its file gives as a plain source, but for where answers end."""
    info = task_info(name)
    found = load_task(name, data=DATA, limit=60)
    assert (found.name, found.task, found.group, found.scoring) == (name, name, info.folder, info.scoring)
    assert found.wording == (SUITE if name in SUITE_TASKS else "infosteer")
    assert len(found.rows) == len(found.places) == 60
    assert all(re.search(r"\.jsonl\.gz:\d+$", place) for place in found.places)
    for row, chance in zip(found.rows, found.chances, strict=True):
        assert row["stop"] == list(info.stop)
        if info.options is None:
            assert chance == 0
        else:
            assert info.options[0] <= 1 / chance <= info.options[1]
            assert row["answer"] in row["options"]
    assert found.facts["chance"] == pytest.approx(sum(found.chances) / 60)
    if name in SUITE_TASKS:
        plain = load_set("x", str(DATA / info.local), limit=60)
        assert [row | {"stop": []} for row in plain.rows] == [row | {"stop": []} for row in found.rows]
        assert plain.scoring == found.scoring
        assert load_task(name, data=DATA / SUITE, limit=60).rows == found.rows


@needs_data
def test_whole_files_are_clean() -> None:
    """Every row of every test file passes the checks, at most the published number of them; options vary in ARC."""
    for name in [*expand("all15"), "wsc", "snarks", "fables", "strange_stories", "competition_math"]:
        found = load_task(name, data=DATA)
        assert found.skipped == 0
        assert 100 < len(found.rows) <= task_info(name).rows
        if not task_info(name).of_suite:
            assert len(found.rows) == task_info(name).rows
    assert {len(row["options"]) for row in load_task("arc_easy", data=DATA).rows} == {3, 4, 5}


def test_a_limit_takes_the_first_rows(tmp_path: Path) -> None:
    data = write(tmp_path, "gsm8k", *[GSM8K | {"answer": str(number)} for number in range(9)])
    assert [row["answer"] for row in load_task("gsm8k", data=data, limit=3).rows] == ["0", "1", "2"]
    for wrong in (0, -1, True, "3"):
        with pytest.raises(ConfigError, match="limit"):
            load_task("gsm8k", data=data, limit=wrong)  # type: ignore[arg-type]


def test_the_template_goes_around_the_instruction(tmp_path: Path) -> None:
    data = write(tmp_path, "gsm8k", GSM8K)
    assert load_task("gsm8k", data=data).rows[0]["prompt"].startswith("### Instruction:\nTwo and two")
    assert load_task("gsm8k", data=data, template="alpaca").rows[0]["prompt"].startswith("Below is an instruction")
    assert load_task("gsm8k", data=data, template="Q: {instruction}\nA:").rows[0]["prompt"].startswith("Q: Two and two")
    with pytest.raises(ConfigError, match="template"):
        load_task("gsm8k", data=data, template="nothing")


def boolq(old: str = "", new: str = "", **fields: Any) -> dict[str, Any]:
    return BOOLQ | {"instruction": BOOLQ["instruction"].replace(old, new) if old else BOOLQ["instruction"]} | fields


def obqa(*pairs: tuple[str, str]) -> dict[str, Any]:
    instruction = OBQA["instruction"]
    for old, new in pairs:
        instruction = instruction.replace(old, new)
    return OBQA | {"instruction": instruction}


HOSTILE = {
    "empty question": (boolq("is ice cold?", "  "), "question is empty"),
    "empty instruction": (boolq(instruction=" "), "'instruction' is empty"),
    "no options": (boolq(instruction="is ice cold?"), "lists no options"),
    "no options, number": (boolq(instruction="is ice cold?", answer="5"), "has no options"),
    "too few options": (obqa(("/answer4", ""), ("Answer4", "4")), "3 options"),
    "too many options": (boolq("/false", "/false/maybe"), "has 3 options"),
    "option without text": (obqa(("trees", "")), "'answer2' is empty"),
    "option not shown": (obqa(("Answer2: trees", "")), "'answer2' is missing"),
    "two options alike": (boolq("true/false", "true/true"), "the same"),
    "answer not offered": (boolq(answer="maybe"), "not one of the options"),
    "answer in capitals": (boolq(answer="True"), "not one of the options"),
    "no answer": ({key: value for key, value in BOOLQ.items() if key != "answer"}, "no field 'answer'"),
    "no columns": ({}, "no field"),
    "wrong types": (boolq(instruction=["is ice cold?"]), "of type list, not text"),
    "answer of a wrong type": (boolq(answer={"true": 1}), "of type dict, not text"),
    "control characters": (boolq("is", "\x00is"), "U+0000"),
    "turned text": (boolq("is", "\u202eis"), "U+202E"),
    "half a surrogate pair": ('{"instruction": "\\ud800", "answer": "true", "output": "", "input": ""}', "surrogate"),
    "no object": ("[1, 2]", "is a JSON list"),
    "no JSON": ('{"instruction": ', "not valid JSON"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_rows_are_named_with_task_file_and_line(kind: str, tmp_path: Path) -> None:
    bad, reason = HOSTILE[kind]
    task = "openbookqa" if isinstance(bad, dict) and "Fish" in str(bad) else "boolq"
    good = OBQA if task == "openbookqa" else BOOLQ
    data = write(tmp_path, task, good, bad, good)
    with pytest.raises(DataError) as error:
        load_task(task, data=data)
    assert f"task {task}" in str(error.value)
    assert re.search(rf"test\.jsonl:2: .*{re.escape(reason)}", str(error.value)), str(error.value)
    for rows, kept in (([good, bad, good], ["1", "3"]), ([bad, good], ["2"])):
        left = load_task(task, data=write(tmp_path, task, *rows), skip_bad_rows=True)
        assert (len(left.rows), left.skipped) == (len(kept), 1)
        assert [place.rsplit(":", 1)[1] for place in left.places] == kept


@pytest.mark.parametrize("answer", ["NaN", "Infinity", '"nan"', '"four"', "null", "true", '""', "[4]"])
def test_answers_that_are_no_numbers_are_bad_rows(answer: str, tmp_path: Path) -> None:
    data = write(tmp_path, "gsm8k", GSM8K, json.dumps(GSM8K).replace('"4.0"', answer))
    with pytest.raises(DataError, match=r"test\.jsonl:2"):
        load_task("gsm8k", data=data)


def test_rows_of_another_kind_of_task_are_bad_rows(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has 2 options, but GSM8K asks for a number"):
        load_task("gsm8k", data=write(tmp_path, "gsm8k", BOOLQ))


def test_long_and_right_to_left_texts_are_text(tmp_path: Path) -> None:
    rows = [
        GSM8K | {"instruction": "\u05db\u05de\u05d4 \u05d6\u05d4 2+2? \u0643\u0645" + " \U0001f34e" * 10},
        GSM8K | {"instruction": "word " * 10_000, "answer": 4},
        GSM8K | {"instruction": "a {instruction} of {braces}, <|endoftext|>, `rm -rf` and __import__('os')"},
    ]
    found = load_task("gsm8k", data=write(tmp_path, "gsm8k", *rows))
    for row, raw in zip(found.rows, rows, strict=True):
        assert raw["instruction"].strip() in row["prompt"]
        assert row["answer"] == "4"


def test_missing_data_is_said_to_be_missing(tmp_path: Path) -> None:
    write(tmp_path, "boolq", BOOLQ)
    with pytest.raises(DataError, match=r"task gsm8k.*\n.*nothing at .*llm-adapters/gsm8k or .*gsm8k"):
        load_task("gsm8k", data=tmp_path)
    with pytest.raises(DataError, match="no such data folder"):
        load_task("gsm8k", data=tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"cannot look into|no such data folder"):
        load_task("gsm8k", data="x" * 5000)
    (tmp_path / "gsm8k").mkdir()
    with pytest.raises(DataError, match="task gsm8k"):
        load_task("gsm8k", data=tmp_path)
    with pytest.raises(DataError, match="no hub copy of this task is known"):
        load_task("addsub")


def test_compressed_and_other_files_are_found(tmp_path: Path) -> None:
    folder = tmp_path / "gsm8k"
    folder.mkdir()
    with gzip.open(folder / "test.jsonl.gz", "wt") as file:
        file.write(json.dumps(GSM8K) + "\n")
    assert len(load_task("gsm8k", data=tmp_path).rows) == 1
    (tmp_path / "boolq.json").write_text(json.dumps([BOOLQ, BOOLQ]))
    assert len(load_task("boolq", data=tmp_path).rows) == 2


def test_without_a_folder_the_hub_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its id, configuration and split, and its rows put into our words."""
    import datasets

    asked: list[Any] = []

    def load_dataset(path: str, name: str | None = None, **options: Any) -> list[dict[str, Any]]:
        asked.append((path, name, options["split"]))
        return [{"sentence": "The cat saw the dog, so _ fled.", "option1": "cat", "option2": "dog", "answer": "1"}] * 2

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    found = load_task("winogrande")
    assert asked == [("allenai/winogrande", "winogrande_xl", "validation")]
    assert found.wording == "infosteer"
    assert found.places == [f"allenai/winogrande (validation), row {n}" for n in (1, 2)]
