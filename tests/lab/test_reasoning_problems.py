"""Word problems: exact operation counts, one answer each, values in range, and splits that do not overlap."""

from __future__ import annotations

import itertools
import random
import re
import string

import pytest
from reasoning_reader import Story

from infosteer.errors import ConfigError
from infosteer.lab.reasoning import Settings, draw_problem, parse_solution, problem_at, problem_hash, problems, split_of
from infosteer.lab.reasoning.contexts import CONTEXTS


def drawn(count: int, **settings) -> list:
    wanted = Settings(**settings)
    return [draw_problem(random.Random(f"test/{index}"), wanted) for index in range(count)]


def operations_of(solution: str) -> int:
    """Binary operations of a trace: the signs of each formula in letters, and those of solving for x."""
    steps, _, solving = solution.partition("Solve ")
    count = 0
    for clause in re.split(r"[.;]", steps):
        sides = clause.split(" = ")
        if len(sides) > 2:
            count += len(re.findall(r" [-+*] ", f" {sides[1]} "))
    if solving:
        count += "* x" in solving  # a factor of x is divided by
        count += " - " in solving  # an offset is taken away
    return count


@pytest.mark.parametrize("key", CONTEXTS)
@pytest.mark.parametrize("operations", [1, 2, 3, 4, 5, 6, 7, 8, 12])
def test_the_number_of_operations_is_exact(key: str, operations: int) -> None:
    for reverse in (0.0, 1.0):
        for problem in drawn(8, operations=(operations, operations), contexts=key, reverse=reverse):
            assert operations_of(problem.solution) == problem.operations == operations
            assert problem.reverse == (reverse == 1 and operations > 1)


@pytest.mark.parametrize("key", CONTEXTS)
@pytest.mark.parametrize("reverse", [0.0, 1.0])
def test_the_story_has_one_answer_and_it_is_the_stated_one(key: str, reverse: float) -> None:
    for problem in drawn(150, operations=(1, 8), contexts=key, reverse=reverse):
        story = Story(problem.problem, problem.question, key)
        assert story.answers(20) == [problem.answer]
        if not problem.reverse:  # every step's value follows from the sentences too
            for name, (_, value) in problem.gold.items():
                assert (0, story.value(name)) == value


def test_values_and_intermediate_results_stay_in_range() -> None:
    for largest in (20, 9, 300):
        for problem in drawn(150, operations=(1, 6), contexts="ABC", reverse=0.3, largest=largest):
            numbers = [int(n) for n in re.findall(r"\d+", problem.problem + problem.solution)]
            assert max(numbers) <= largest
    assert any(n > 100 for n in numbers)


def test_totals_are_left_to_the_reader_in_some_contexts_and_spoken_in_another() -> None:
    found = dict.fromkeys(CONTEXTS, 0)
    for problem in drawn(300, operations=(3, 4), contexts="ABC"):
        story = Story(problem.problem, problem.question, problem.context)
        for name, (parents, _) in problem.gold.items():
            if name.split()[0] == CONTEXTS[problem.context].total:
                found[problem.context] += 1
                assert (name in story.relations) == CONTEXTS[problem.context].totals_spoken
                assert len(parents) >= 2
    assert min(found.values()) > 5


def test_distractors_are_told_and_not_needed() -> None:
    without = drawn(50, operations=(3, 3), contexts="B", distractors=0)
    some = drawn(200, operations=(3, 3), contexts="B", distractors=2)
    extra = [p.problem.count(".") - len(p.gold) for p in some]
    assert all(p.problem.count(".") == len(p.gold) for p in without)  # in context B every quantity has a sentence
    assert set(extra) == {0, 1, 2}


def test_letters_are_used_once_and_x_only_for_the_unknown() -> None:
    for problem in drawn(200, operations=(2, 8), contexts="ABC", reverse=0.5):
        letters = re.findall(r"as ([A-Za-z]);", problem.solution)
        assert len(set(letters)) == len(letters)
        assert ("x" in letters) == problem.reverse


def test_letters_follow_each_other_from_a_random_one_on() -> None:
    row = string.ascii_letters.replace("x", "")
    starts = set()
    for problem in drawn(200, operations=(1, 12), contexts="ABC", reverse=0.3):
        letters = re.findall(r"(?:as |; )([A-Za-z])(?=;| =)", problem.solution.partition("Solve")[0])
        letters = [letter for letter in letters if letter != "x"]
        places = [row.index(letter) for letter in letters]
        assert all((b - a) % len(row) == 1 for a, b in itertools.pairwise(places))
        starts.add(letters[0] if letters else "")
    assert len(starts) > 30


def test_the_same_seed_gives_the_same_problem() -> None:
    settings = Settings(contexts="ABC", reverse=0.2)
    for index in range(20):
        again = [problem_at(index, settings, seed=seed, split="tuning") for seed in (3, 3, 4)]
        assert again[0] == again[1] != again[2]
        assert parse_solution(again[0].completion).answer == again[0].answer


def take(count: int, settings: Settings, **where) -> list:
    stream = problems(settings, **where)
    return [next(stream) for _ in range(count)]


def test_splits_do_not_overlap_and_hold_no_problem_twice() -> None:
    """Few names and small numbers, so that without the rule hundreds of problems would meet."""
    settings = Settings(operations=(1, 1), contexts="A", distractors=0, largest=5)
    free = [draw_problem(random.Random(f"free/{index}"), settings) for index in range(400)]
    assert len({(p.problem, p.question) for p in free}) <= 400
    keys = {}
    for split in ("pretraining", "tuning", "evaluation"):
        found = [p for seed in (1, 2) for p in take(150, settings, seed=seed, split=split)]
        first = [problem_hash(p) for p in found[:150]]
        assert len(set(first)) == len(first)
        assert {split_of(problem_hash(p)) for p in found} == {split}
        # An own normalised key, not the hash: white space must not make another problem.
        keys[split] = {re.sub(r"\s+", " ", f"{p.problem}|{p.question}|{p.solution}").strip() for p in found}
    assert not keys["pretraining"] & keys["tuning"]
    assert not keys["pretraining"] & keys["evaluation"]
    assert not keys["tuning"] & keys["evaluation"]


def test_the_hash_ignores_white_space_and_nothing_else() -> None:
    from dataclasses import replace

    problem = drawn(1)[0]
    spaced = replace(problem, problem=problem.problem.replace(" ", "\n  "), question=f" {problem.question} ")
    other = replace(problem, solution=problem.solution.swapcase())
    assert problem_hash(spaced) == problem_hash(problem) != problem_hash(other)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"operations": (0, 3)}, "1 to 12"),
        ({"operations": (5, 3)}, "operations"),
        ({"operations": (1, 13)}, "1 to 12"),
        ({"contexts": "AZ"}, "A, B, C"),
        ({"contexts": ""}, "AB"),
        ({"reverse": 1.5}, "0 to 1"),
        ({"distractors": 9}, "distractors"),
        ({"largest": 2}, "5 to 10000"),
    ],
)
def test_impossible_settings_are_said_plainly(settings: dict, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings(**settings)
    assert words in str(caught.value)
