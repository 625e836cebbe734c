"""The two rules of answers: the suite's against the published regular expressions, the strict one against cases."""

from __future__ import annotations

import random
import re

import pytest

from infosteer.evaluation.extract import judge
from infosteer.evaluation.rules import strict_number, strict_option, suite_number, suite_option

PIECES = [
    *("true", "false", "True", "untrue", "answer1", "answer2", "answer5", "answer12", "solution1", "solution2"),
    *("ending1", "ending4", "option1", "option2", "the correct answer is", "A", "B", "C", "E", "(D)", "Because", "a"),
    *("3", "-3", "1,234.5", "10-5", "$7.", "0.001", "٣", "4.", "1e3", "x2", ",", ".", "\n", " ", "####", "\\boxed{8}"),
]

# What the published scripts look for, by task.
PUBLISHED = {
    "boolq": (("true", "false"), "true|false"),
    "piqa": (("solution1", "solution2"), "solution1|solution2"),
    "siqa": (("answer1", "answer2", "answer3"), "answer1|answer2|answer3|answer4|answer5"),
    "arc": (("answer1", "answer2", "answer3", "answer4"), "answer1|answer2|answer3|answer4|answer5"),
    "hellaswag": (("ending1", "ending2", "ending3", "ending4"), "ending1|ending2|ending3|ending4"),
    "winogrande": (("option1", "option2"), "option1|option2"),
    "aqua": (("A", "B", "C", "D", "E"), "A|B|C|D|E"),
}


def made_up(count: int) -> list[str]:
    draw = random.Random(5)
    return [draw.choice(["", " "]).join(draw.choices(PIECES, k=draw.randrange(7))) for _ in range(count)]


@pytest.mark.parametrize("task", PUBLISHED)
def test_the_suites_options_are_those_of_the_published_scripts(task: str) -> None:
    options, pattern = PUBLISHED[task]
    read = 0
    for text in made_up(3000):
        found = re.findall(pattern, text.strip())
        assert suite_option(text, options) == (found[0] if found else None), text
        read += bool(found)
    assert read > 300


def test_the_suites_numbers_are_those_of_the_published_script() -> None:
    read = 0
    for text in made_up(6000):
        found = re.findall(r"-?\d+\.?\d*", text.replace(",", ""))
        assert suite_number(text) == (float(found[-1]) if found else None), text
        for label in ("-5", "3.0005", "8", "1234.5"):
            right = bool(found) and abs(float(label) - float(found[-1])) <= 0.001
            assert judge(text, {"answer": label}, "number").correct == right, (text, label)
        read += bool(found)
    assert read > 1000


def test_a_failure_to_read_is_never_right() -> None:
    """The published script answers infinity where there is no number; here nothing is read, and it is counted."""
    assert suite_number("no number") is None
    assert suite_number("9" * 400) is None
    assert not judge("9" * 400, {"answer": "9"}, "number").correct
    for text in ("", "no idea", "maybe"):
        verdict = judge(text, {"answer": "true", "options": ["true", "false"]}, "option")
        assert (verdict.extracted, verdict.correct, verdict.strict.extracted) == (None, False, None)


@pytest.mark.parametrize(
    ("text", "suite", "strict"),
    [
        ("the correct answer is answer2", "answer2", "answer2"),
        ("The correct answer is: Answer2.", None, "answer2"),
        ("answer2", "answer2", "answer2"),
        ("answer1 answer2", "answer1", None),
        ("answer1 is wrong; the correct answer is answer2", "answer1", "answer2"),
        ("the correct answer is answer1. No, the correct answer is answer2", "answer1", None),
        ("the correct answer is answer1, answer2", "answer1", "answer1"),
        ("the correct answer is answer22", "answer2", None),
        ("the correct answer is not known: answer1", "answer1", None),
        ("the correct answer is answer5", "answer5", None),
        ('the correct answer is option "answer2"', "answer2", "answer2"),
        ("", None, None),
    ],
)
def test_options_by_both_rules(text: str, suite: str | None, strict: str | None) -> None:
    options = ["answer1", "answer2"]
    assert (suite_option(text, options), strict_option(text, options)) == (suite, strict)
    verdict = judge(text, {"answer": "answer2", "options": options}, "option")
    assert (verdict.correct, verdict.strict.correct) == (suite == "answer2", strict == "answer2")


@pytest.mark.parametrize(
    ("text", "suite", "strict"),
    [
        ("The answer is (C).", "C", "C"),
        ("Because A is too small, the answer is (C).", "B", "C"),
        ("Answer: C", "A", "C"),
        ("C", "C", "C"),
        ("(B) 12 or (C) 14", "B", None),
        ("I think it is option (D)", "D", "D"),
        ("the answer is 62 m", None, None),
        ("a b c d e", None, None),
    ],
)
def test_letters_by_both_rules(text: str, suite: str | None, strict: str | None) -> None:
    assert (suite_option(text, "ABCDE"), strict_option(text, "ABCDE")) == (suite, strict)


@pytest.mark.parametrize(
    ("text", "suite", "strict"),
    [
        ("9 * 2 = 18. The answer is 18.", 18, 18),
        ("The answer is 18. He has 3 left over.", 3, 18),
        ("The answer is $1,234.50.", 1234.5, 1234.5),
        ("#### 72", 72, 72),
        ("The answer is \\boxed{-4}.", -4, -4),
        ("So the answer is therefore\n\\boxed{5}", 5, 5),
        ("The answer is 5. The answer is 6.", 6, None),
        ("The answer is 5. #### 5", 5, 5),
        ("The answer is 5 or 6.", 6, None),
        ("The answer is 2 + 3 = 5.", 5, 5),
        ("The answer is unknown. 7", 7, None),
        ("There are 3 cats. They have 12 legs.", 12, 12),
        ("3 cats have 12 legs", 12, None),
        ("3 * 4 = 12", 12, 12),
        ("10-5", -5, None),
        ("no number at all", None, None),
        ("", None, None),
    ],
)
def test_numbers_by_both_rules(text: str, suite: float | None, strict: float | None) -> None:
    assert (suite_number(text), strict_number(text)) == (suite, strict)


def test_tolerance_is_the_suites() -> None:
    assert judge("0.333", {"answer": "0.3333333"}, "number").correct
    assert not judge("0.33", {"answer": "0.3333333"}, "number").correct
    large = judge("The answer is 3000000001", {"answer": "3000000000"}, "number")
    assert (large.correct, large.strict.correct) == (False, True)


@pytest.mark.parametrize(
    ("text", "loose", "strict"),
    [
        (" signs of winter", True, False),
        ("signs", True, True),
        ("The answer is: the Signs.", True, True),
        ("signsof", False, False),
        ("omens", True, True),
        ("no signs", False, False),
        ("", False, False),
    ],
)
def test_phrases_by_both_rules(text: str, loose: bool, strict: bool) -> None:
    verdict = judge(text, {"answer": "signs", "aliases": ["Omens"]}, "phrase")
    assert (verdict.correct, verdict.strict.correct) == (loose, strict)
    assert (verdict.extracted is None) == (not text)


def test_hostile_predictions_are_judged_in_time() -> None:
    """50 kB of anything ends in a verdict; nothing of it is ever run."""
    for text in (
        "answer is " * 5000,
        "(" * 50_000,
        "1" * 50_000,
        "= 1 " * 12_000,
        "__import__('os')",
        "\u202etrue\x00",
    ):
        for row, scoring in (
            ({"answer": "5"}, "number"),
            ({"answer": "true", "options": ["true", "false"]}, "option"),
            ({"answer": "A", "options": list("ABCDE")}, "option"),
            ({"answer": "x"}, "phrase"),
        ):
            verdict = judge(text, row, scoring)  # type: ignore[arg-type]
            assert verdict.strict is not None
