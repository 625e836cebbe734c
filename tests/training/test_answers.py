"""Numbers and options read out of text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infosteer.training.answers import find_option, last_number, same_number, show_number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("The answer is 72.", 72),
        ("costs $1,234.50 in all", 1234.5),
        ("from 3 to -4", -4),
        ("10-5", 5),
        ("x=\u22122.5%", -2.5),
        ("about .5", 0.5),
        ("1e3", 1000),
        ("1e999", None),
        ("9" * 400, None),
        ("none", None),
        ("", None),
        ("(3)-(2)", 2),
        ("576.0 apples, then 12.", 12),
    ],
)
def test_last_number(text: str, number: float | None) -> None:
    assert last_number(text) == number


@given(st.floats(-1e9, 1e9), st.text(max_size=30))
@settings(max_examples=200, deadline=None)
def test_a_shown_number_is_read_back(value: float, noise: str) -> None:
    found = last_number(f"so it is {show_number(value)}.")
    assert found is not None
    assert same_number(found, value)
    last_number(noise)
    find_option(noise, ["a", "b"])
    find_option(noise, ["true", "false"])


@pytest.mark.parametrize(
    ("text", "options", "found"),
    [
        ("the correct answer is answer2", ["answer1", "answer2"], "answer2"),
        ("Answer2", ["answer1", "answer2"], "answer2"),
        ("answer12", ["answer1", "answer2"], None),
        ("answer1 or answer2", ["answer1", "answer2"], None),
        ("Of answer1 and answer2, the answer is answer2, not answer1", ["answer1", "answer2"], "answer2"),
        ("It is true.", ["true", "false"], "true"),
        ("untrue", ["true", "false"], None),
        ("", ["true", "false"], None),
        ("A bird sings", ["A", "B"], None),
        ("B", ["A", "B"], "B"),
        ("b.", ["A", "B"], None),
        ("(B)", ["A", "B"], "B"),
        ("(A) 3 (B) 4, so the answer is (B).", ["A", "B"], "B"),
        ("The answer is B because", ["A", "B"], "B"),
        ("Options: A) 3 B) 4", ["A", "B"], None),
        ("the answer is a lot", ["A", "B"], None),
    ],
)
def test_find_option(text: str, options: list[str], found: str | None) -> None:
    assert find_option(text, options) == found
