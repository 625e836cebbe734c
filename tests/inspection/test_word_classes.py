"""Tokens become content words, function words and punctuation, whatever they hold."""

from __future__ import annotations

import random
import re

import pytest

from infosteer.inspection.word_classes import (
    CLOSED,
    CONTENT,
    FUNCTION,
    FUNCTION_WORDS,
    OTHER,
    PUNCTUATION,
    word_classes,
)

SHORT = {"c": CONTENT, "f": FUNCTION, "p": PUNCTUATION, "o": OTHER}


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (["The", " c", "at", " s", "at", " on", " the", " mat", "."], "fccccffcp"),
        (["Hall", "ock", "'s", " h", "obby"], "ccfcc"),
        (["Hallock", "\u2019", "s"], "cpf"),
        (["I", " don", "'t", " know", ",", " it", "'s"], "fffcpff"),
        (["can", "not", " be"], "fff"),  # one word
        (["with", "out", " with", "draw"], "ffcc"),  # the whole word counts, not its beginning
        (["well", "-", "known", ",", "and"], "cpcpf"),
        (["THE", " End"], "fc"),
        (["a", " b", ")", " O"], "fopf"),
        ([" ", "1", "9", "th", " 3", ".", "5", "%"], "ooocopop"),
        (["\n", "\n\n", "\t", " "], "oooo"),
        (["<|endoftext|>", " <|user|>"], "oo"),
        (["<script>", "</", "style", ">", "alert('x')"], "cpcpc"),
        (["$", "=", "\u20ac", "\u2026", "\u201c", "?!"], "ppoppp"),
        (["caf", "\u00e9", "", " na\u00efve"], "cccc"),
        (["\u4e2d\u6587", " \u0430\u0431", "\u0645"], "ooo"),
        (["\U0001f600", "\x00", "\u200f", "\u202e", "\ufffd", "\u0301"], "oooooo"),
        (["two words", " three"], "oc"),
        (["of the"], "o"),
        (["x" * 10_000, " the"], "cf"),
        (["", "the"], "of"),
        ([], ""),
    ],
)
def test_classes(tokens: list[str], expected: str) -> None:
    classes, units = word_classes(tokens)
    assert classes == [SHORT[letter] for letter in expected]
    assert len(units) == len(tokens)


def test_units_are_words() -> None:
    tokens = ["Hall", "ock", "'s", " h", "ob", "by", ",", ",", " the", " the", "1", "2", "", "."]
    _, units = word_classes(tokens)
    assert units == [0, 0, 1, 2, 2, 2, 3, 4, 5, 6, 7, 8, 8, 9]


@pytest.mark.parametrize("seed", range(20))
def test_any_cut_of_a_text_gives_its_letters_the_same_classes(seed: int) -> None:
    """The class belongs to the word, not to the tokens: against single characters as tokens."""
    rng = random.Random(seed)
    pieces = ["the", "harbour", "and", " ", ",", "\n", "don't", "Anna's", "well-known", "12", "e", "\u00e9t\u00e9", "."]
    text = " ".join(rng.choice(pieces) for _ in range(40))
    alone = word_classes(list(text))[0]
    place = 0
    cut = [part for word in re.findall(r"\s?\S+|\s", text) for part in re.findall(r"\s?\w{1,3}|.", word, re.DOTALL)]
    assert "".join(cut) == text
    for token, kind in zip(cut, word_classes(cut)[0], strict=True):
        letters = [i for i, char in enumerate(token) if char.isalpha()]
        if letters:
            assert kind == alone[place + letters[0]]
        place += len(token)


def test_the_list_is_clean() -> None:
    words = " ".join(CLOSED.values()).split()
    assert all(word == word.lower() and word.isascii() for word in words)
    assert len(FUNCTION_WORDS) > 250
    repeated = {word for word in words if words.count(word) > 1}
    assert not repeated, repeated
    assert not FUNCTION_WORDS & {"time", "make", "good", "go", "people", "new", "work", "said"}
