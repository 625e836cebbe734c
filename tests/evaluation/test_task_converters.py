"""Raw benchmark rows with the hub's columns, put into words: what is asked, what is right, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from infosteer.errors import DataError
from infosteer.evaluation.tasks import list_tasks, load_task, task_info
from infosteer.evaluation.tasks.load import training_rows

NAMED = {"text": ["ice", "fire", "sand"], "label": ["A", "B", "C"]}

# task -> (a row as the hub has it, the answer, texts that the question must hold)
RAW: dict[str, tuple[dict[str, Any], str, list[str]]] = {
    "boolq": (
        {"question": "is ice cold", "answer": False, "passage": "Ice is frozen."},
        "false",
        ["is ice cold?", "true/false"],
    ),
    "piqa": (
        {"goal": "dry a cup", "sol1": "Use a towel", "sol2": "Use soup", "label": 0},
        "solution1",
        ["Solution2: Use soup"],
    ),
    "siqa": (
        {
            "context": "Jo fell.",
            "question": "Why?",
            "answerA": "ice",
            "answerB": "fire",
            "answerC": "sand",
            "label": "1",
        },
        "answer1",
        ["Jo fell. Why?", "Answer3: sand"],
    ),
    "hellaswag": (
        {
            "activity_label": "Baking",
            "ctx_a": "A cook bakes.",
            "ctx_b": "she",
            "ctx": "[header] How to bake [title] Mix. [step] A cook bakes. she",
            "endings": ["eats [substeps] it.", "flies.", "is a bus.", "melts."],
            "label": "3",
        },
        "ending4",
        ["Baking: How to bake. Mix. A cook bakes. she", "Ending1: eats it."],
    ),
    "winogrande": (
        {"sentence": "Ann sold Bo a car as _ was rich.", "option1": "Ann", "option2": "Bo", "answer": "2"},
        "option2",
        ["as _ was rich", "Option1: Ann"],
    ),
    "arc_easy": (
        {"id": "x", "question": "What melts?", "choices": NAMED, "answerKey": "A"},
        "answer1",
        ["Answer3: sand"],
    ),
    "arc_challenge": (
        {"question": "What burns?", "choices": NAMED | {"label": ["1", "2", "3"]}, "answerKey": "2"},
        "answer2",
        ["What burns?"],
    ),
    "openbookqa": (
        {
            "question_stem": "Fish live in",
            "choices": {"text": ["water", "trees", "sand", "fire"], "label": ["A", "B", "C", "D"]},
            "answerKey": "A",
        },
        "answer1",
        ["Fish live in", "Answer1: water"],
    ),
    "gsm8k": (
        {"question": "2 and 3 pens?", "answer": "2 + 3 = <<2+3=5>>5 pens.\n#### 1,005"},
        "1005",
        ["2 and 3 pens?"],
    ),
    "addsub": ({"sQuestion": "2 and 3 pens?", "lSolutions": [5.0], "iIndex": 1}, "5", ["2 and 3 pens?"]),
    "singleeq": ({"question": "2 and 3 pens?", "answer": 0.5}, "0.5", ["2 and 3 pens?"]),
    "multiarith": ({"question": " 2 and 3 pens? ", "final_ans": "5"}, "5", ["2 and 3 pens?"]),
    "aqua": (
        {
            "question": "2x = 4, x = ?",
            "options": ["A)1", "B)2", "C)f(E)", "D)4", "E)None of these"],
            "rationale": "Halve it.",
            "correct": "B",
        },
        "B",
        ["(A) 1 (B) 2 (C) f(E) (D) 4 (E) None of these"],
    ),
    "mawps": ({"Question": "N_00 and N_01 pens?", "Numbers": "2.0 3.5", "Answer": 5.5}, "5.5", ["2 and 3.5 pens?"]),
    "svamp": (
        {"Body": "Ann has 2 pens", "Question": "And 3 more?", "Answer": 5.0},
        "5",
        ["Ann has 2 pens. And 3 more?"],
    ),
    "lambada": ({"text": "Ann took her pen. It was blue, a blue pen"}, "pen", ["It was blue, a blue"]),
    "fables": (
        {"query": "Q: A fox. The moral?\nA. Run.\nB. Eat.\nAnswer: ", "choices": ["A", "B"], "gold": 1},
        "B",
        ["A fox. The moral?", "(A) Run. (B) Eat."],
    ),
    "strange_stories": (
        {"query": "Context: Jo lies.Q: Why?\nAnswer: ", "choices": ["fun", "fear"], "gold": 0},
        "answer1",
        ["Jo lies.\nWhy?", "Answer2: fear"],
    ),
    "mmlu": (
        {"subject": "high_school_physics", "question": "g?", "choices": ["1", "9.8", "", "3"], "answer": 1},
        "B",
        ["A question on high school physics: g?", "(B) 9.8 (C) - (D) 3"],
    ),
    "triviaqa": (
        {"question": "Who?", "answer": {"value": "Ann Lee", "aliases": ["A. Lee", " "], "normalized_value": "ann lee"}},
        "Ann Lee",
        ["Answer in a few words: Who?"],
    ),
    "commonsenseqa": (
        {"question": "Where?", "choices": {"text": list("vwxyz"), "label": list("ABCDE")}, "answerKey": "E"},
        "answer5",
        ["Answer5: z"],
    ),
    "strategyqa": (
        {"query": "Q: Is it so?\nA:", "choices": ["Yes", "No"], "gold": 1},
        "answer2",
        ["Is it so?\n\nAnswer1: Yes"],
    ),
    "competition_math": ({"problem": "$1+1$?", "solution": "It is $\\boxed{2}$.", "answer": "2"}, "2", ["$1+1$?"]),
    "wsc": (
        {
            "context_options": ["Ann's cat died and Ann's", "Ann's cat died and Ann's cat's"],
            "continuation": "dog ran.",
            "gold": 1,
        },
        "option2",
        ["Ann's cat died and _ dog ran.", "Option1: Ann's\nOption2: Ann's cat's"],
    ),
    "disambiguation_qa": (
        {"input": "Who?\nOptions:\n(A) Ann\n(B) Bo\n(C) Ambiguous", "target": "(C)"},
        "C",
        ["Who?\n\nAnswer Choices: (A) Ann (B) Bo (C) Ambiguous"],
    ),
    "hyperbaton": ({"input": "Which?\nOptions:\n(A) red big\n(B) big red", "target": "(B)"}, "B", ["(B) big red"]),
    "snarks": ({"input": "Which?\nOptions:\n(A) Oh\n(B) Oh!", "target": "(A)"}, "A", ["(A) Oh (B) Oh!"]),
}


def store(folder: Path, task: str, *rows: dict[str, Any], split: str = "test") -> Path:
    """Rows in a folder of the layout that tasks are looked up in."""
    info = task_info(task)
    marks = dict(info.keep.get(split, {}))
    place = folder / Path(info.local).name
    file = place / f"{split}.jsonl" if not info.keep else place.with_name(place.name + ".jsonl")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(json.dumps(row | marks) for row in rows) + "\n", encoding="utf-8")
    return folder


def test_every_task_has_a_raw_row_here() -> None:
    assert set(RAW) == set(list_tasks())


@pytest.mark.parametrize("task", RAW)
def test_raw_rows_become_rows_of_the_tasks_shape(task: str, tmp_path: Path) -> None:
    raw, answer, texts = RAW[task]
    info = task_info(task)
    found = load_task(task, data=store(tmp_path, task, raw, raw), template="{instruction}\nSay: ")
    assert found.wording == "infosteer"
    assert len(found.rows) == 2
    row = found.rows[0]
    assert row["answer"] == answer
    for text in texts:
        assert text in row["prompt"]
    if info.options is not None:
        assert info.options[0] <= len(row["options"]) <= info.options[1]
        assert row["lead"] in ("the correct answer is ", "The answer is (")
    if task != "lambada":
        assert row["prompt"].endswith("\nSay: ")


SPARE = {  # columns that a row can do without
    "boolq": {"passage"},
    "hellaswag": {"ctx", "ctx_a", "ctx_b"},
    "arc_easy": {"id"},
    "addsub": {"iIndex"},
    "aqua": {"rationale"},
    "competition_math": {"solution"},
    "fables": {"choices"},
}


@pytest.mark.parametrize("task", RAW)
def test_a_column_less_and_a_row_is_bad(task: str, tmp_path: Path) -> None:
    raw = RAW[task][0]
    for column in set(raw) - SPARE.get(task, set()):
        less = {key: value for key, value in raw.items() if key != column}
        with pytest.raises(DataError) as error:
            load_task(task, data=store(tmp_path, task, raw, less))
        assert f"task {task}" in str(error.value)
        assert ":2: " in str(error.value)
    for column in SPARE.get(task, set()):
        less = {key: value for key, value in raw.items() if key != column}
        assert len(load_task(task, data=store(tmp_path, task, less)).rows) == 1


@pytest.mark.parametrize(
    ("task", "change", "reason"),
    [
        ("boolq", {"answer": "yes"}, "not true or false"),
        ("boolq", {"question": ""}, "is empty"),
        ("boolq", {"question": 5}, "of type int"),
        ("piqa", {"label": 2}, "there are 2 options"),
        ("piqa", {"label": -1}, "there are 2 options"),
        ("piqa", {"label": True}, "not the number of an option"),
        ("piqa", {"sol2": "\x07"}, "U+0007"),
        ("siqa", {"label": "0"}, "counted from 1"),
        ("hellaswag", {"endings": ["a", "b", "c"]}, "there are 3 options"),
        ("hellaswag", {"endings": ["a", "", "c", "d"]}, "'endings[1]' is empty"),
        ("hellaswag", {"endings": "abcd"}, "no list of options"),
        ("winogrande", {"sentence": "no blank"}, "no blank"),
        ("arc_easy", {"answerKey": "D"}, "the options are A/B/C"),
        ("arc_easy", {"choices": {"text": ["a"], "label": ["A"]}}, "single option"),
        ("arc_easy", {"choices": {"text": ["a", "b"], "label": ["A"]}}, "the options are A"),
        ("arc_easy", {"choices": ["a"]}, "no mapping"),
        ("openbookqa", {"choices": {"text": ["a", "b"], "label": ["A", "B"]}}, "has 2 options"),
        ("gsm8k", {"answer": "five"}, "no '####'"),
        ("gsm8k", {"answer": "#### five"}, "no number"),
        ("aqua", {"options": ["1", "2", "3", "4", "5"]}, "begin with their letters"),
        ("aqua", {"correct": "F"}, "there are 5 options"),
        ("aqua", {"correct": "AB"}, "there are 5 options"),
        ("mawps", {"Numbers": "2.0"}, "N_01"),
        ("mawps", {"Answer": float("nan")}, "no number"),
        ("mawps", {"Answer": float("inf")}, "no number"),
        ("addsub", {"lSolutions": [1, 2]}, "lSolutions"),
        ("svamp", {"Answer": True}, "of type bool"),
        ("lambada", {"text": "word"}, "single word"),
        ("fables", {"query": "no options"}, "no question followed by options"),
        ("mmlu", {"answer": 4}, "there are 4 options"),
        ("mmlu", {"choices": None}, "no list of options"),
        ("triviaqa", {"answer": {"value": ""}}, "is empty"),
        ("wsc", {"context_options": ["the same", "the same"]}, "different words"),
        ("wsc", {"context_options": ["one"]}, "different words"),
        ("hyperbaton", {"target": "(C)"}, "the target"),
        ("hyperbaton", {"target": ""}, "is empty"),
    ],
)
def test_hostile_raw_rows_are_named(task: str, change: dict[str, Any], reason: str, tmp_path: Path) -> None:
    raw = RAW[task][0]
    data = store(tmp_path, task, raw, raw | change)
    with pytest.raises(DataError) as error:
        load_task(task, data=data)
    assert f"task {task}" in str(error.value)
    line = next(line for line in str(error.value).splitlines() if ":2: " in line)
    assert reason in line, line
    assert load_task(task, data=data, skip_bad_rows=True).skipped == 1


def test_raw_training_rows_end_in_the_answer(tmp_path: Path) -> None:
    raw = RAW["gsm8k"][0]
    store(tmp_path, "gsm8k", raw)
    (row,) = training_rows("gsm8k", data=store(tmp_path, "gsm8k", raw | {"question": "Another?"}, split="train"))
    assert row["completion"] == "2 + 3 = 5 pens. The answer is 1005."
    store(tmp_path, "aqua", RAW["aqua"][0])
    (row,) = training_rows("aqua", data=store(tmp_path, "aqua", RAW["aqua"][0], split="train"))
    assert row["completion"] == "Halve it. The answer is (B)."
    store(tmp_path, "boolq", RAW["boolq"][0])
    (row,) = training_rows("boolq", data=store(tmp_path, "boolq", RAW["boolq"][0], split="train"))
    assert row["completion"] == "the correct answer is false"


def test_suites_rows_and_raw_rows_do_not_mix(tmp_path: Path) -> None:
    suite = {"instruction": "2 and 3 pens?", "input": "", "output": "", "answer": "5"}
    with pytest.raises(DataError, match=r":2: has no field 'instruction', unlike the rows before it"):
        load_task("gsm8k", data=store(tmp_path, "gsm8k", suite, RAW["gsm8k"][0]))
    with pytest.raises(DataError, match=r":2: has a field 'instruction', unlike the rows before it"):
        load_task("gsm8k", data=store(tmp_path, "gsm8k", RAW["gsm8k"][0], suite))


def test_problems_without_a_plain_number_are_not_asked(tmp_path: Path) -> None:
    raw = RAW["competition_math"][0]
    rows = [raw | {"answer": answer} for answer in ("\\frac{1}{2}", "1,234", "-.5", "10,\\!000", "x", "2^3", "(1, 2)")]
    found = load_task("competition_math", data=store(tmp_path, "competition_math", *rows))
    assert [row["answer"] for row in found.rows] == ["1234", "-0.5", "10000"]
    assert found.skipped == 0


def test_rows_of_other_tasks_in_the_file_are_passed_over(tmp_path: Path) -> None:
    raw = RAW["snarks"][0]
    file = tmp_path / "bbh.jsonl"
    cut = {"task": "snarks", "input": "Which?\nOptions:\n(A) Oh", "target": "(A)"}
    rows = [{"task": "hyperbaton", "input": 5}, raw | {"task": "snarks"}, cut]
    file.write_text("\n".join(map(json.dumps, rows)))
    found = load_task("snarks", data=tmp_path)
    assert [place.rsplit(":", 1)[1] for place in found.places] == ["2"]


def test_examples_of_one_file_come_from_its_training_rows(tmp_path: Path) -> None:
    raw = RAW["mmlu"][0]
    rows = [
        raw | {"split": "test"},
        *(raw | {"split": "dev", "question": f"{n}?"} for n in range(5)),
        raw | {"split": "validation"},
    ]
    (tmp_path / "mmlu.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = load_task("mmlu", data=tmp_path, shots=5)
    assert len(found.rows) == 1
    assert found.rows[0]["prompt"].count("### Instruction:") == 6
    assert all(f": {n}?" in found.rows[0]["prompt"] for n in range(5))
