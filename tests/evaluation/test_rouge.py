"""ROUGE: F1 of words, pairs and subsequences counted by hand; in a set's measures; without the package."""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from pathlib import Path

import pytest

from infosteer.errors import ConfigError
from infosteer.evaluation import evaluate
from infosteer.evaluation.extract import judge
from infosteer.evaluation.measures import better, is_bounded
from infosteer.evaluation.rouge import MEASURES, _scorer, rouge
from infosteer.evaluation.sets import load_set


def f1(common: int, told: int, wanted: int) -> float:
    return 0.0 if common == 0 else 2 * common / (told + wanted)


def longest(a: list[str], b: list[str]) -> int:
    if not a or not b:
        return 0
    if a[0] == b[0]:
        return 1 + longest(a[1:], b[1:])
    return max(longest(a[1:], b), longest(a, b[1:]))


@pytest.mark.parametrize(
    ("told", "wanted"),
    [
        ("the red cat sat", "the cat was red"),
        ("a b a b c", "b a b"),
        ("x", "y"),
        ("same words here", "same words here"),
    ],
)
def test_it_is_what_is_counted_by_hand(told: str, wanted: str) -> None:
    a, b = told.split(), wanted.split()
    found = rouge(told, [wanted])
    assert found["rouge1"] == pytest.approx(f1((Counter(a) & Counter(b)).total(), len(a), len(b)))
    pairs = [Counter(itertools.pairwise(words)) for words in (a, b)]
    assert found["rouge2"] == pytest.approx(f1((pairs[0] & pairs[1]).total(), len(a) - 1, len(b) - 1))
    assert found["rougeL"] == pytest.approx(f1(longest(a, b), len(a), len(b)))


def test_case_and_endings_do_not_count_and_the_nearest_reference_does() -> None:
    assert rouge("Cats, SITTING.", ["cat sits"])["rouge1"] == 1
    assert rouge("a b", ["c", "a b"]) == dict.fromkeys(MEASURES, 1.0)
    assert rouge("", ["a"]) == dict.fromkeys(MEASURES, 0.0)
    with pytest.raises(ConfigError, match="no references"):
        rouge("a", [])


def test_a_verdict_and_an_evaluation_have_the_measures(tmp_path: Path) -> None:
    row = {"prompt": "Sum up.", "answer": "the cat sat", "aliases": ["a dog ran"]}
    verdict = judge(" A dog ran.", row, "rouge")
    assert not verdict.correct
    assert verdict.measures["rougeL"] == 1
    assert judge("The cat sat.", row, "rouge").correct
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "Born in", "answer": "the city of Ashmoor"}\n' * 2)
    from infosteer.training.loading import load_model, load_tokenizer

    asked = load_set("sums", {"source": str(file), "scoring": "rouge", "max_new_tokens": 4})
    found = evaluate(load_model("embedded"), load_tokenizer("embedded"), [asked])["sums"]
    assert {*MEASURES} <= set(found.measures)
    assert len(found.per_example["rouge2"]) == 2
    assert all(is_bounded(name) and better(name) == 1 for name in MEASURES)


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    _scorer.cache_clear()
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    with pytest.raises(ConfigError, match=r"rouge-score"):
        rouge("a", ["a"])
    _scorer.cache_clear()
