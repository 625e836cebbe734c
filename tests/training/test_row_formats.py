"""Row formats: what becomes of a row of each, and which rows are bad."""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infosteer.errors import DataError
from infosteer.training.answers import last_number
from infosteer.training.row_formats import COLUMNS, FIELDS, TEMPLATES
from infosteer.training.rows import read_rows

DATA = Path(os.environ.get("INFOSTEER_DATA", Path(__file__).parents[3] / "shared" / "data"))
TASKS = DATA / "llm-adapters"
needs_data = pytest.mark.skipif(not TASKS.is_dir(), reason="the data folder is absent (set INFOSTEER_DATA)")


def dump(rows: list) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def test_messages_become_a_context_and_the_last_reply(tmp_path: Path) -> None:
    path = tmp_path / "talk.jsonl"
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hello"},
    ]
    path.write_bytes(dump([{"messages": turns}]))
    assert list(read_rows(path)) == [{"prompt": turns[:2], "completion": turns[2:]}]
    (row,) = read_rows(path, purpose="evaluate")
    assert (row["prompt"], row["answer"], row["options"]) == (turns[:2], "hello", None)
    for bad, message in [
        (turns[:2], "by 'user'"),
        (turns[2:], "one message only"),
        ([{"role": "robot", "content": "x"}], "role 'robot'"),
        ([{"role": "user"}], "lacks 'role' or 'content'"),
        ([{"role": "assistant", "content": 3}], "not text"),
        ([], "at least one message"),
        ("hi", "not a list"),
    ]:
        path.write_bytes(dump([{"messages": bad}]))
        with pytest.raises(DataError, match=message):
            read_rows(path)


def test_instruction_rows_are_put_into_words_without_reading_braces_in_the_data(tmp_path: Path) -> None:
    path = tmp_path / "i.jsonl"
    rows = [
        {"instruction": "Say {input}.", "input": "{instruction} {0}", "output": " x "},
        {"instruction": "I", "output": "o"},
    ]
    path.write_bytes(dump(rows))
    first, second = read_rows(path)
    assert first == {
        "prompt": "### Instruction:\nSay {input}.\n\n### Input:\n{instruction} {0}\n\n### Response:\n",
        "completion": "x",
    }
    assert second["prompt"] == "### Instruction:\nI\n\n### Response:\n"
    assert read_rows(path, template="Q: {instruction} [{input}]\nA:")[1]["prompt"] == "Q: I []\nA:"
    assert read_rows(path, template="alpaca")[0]["prompt"].endswith(TEMPLATES["sections"][1][-15:])
    with pytest.raises(DataError, match="no place"):
        read_rows(path, template="Q: {instruction}")


def test_evaluation_rows(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"

    def read(row: dict) -> dict:
        path.write_bytes(dump([row]))
        return read_rows(path, purpose="evaluate")[0]

    assert read({"prompt": "p", "completion": " a\n"})["answer"] == "a"
    assert read({"prompt": "p", "answer": 72})["answer"] == "72"
    row = read({"prompt": "p", "answer": "b", "options": [" a", " b"], "stop": "\n"})
    assert (row["options"], row["stop"], row["lead"]) == (["a", "b"], ["\n"], " ")
    leads = [
        ({"prompt": "Q:", "answer": "a"}, " "),
        ({"prompt": "Q:\n", "answer": "a"}, ""),
        ({"prompt": "Q:", "answer": "  a"}, "  "),
        ({"prompt": "(", "answer": "a", "lead": ""}, ""),
        ({"prompt": "Q:", "answer": "a", "lead": " it is "}, " it is "),
        ({"prompt": "Q:", "completion": "a"}, ""),
        ({"prompt": "Q:", "completion": "\na"}, "\n"),
        ({"prompt": [{"role": "user", "content": "Q"}], "answer": "a"}, ""),
    ]
    for row, lead in leads:
        assert read(row)["lead"] == lead
    for bad, message in [
        ({"answer": "c", "options": ["a", "b"]}, "'c' is not one of its 2 options"),
        ({"answer": "a", "options": ["a", "a"]}, "the same"),
        ({"answer": "a", "options": ["a"]}, "single option"),
        ({"answer": "a", "options": ["a", ""]}, "empty"),
        ({"answer": "a", "options": "a/b"}, "not a list"),
        ({"answer": True}, "type bool"),
        ({"answer": ["a"]}, "type list"),
    ]:
        with pytest.raises(DataError, match=message):
            read({"prompt": "p", **bad})


def task(instruction: str, output: str, answer: str) -> dict:
    return {"instruction": instruction, "input": "", "output": output, "answer": answer}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (task("Pick.\n\nAnswer format: a1/a2", "the correct answer is a2", "a3"), "not one of the options a1/a2"),
        (task("Pick.\n\nAnswer format: a1/a2", "the correct answer is a2", "a1"), "does not end in its answer"),
        (task("Pick.\n\nAnswer format: a1/a2", "", "a1"), "output is empty"),
        (task("Pick one: red, green", "red", "red"), "lists no options"),
        (task("How many?", "It is 3.", "4.0"), "ends in 3.0, but its answer is 4.0"),
        (task("How many?", "It is none.", "4.0"), "ends in None"),
        (task("Which? Answer Choices: (A) 1", "The answer is (A).", "A"), "lists no options"),
    ],
)
def test_task_rows_that_contradict_themselves_are_bad(row: dict, message: str, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_bytes(dump([row]))
    with pytest.raises(DataError, match=message):
        read_rows(tmp_path / "t.jsonl")


def test_task_rows_hostile_but_legal(tmp_path: Path) -> None:
    long = task("\u202eword \x07 " * 5000 + "\n\nAnswer format: true/false", "the correct answer is true", "true")
    (tmp_path / "t.jsonl").write_bytes(dump([long]))
    (row,) = read_rows(tmp_path / "t.jsonl", purpose="evaluate")
    assert row["options"] == ["true", "false"]
    assert long["instruction"] in row["prompt"]  # nothing is cut or cleaned away in silence


@needs_data
@pytest.mark.data
def test_the_fifteen_tasks() -> None:
    counts = {"boolq": 2, "piqa": 2, "winogrande": 2, "social_i_qa": 3, "AQuA": 5, "mathqa": 5}
    numbers = {"gsm8k", "mawps", "SVAMP", "AddSub", "MultiArith", "SingleEq"}
    folders = sorted(path for path in TASKS.iterdir() if path.is_dir())
    assert len(folders) == 16
    for folder in folders:
        for row in read_rows(folder, purpose="evaluate", split="test", limit=300):
            if folder.name in numbers:
                assert row["options"] is None
                assert str(last_number(row["answer"])) != "None"
            else:
                assert row["answer"] in row["options"]
                assert len(row["options"]) == counts.get(folder.name, len(row["options"]))
    trained = {
        "ARC-Easy": "the correct answer is answer2",
        "mawps": "The answer is 5.",
        "gsm8k": "Natalia sold 48/2 = 24 clips in May. Natalia sold 48+24 = 72 clips altogether in April and May. "
        "The answer is 72.",
    }
    for name, completion in trained.items():
        assert read_rows(TASKS / name, limit=1)[0]["completion"] == completion
    assert read_rows(TASKS / "AQuA", limit=1)[0]["completion"].endswith("The answer is (A).")
    assert len(read_rows(TASKS / "gsm8k")) == 7473  # every worked solution ends in its answer
    # outputs of arithmetic test rows are machine-written; a fifth of SVAMP's end in a wrong number
    assert read_rows(TASKS / "SVAMP", split="test", skip_bad_rows=True).skipped == 138


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(sorted(COLUMNS)), JSON, max_size=7), st.sampled_from(sorted(FIELDS)))
@settings(max_examples=300, deadline=None)
def test_whatever_the_row_it_is_read_or_named(row: dict, format: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.jsonl"
        path.write_bytes(dump([row]))
        for purpose in ("train", "evaluate"):
            schema = {"prompt", "completion"} if purpose == "train" else {"prompt", "answer", "options", "stop", "lead"}
            said = f"{path}:1: "
            try:
                (read,) = read_rows(path, purpose=purpose, format=format)  # type: ignore[arg-type]
                assert set(read) == ({"text"} if format == "text" else schema)
            except DataError as error:
                said = str(error)
            assert f"{path}:1: " in said


def test_the_rows_shown_in_the_guide_are_read_as_it_says(tmp_path: Path) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    blocks = re.findall(r"^```(\S+)([^\n]*)\n(.*?)^```$", guide, re.MULTILINE | re.DOTALL)
    shown = 0
    row: dict = {}
    for language, label, body in blocks:
        if language == "jsonl":
            (tmp_path / "rows.jsonl").write_text(body)
            format, purpose = label.split()
            rows = read_rows(tmp_path / "rows.jsonl", purpose=purpose)  # type: ignore[arg-type]
            assert (rows.format, len(rows)) == (format, 1)
            row = rows[0]
            shown += 1
        elif language == "json":
            assert json.loads(body) == row
    assert shown == 7
    assert {label.split()[0] for language, label, _ in blocks if language == "jsonl"} == set(FIELDS)
