"""Measures of samples against brute force and against sacrebleu."""

from __future__ import annotations

import itertools
import random

import pytest

from infosteer.errors import ConfigError
from infosteer.evaluation.samples import bleu, distinct_ngrams, expected_worst, self_bleu, share_below


def test_the_expected_worst_is_that_of_all_draws() -> None:
    draw = random.Random(0)
    rewards = [draw.choice([-1.0, -0.5, 0.0, draw.random()]) for _ in range(9)]
    for of in (1, 3, 9):
        draws = [min(part) for part in itertools.combinations(rewards, of)]
        assert expected_worst(rewards, of) == pytest.approx(sum(draws) / len(draws))
    assert expected_worst(rewards, 9) == min(rewards)
    for of in (0, 10):
        with pytest.raises(ConfigError, match="so many samples"):
            expected_worst(rewards, of)


def test_shares_and_ngrams_by_hand() -> None:
    assert share_below([-0.5, -0.1, 0.0, -0.1], -0.1) == 0.25
    with pytest.raises(ConfigError, match="no samples"):
        share_below([], 0)
    assert distinct_ngrams(["abab", "abc"], 2) == pytest.approx(3 / 5)
    assert distinct_ngrams(["a"], 2) == 0


def test_bleu_is_sacrebleus() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    draw = random.Random(1)
    metric = sacrebleu.metrics.BLEU(
        effective_order=False, smooth_method="add-k", smooth_value=1, tokenize="none", force=True
    )
    for _ in range(40):
        words = [[draw.choice("abcd") for _ in range(draw.randint(4, 12))] for _ in range(4)]
        theirs = metric.sentence_score(" ".join(words[0]), [" ".join(other) for other in words[1:]]).score / 100
        assert bleu(words[0], words[1:]) == pytest.approx(theirs, abs=1e-6)


def test_ends_of_bleu() -> None:
    assert bleu("abcde", ["abcde", "xyz"]) == pytest.approx(1)
    assert bleu("abc", ["xyz"]) == 0
    assert bleu("", ["a"]) == bleu("a", []) == 0
    assert self_bleu(["abcde"] * 3) == pytest.approx(1)
    assert self_bleu(["abcd", "wxyz"]) == 0
    with pytest.raises(ConfigError, match="two or more"):
        self_bleu(["abc"])
