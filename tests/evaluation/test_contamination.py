"""Contamination: against a brute-force count on random text, on rows made dirty in known ways, and on real ones."""

from __future__ import annotations

import gzip
import json
import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infosteer.errors import ConfigError, DataError
from infosteer.evaluation import EvalSet, load_set
from infosteer.evaluation.contamination import COMMON, COVER_N, DIRTY_SHARE, TOUCH_N, check, check_sets
from infosteer.evaluation.ngrams import WordHashes, ngram_hashes, words
from infosteer.evaluation.train_texts import bare, without_shots

DATA = Path(os.environ.get("INFOSTEER_DATA", Path(__file__).parents[3] / "shared" / "data"))
TASKS = DATA / "llm-adapters"
needs_data = pytest.mark.skipif(not TASKS.is_dir(), reason="the data folder is absent (set INFOSTEER_DATA)")
LONG = "Ann packs {} red apples and nine green pears into the old wooden box behind the kitchen door before noon"


def rows(*prompts: Any, answer: str = "x") -> list[dict[str, Any]]:
    return [{"prompt": prompt, "answer": answer, "options": None, "stop": [], "lead": " "} for prompt in prompts]


def asked(*prompts: Any, **more: Any) -> EvalSet:
    return EvalSet(name="q", rows=rows(*prompts, **more))


def train(*pairs: tuple[Any, Any]) -> list[dict[str, Any]]:
    return [{"prompt": prompt, "completion": completion} for prompt, completion in pairs]


def grams(text: list[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]


def test_overlap_is_that_of_a_brute_force_count() -> None:
    """Random text over few words, so that n-grams meet by chance, some under many prompts."""
    draw = random.Random(0)

    def sentence(low: int, high: int) -> str:
        return " ".join(draw.choice(["ba", "co"]) for _ in range(draw.randint(low, high)))

    tests = [f"{i} {sentence(2, 40)} {i}" for i in range(40)]
    training = [(sentence(3, 30), sentence(0, 25)) for _ in range(60)]
    training += [(prompt, sentence(0, 9)) for prompt, _ in training[:20]]  # prompts with a second answer
    found = check(asked(*tests, answer="no"), [train(*training)])
    touched = covered = whole_only = 0
    for test in tests:
        share: dict[int, float | None] = {}
        for n in (COVER_N, TOUCH_N):
            mine = grams(test.split(), n)
            homes = {g: {p for p, c in training if g in grams(f"{p} {c}".split(), n)} for g in mine}
            counted = [g for g in mine if len(homes[g]) <= COMMON]
            share[n] = None if not mine else sum(bool(homes[g]) for g in counted) / max(1, len(counted))
        touched += bool(share[TOUCH_N])
        covered += share[COVER_N] is not None and share[COVER_N] >= DIRTY_SHARE
        whole_only += share[COVER_N] is None
    assert (found.touched, found.covered, found.whole_only) == (touched, covered, whole_only)
    assert touched > 2
    assert len(found.dirty) == covered > 2
    assert found.trained == 80


def test_the_four_looks() -> None:
    question = LONG.format(7)
    near = question.replace("Ann packs 7 red", "Bob takes 31 such")
    sets = asked(question, "Who?", LONG.format(8).upper() + "!!", near, "Something else, with nine words in all of it.")
    found = check(sets, [train((question, "x"), ("who", "y"), (LONG.format(8), "no"))])
    kinds = {match.row: match.kind for match in found.found}
    assert kinds == {0: "exact", 1: "normalised", 2: "normalised", 3: "touched"}
    assert (found.exact, found.normalised, found.with_answer) == (1, 3, 1)
    assert found.dirty == (0, 1, 2)
    assert (found.touched, found.whole_only) == (3, 1)
    first = found.found[0]
    assert (first.place, first.trained_at, first.with_answer) == ("q, row 1", "training row 1", True)
    assert found.clean([1, 2, 3, 4, 5]) == [4, 5]
    assert found.clean([0.5]) == [0.5], "a measure of the whole set"
    assert json.loads(json.dumps(found.to_json()))["found"][0]["kind"] == "exact"


def test_a_question_with_other_words_at_its_end_is_covered() -> None:
    question = f"{LONG.format(7)} and then she walks all the way home along the river with her two brothers"
    found = check(asked(question, "What is it?"), [train((question.replace("two brothers", "sister"), "x"))])
    assert (found.covered, found.normalised, found.dirty) == (1, 0, (0,))
    assert found.found[0].kind == "covered"
    assert 0.7 < (found.found[0].share or 0) < 1


def test_worked_answers_are_compared_too() -> None:
    solution = LONG.format(7) + ", so the answer is 16"
    found = check(asked("How many?", answer=solution), [[{"text": f"A page. {solution}. More."}]])
    assert (found.covered, found.normalised) == (1, 0)


@pytest.mark.parametrize(
    ("trained", "asked_as"),
    [
        ("### Instruction:\nWho paints?\n\n### Response:\n", "Who paints?\n"),
        ("Who paints?", "### Instruction:\nWho paints?\n\n### Response:\n"),
        ([{"role": "user", "content": "Who paints?"}], "Who paints?"),
        ("### Instruction:\nSay it.\n\n### Input:\nWho paints?\n\n### Response:\n", "Say it.\nWho paints?"),
        ("who PAINTS", "Who\u200b paints\u202e?"),
        ("Caf\u00e9 \uff11\uff12", "cafe\u0301 12"),
        ("STRASSE", "stra\u00dfe"),
        ("\u8ab0\u304c\u7d75\u3092\u63cf\u304f?", "\u8ab0\u304c\u7d75\u3092\u63cf\u304f"),
        ("\u0645\u0646 \u064a\u0631\u0633\u0645\u061f", "\u200f\u0645\u0646 \u064a\u0631\u0633\u0645"),
    ],
)
def test_wording_and_writing_do_not_hide_a_question(trained: Any, asked_as: str) -> None:
    assert check(asked(asked_as, "Another one"), [train((trained, "x"))]).normalised == 1


def test_templates_and_idioms_do_not_count() -> None:
    """Under more than ten different prompts an n-gram is common text; the same prompt again does not make it common."""
    front = "Please choose the one right answer to the question that follows here below and nothing else at all"
    tests = [f"{front}: {word}" for word in ("alpha beta", "gamma delta")]
    assert check(asked(*tests), [train(*((f"{front}: topic {i}", "x") for i in range(30)))]).touched == 0
    lone = asked(tests[0])  # a single row shows no frame
    assert check(lone, [train(*((f"{front}: topic {i}", "x") for i in range(COMMON + 1)))]).touched == 0
    assert check(lone, [train(*((f"{front}: topic {i}", "x") for i in range(COMMON)))]).touched == 1
    again = check(asked(LONG.format(7)), [train(*((f"{LONG.format(7)} Why", str(i)) for i in range(50)))])
    assert (again.touched, again.covered) == (1, 1)


def test_worked_examples_in_front_are_not_the_question() -> None:
    shot = f"### Instruction:\n{LONG.format(7)}\n\n### Response:\nx\n\n"
    prompts = [f"{shot}### Instruction:\nA question of its own, number {i}?\n\n### Response:\n" for i in range(3)]
    sets = EvalSet(name="q", rows=rows(*prompts), shots=1)
    assert check(sets, [train((LONG.format(7), "x"))]).touched == 0
    assert check(EvalSet(name="q", rows=rows(*prompts)), [train((prompts[1], "x"))]).normalised == 1
    plain = [f"Who?\nAnn\n\nQ {i}\n\nmore" for i in range(3)]
    assert without_shots(plain, 1) == [f"Q {i}\n\nmore" for i in range(3)]
    assert without_shots(plain[:1], 1)[0].endswith("more")


def test_sources_are_read_with_places_and_nothing_is_skipped(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    good = {"prompt": "Who paints?", "completion": "Ann"}
    odd = {"query": ["Who sings?", {"deep": LONG.format(7)}], "n": 3}
    bad = {"instruction": "How many?", "input": "", "output": "It is 4.", "answer": "5"}  # no row to train on
    lines = [json.dumps(good), "[1]", json.dumps(odd), "{broken", json.dumps(bad), "{}", json.dumps({"text": ""})]
    file.write_text("\n".join(lines) + "\n")
    talks = tmp_path / "m.json"
    talks.write_text(
        json.dumps([{"messages": [{"role": "user", "content": "When?"}, {"role": "assistant", "content": "x"}]}])
    )
    sets = asked("who paints", "Who sings?", "HOW MANY", "when", LONG.format(7))
    found = check(sets, [file, {"source": str(talks)}])
    assert (found.normalised, found.trained, found.unreadable) == (5, 6, 2)
    assert found.unreadable_at == (f"{file}:2", f"{file}:4")
    at = {match.row: match.trained_at for match in found.found}
    assert at == {0: f"{file}:1", 1: f"{file}:3", 2: f"{file}:5", 3: f"{talks}, row 1", 4: f"{file}:3"}
    assert check(sets, [{"source": str(file), "limit": 1}]).trained == 1
    with pytest.raises(DataError, match="no such data file"):
        check(sets, [tmp_path / "nowhere.jsonl"])
    with pytest.raises(ConfigError, match="needs a name"):
        check(sets, [{"split": "train"}])
    assert check(sets, []).dirty == ()


def test_hostile_rows() -> None:
    huge = "word " * 50_000
    sets = asked("", "???", "\x00\x07", "\ud800 half", huge, "\u202eabc", "a" * 60_000)
    texts = ["", "!!!", "\x00", "\ud800 half", huge, "\u202dABC", "a" * 60_000, None, 3]
    found = check(sets, [[{"prompt": text, "completion": text} for text in texts]])
    assert {match.row for match in found.found} >= {3, 4, 5, 6}
    assert found.normalised == 4, "what holds no word is equal to nothing but itself"
    assert check(EvalSet(name="q", rows=[]), [train(("a", "b"))]).examples == 0
    documents = EvalSet(name="t", rows=[{"text": LONG.format(7)}], scoring="text")
    assert check(documents, [[{"text": LONG.format(7)}]]).exact == 1


def test_words_and_hashes() -> None:
    assert words("Don't_stop: 3.5 \u00bd") == ["don", "t", "stop", "3", "5", "1", "2"]
    assert words("\u6771\u4eac tower") == ["\u6771", "\u4eac", "tower"]
    hashes = WordHashes()
    flat, owners = hashes.of([["a", "b", "c"], [], ["b", "c"]])
    two, homes = ngram_hashes(flat, owners, 2)
    assert homes.tolist() == [0, 0, 2]
    assert two[1] == two[2] != two[0]
    assert len(ngram_hashes(flat, owners, 4)[0]) == 0
    draw = np.random.default_rng(0)
    texts = [[str(w) for w in draw.integers(0, 3, 13)] for _ in range(20_000)]
    found, _ = ngram_hashes(*hashes.of(texts), 13)
    assert len(set(found.tolist())) == len({tuple(text) for text in texts}), "orders of the same words differ"


def test_memory_and_time_do_not_grow_with_the_training_rows() -> None:
    draw = random.Random(1)
    vocabulary = [f"w{i}" for i in range(5000)]

    def stream(count: int) -> Any:
        for _ in range(count):
            yield {"prompt": " ".join(draw.choices(vocabulary, k=40)), "completion": "x"}

    sets = asked(*(" ".join(draw.choices(vocabulary, k=40)) for _ in range(200)))
    check(sets, [stream(100)])
    start = time.process_time()
    found = check(sets, [stream(10_000)])
    assert found.trained == 10_000
    assert time.process_time() - start < 8  # about 0.7 s on one quiet core


def test_bare() -> None:
    assert bare("### Instruction:\n\n### Response:\n") == ""
    assert bare("no template") == "no template"
    assert bare([{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Who?"}]) == "Be kind.\nWho?"


@needs_data
@pytest.mark.data
def test_real_rows_are_clean_until_they_are_made_dirty(tmp_path: Path) -> None:
    """MAWPS is made of the others' kind of questions: none stands in its training rows, but near twins do."""
    names = ("AddSub", "MultiArith", "SingleEq", "SVAMP")
    sets = [load_set(name, {"source": str(TASKS / name), "split": "test"}, skip_bad_rows=True) for name in names]
    source = TASKS / "mawps" / "train.jsonl.gz"
    clean = check_sets(sets, [source])
    assert {name: (one.exact, one.normalised) for name, one in clean.items()} == dict.fromkeys(names, (0, 0))
    assert clean["MultiArith"].covered > 0
    assert clean["MultiArith"].found[0].trained_at.startswith(str(source))
    with gzip.open(source, "rt", encoding="utf-8") as file:
        lines = file.readlines()
    with gzip.open(TASKS / "AddSub" / "test.jsonl.gz", "rt", encoding="utf-8") as file:
        asked_rows = [json.loads(line) for line in file.readlines()[:10]]
    for row in asked_rows:
        upper = row["instruction"].upper().replace(" ", "  ")
        lines.append(json.dumps({**row, "instruction": upper, "output": ""}) + "\n")
    dirty = tmp_path / "dirty.jsonl"
    dirty.write_text("".join(lines), encoding="utf-8")
    found = check_sets(sets, [dirty])
    assert found["AddSub"].normalised == 10
    assert found["AddSub"].with_answer == 10
    assert found["SVAMP"].normalised == 0
    assert found["AddSub"].found[0].trained_at == f"{dirty}:{len(lines) - 9}"
