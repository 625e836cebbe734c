"""Tasks: every file, name and card; local rows; hostile rows; worked examples; tasks as sources of recipes."""

from __future__ import annotations

import gzip
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from infosteer.errors import ConfigError, DataError
from infosteer.evaluation import load_set
from infosteer.evaluation.sets import question_key
from infosteer.evaluation.tasks import (
    FOLDER,
    expand,
    group_info,
    list_groups,
    list_tasks,
    load_task,
    task_info,
    training_rows,
)
from infosteer.evaluation.tasks.facts import SCORINGS, SUITE, read_task_file
from infosteer.evaluation.tasks.load import _CONVERTERS

DATA = Path(os.environ.get("INFOSTEER_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
needs_data = pytest.mark.skipif(not (DATA / SUITE).is_dir(), reason=f"no data at {DATA}")
SUITE_TASKS = expand("all15")
HEADINGS = ["Wording", "Answer", "Pitfalls", "Not comparable with"]

BOOLQ = {
    "instruction": "Please answer the following question with true or false, question: is ice cold?\n\n"
    "Answer format: true/false",
    "input": "",
    "output": "the correct answer is true",
    "answer": "true",
}
OBQA = {
    "instruction": "Please choose the correct answer to the question: Fish live in\n\n"
    "Answer1: water Answer2: trees Answer3: sand Answer4: fire\n\nAnswer format: answer1/answer2/answer3/answer4",
    "input": "",
    "output": "the correct answer is answer1",
    "answer": "answer1",
}
GSM8K = {"instruction": "Two and two apples: how many?", "input": "", "output": "The answer is 4.", "answer": "4.0"}


def write(folder: Path, task: str, *rows: Any, split: str = "test") -> Path:
    """A data folder with rows of one task; a row may be text, as it would stand in a file."""
    file = folder / Path(task_info(task).local).name / f"{split}.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


# -- files, names, cards --------------------------------------------------------------------------------------------


def test_the_fifteen_tasks_come_first() -> None:
    assert list_tasks()[:15] == SUITE_TASKS
    assert len(expand("commonsense")) == 8
    assert len(expand("arithmetic")) == 7
    assert list_tasks("arc_*") == ["arc_easy", "arc_challenge"]
    assert list_tasks("arithmetic") == expand("arithmetic")
    assert set(expand(list_groups())) == set(list_tasks()), "every task is in a group"


@pytest.mark.parametrize("name", list_tasks())
def test_the_facts_of_every_task_are_whole(name: str) -> None:
    info = task_info(name)
    assert re.fullmatch(r"[a-z0-9_]+", name)
    assert info.lm_eval_name == f"infosteer_{name}" == read_task_file(info.file)["task"]
    assert info.scoring in SCORINGS
    assert info.convert in _CONVERTERS
    assert info.rows > 100
    assert info.of_suite == (name in SUITE_TASKS)
    assert set(info.hub) <= {"path", "name", "test", "train"}
    assert ("path" in info.hub) == ("test" in info.hub)
    assert all(info.stop)
    assert info.max_new_tokens in (32, 256)
    assert info.chance == "0" or all(part.startswith("1/") for part in info.chance.split(" to "))
    for fact in (info.title, info.about, info.source, info.licence):
        assert fact == fact.strip() != ""


@pytest.mark.parametrize("name", list_tasks())
def test_every_card_says_what_a_reader_must_know(name: str) -> None:
    info = task_info(name)
    text = info.card.read_text(encoding="utf-8")
    assert text.startswith(f"# {info.title}\n")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == HEADINGS
    parts = re.split(r"^#.*$", text, flags=re.MULTILINE)
    assert all(part.strip() for part in parts[1:])
    assert max(map(len, text.splitlines())) <= 120
    asked = {"number": "number", "phrase": "word", "option": "option's"}[info.scoring]
    assert asked in text.partition("## Answer")[2].partition("##")[0]
    if name in ("addsub", "singleeq", "multiarith"):
        assert "math_10k" in text
    if "3" in info.tables and name not in ("openbookqa", "gsm8k"):
        assert "not known" in text


def test_the_page_lists_what_there_is() -> None:
    text = (FOLDER.parents[3] / "docs" / "tasks.md").read_text(encoding="utf-8")
    for name in list_tasks():
        info = task_info(name)
        card = f"[{info.title}](../src/infosteer/evaluation/tasks/{info.folder}/{name}.md)"
        assert f"| `{name}` | {info.folder} | {info.rows:,} | {info.chance} | {info.wording} | {card} |" in text
    for name in list_groups():
        group = group_info(name)
        assert f"| `{name}` | {', '.join(f'`{one}`' for one in group.members)} | {group.about} |" in text


def test_no_file_is_left_over() -> None:
    known = {task_info(name).file for name in list_tasks()} | {task_info(name).card for name in list_tasks()}
    known |= {group_info(name).file for name in list_groups()}
    found = {path for path in FOLDER.rglob("*") if path.suffix in (".yaml", ".md")}
    assert found == known


def test_names_aliases_and_groups() -> None:
    assert expand("commonsense,gsm8k,ARC-Easy") == [*expand("commonsense"), "gsm8k"]
    assert expand(["OBQA", "infosteer_boolq", " social_i_qa "]) == ["openbookqa", "boolq", "siqa"]
    assert expand(["paper"])[:8] == expand("commonsense")
    assert "aqua" not in expand("paper")
    assert task_info("ARC-Challenge").name == "arc_challenge"
    assert group_info("all15").title
    for wrong, near in (("bolq", "boolq"), ("comonsense", "commonsense"), ("arc-eazy", "arc_easy")):
        with pytest.raises(ConfigError, match=f"did you mean '{near}'"):
            expand(["gsm8k", wrong])
    for wrong in ("", ",", [], ["  "]):
        with pytest.raises(ConfigError, match="no task is named"):
            expand(wrong)
    for wrong in (["x" * 9000], [None], ["../boolq"], ["boolq/../../x"]):
        with pytest.raises(ConfigError, match="unknown task"):
            expand(wrong)
    with pytest.raises(ConfigError, match="a group of tasks"):
        task_info("commonsense")
    with pytest.raises(ConfigError, match="unknown group"):
        group_info("boolq")


# -- rows -----------------------------------------------------------------------------------------------------------


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


# -- worked examples ------------------------------------------------------------------------------------------------


def _with_training(folder: Path) -> Path:
    def row(number: int) -> dict[str, Any]:
        return GSM8K | {
            "instruction": f"{number} plus 1?",
            "answer": number + 1,
            "output": f"The answer is {number + 1}.",
        }

    write(folder, "gsm8k", *map(row, range(3)))
    write(folder, "gsm8k", *map(row, range(1, 9)), split="train")
    return folder


def test_worked_examples_are_training_rows_that_ask_no_test_question(tmp_path: Path) -> None:
    data = _with_training(tmp_path)
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
    data = _with_training(tmp_path)

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
    data = _with_training(tmp_path)
    assert "\n\nQ:" in load_task("gsm8k", data=data, shots=1, template="Q: {instruction}\nA: ").rows[0]["stop"]
    assert "\n\n" in load_task("gsm8k", data=data, shots=1, template="plain").rows[0]["stop"]


@needs_data
def test_training_splits_hold_no_test_question() -> None:
    for name in ("openbookqa", "gsm8k", "aqua", "mawps"):
        train = {question_key(row["prompt"]) for row in training_rows(name, data=DATA)}
        assert len(train) > 200
        assert not train & {question_key(row["prompt"]) for row in load_task(name, data=DATA).rows}


# -- tasks as sources -----------------------------------------------------------------------------------------------


def test_a_task_is_a_source_of_recipes(tmp_path: Path) -> None:
    data = _with_training(tmp_path / "rows")
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


def test_compressed_and_other_files_are_found(tmp_path: Path) -> None:
    folder = tmp_path / "gsm8k"
    folder.mkdir()
    with gzip.open(folder / "test.jsonl.gz", "wt") as file:
        file.write(json.dumps(GSM8K) + "\n")
    assert len(load_task("gsm8k", data=tmp_path).rows) == 1
    (tmp_path / "boolq.json").write_text(json.dumps([BOOLQ, BOOLQ]))
    assert len(load_task("boolq", data=tmp_path).rows) == 2
