"""Evaluation sets: what a recipe may say, and how answers are judged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from infosteer.errors import ConfigError, DataError
from infosteer.evaluation import load_set
from infosteer.evaluation.extract import judge, normalise_answer


def write(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


PLAIN = {"prompt": "Who?\n", "answer": "Ann", "options": ["Ann", "Bob"]}
COUNT = {"instruction": "How many?", "input": "", "output": "", "answer": "576.0"}
CHOICE = {"instruction": "Is it?\n\nAnswer format: true/false", "input": "", "output": "", "answer": "true"}


def test_a_source_or_a_mapping(tmp_path: Path) -> None:
    write(tmp_path / "q.jsonl", PLAIN, {**PLAIN, "answer": "Bob"}, {**PLAIN, "prompt": "When?"})
    found = load_set("q", "q.jsonl", base_dir=tmp_path)
    assert (found.name, len(found.rows), found.scoring, found.max_new_tokens) == ("q", 3, "exact_match", None)
    spec = {"source": "q.jsonl", "scoring": "option", "limit": 2, "max_new_tokens": 5, "stop": "\n"}
    found = load_set("q", spec, base_dir=tmp_path)
    assert (len(found.rows), found.scoring, found.max_new_tokens) == (2, "option", 5)
    assert all(row["stop"] == ["\n"] for row in found.rows)
    assert len(load_set("q", spec, base_dir=tmp_path, limit=1).rows) == 1
    assert len(load_set("q", spec, base_dir=tmp_path, limit=9).rows) == 2
    assert spec["limit"] == 2
    with (tmp_path / "q.jsonl").open("a") as file:
        file.write("broken\n")
    with pytest.raises(DataError, match=r"q\.jsonl:4"):
        load_set("q", "q.jsonl", base_dir=tmp_path)
    assert load_set("q", "q.jsonl", base_dir=tmp_path, skip_bad_rows=True).skipped == 1


def test_scoring_follows_the_format(tmp_path: Path) -> None:
    assert load_set("n", write(tmp_path / "n.jsonl", COUNT)).scoring == "number"
    assert load_set("n", tmp_path / "n.jsonl").rows[0]["answer"] == "576"
    assert load_set("o", write(tmp_path / "o.jsonl", CHOICE)).scoring == "option"
    assert load_set("t", write(tmp_path / "t.jsonl", {"text": "prose"})).scoring == "text"
    with pytest.raises(DataError, match="1 of 2 rows have options"):
        load_set("m", write(tmp_path / "m.jsonl", COUNT, CHOICE))
    mixed = load_set("m", {"source": str(tmp_path / "m.jsonl"), "scoring": "exact_match"})
    assert mixed.scoring == "exact_match"


@pytest.mark.parametrize(
    ("name", "spec", "message"),
    [
        ("q", {"scoring": "exact_match"}, "needs a source"),
        ("q", {"source": "q.jsonl", "scoring": "vibes"}, "'vibes'"),
        ("q", {"source": "q.jsonl", "scoring": "number"}, "0 of 1 rows"),
        ("q", {"source": "q.jsonl", "scoring": "text"}, "does not fit the rows"),
        ("q", {"source": "t.jsonl", "scoring": "option"}, "does not fit the rows"),
        ("q", {"source": "p.jsonl", "scoring": "option"}, "every row to have options"),
        ("q", {"source": "q.jsonl", "max_new_tokens": 0}, "at least 1"),
        ("q", {"source": "q.jsonl", "max_new_tokens": "9"}, "at least 1"),
        ("q", {"source": "q.jsonl", "stop": [""]}, "stop must be"),
        ("q", {"source": "q.jsonl", "stpo": "x"}, "'stpo'"),
        ("q", {"source": "q.jsonl", "limit": -1}, "limit"),
        ("a/b", "q.jsonl", "slash"),
        ("", "q.jsonl", "empty"),
    ],
)
def test_settings_that_cannot_be(name: str, spec: object, message: str, tmp_path: Path) -> None:
    write(tmp_path / "q.jsonl", PLAIN)
    write(tmp_path / "p.jsonl", {"prompt": "Who?", "answer": "Ann"})
    write(tmp_path / "t.jsonl", {"text": "prose"})
    with pytest.raises(ConfigError, match=message):
        load_set(name, spec, base_dir=tmp_path)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("prediction", "answer", "correct"),
    [
        (" Ann Lee", "Ann Lee", True),
        ("ann\n lee.", "Ann Lee", True),
        ("Ann Lee and Bob", "Ann Lee", False),
        ("cafe\u0301", "caf\u00e9", True),
        ("Ann", "Ann Lee", False),
        ("", "Ann", False),
        (".", "Ann", False),
    ],
)
def test_exact_match(prediction: str, answer: str, correct: bool) -> None:
    verdict = judge(prediction, {"answer": answer}, "exact_match")
    assert verdict.correct == correct
    assert (verdict.extracted is None) == (normalise_answer(prediction) == "")


@pytest.mark.parametrize(
    ("prediction", "extracted", "correct"),
    [
        ("24 * 24 = 576 tiles. The answer is 576.", "576", True),
        ("576.0004", "576.0004", True),
        ("It is $576", "576", True),
        ("576 and then 5", "5", False),
        ("many", None, False),
        ("57", "57", False),
    ],
)
def test_numbers(prediction: str, extracted: str | None, correct: bool) -> None:
    verdict = judge(prediction, {"answer": "576"}, "number")
    assert (verdict.extracted, verdict.correct) == (extracted, correct)


def test_an_option_that_cannot_be_told_is_never_scored_by_luck() -> None:
    row = {"answer": "answer1", "options": ["answer1", "answer2"]}
    listed = judge("answer1, answer2", row, "option")
    assert (
        listed.extracted == "answer1"
    )  # by the published rule, which takes the first: the strict one stands beside it
    assert listed.strict is not None
    assert (listed.strict.extracted, listed.strict.correct) == (None, False)
    for text, extracted in (("the correct answer is answer1", "answer1"), ("answer2", "answer2"), ("neither", None)):
        verdict = judge(text, row, "option")
        assert verdict.strict is not None
        assert verdict.extracted == verdict.strict.extracted == extracted
        assert verdict.correct == verdict.strict.correct == (extracted == "answer1")
