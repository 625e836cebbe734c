"""Process scores: gold is 1, each fault costs exactly its share, hostile text neither crashes nor runs."""

from __future__ import annotations

import math
import random
import re
import time
from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from infosteer.errors import ConfigError, DataError
from infosteer.lab.reasoning import (
    Settings,
    draw_problem,
    parse_solution,
    pass_at_k,
    process_accuracy,
    reward,
    reward_function,
    score,
    verified_correct,
)
from infosteer.lab.reasoning.linear import Linear
from infosteer.lab.reasoning.parse import compute

GOLD = (
    " Define owls in Foxmoor as U; so U = 3. Define deer in Foxmoor as u; so u = 5. "
    "Define hares in Elkridge as h; so h = 2. "
    "Define animals in Foxmoor as B; d = U + u = 3 + 5 = 8; so B = d + h = 8 + 2 = 10. "
    "Define bears in Elkridge as y; so y = 2 * h = 2 * 2 = 4. "
    "Define wolves in Pinewood as w; so w = B - y = 10 - 4 = 6. </solution> <answer> 6 </answer>"
)
STEPS = re.findall(r"Define .*?\.(?= )", GOLD)


def drawn(count: int = 60) -> list:
    wanted = Settings(operations=(1, 8), contexts="ABC", reverse=0.4)
    return [draw_problem(random.Random(f"scores/{index}"), wanted) for index in range(count)]


def test_the_gold_solution_scores_one_and_parses_to_the_graph() -> None:
    for problem in drawn(200):
        found = parse_solution(problem.completion)
        assert {name: (step.parents, step.value) for name, step in found.steps.items()} == problem.gold
        assert process_accuracy(problem.completion, problem.completion) == 1.0
        assert verified_correct(problem.completion, problem.completion)


def test_temporary_letters_are_folded_into_the_step_that_uses_them() -> None:
    step = parse_solution(GOLD).steps["animals in Foxmoor"]
    assert step.parents == {"owls in Foxmoor", "deer in Foxmoor", "hares in Elkridge"}
    assert step.value == Linear(0, 10)


def test_letters_are_case_sensitive() -> None:
    swapped = GOLD.replace("d = U + u", "d = u + u")
    assert process_accuracy(swapped, GOLD) == pytest.approx(1 - 1 / len(STEPS))


@pytest.mark.parametrize("place", range(len(STEPS)))
def test_one_wrong_value_costs_one_share(place: int) -> None:
    number = re.findall(r"\d+", STEPS[place])[-1]
    wrong = re.sub(rf"{number}\.$", f"{int(number) + 1}.", STEPS[place])
    assert wrong != STEPS[place]
    assert process_accuracy(GOLD.replace(STEPS[place], wrong), GOLD) == pytest.approx(1 - 1 / len(STEPS))


@pytest.mark.parametrize(
    ("old", "new"), [("U + u", "U + h"), ("2 * h", "2 * u"), ("B - y", "B - h"), ("d + h", "d + y")]
)
def test_one_wrong_dependency_costs_one_share(old: str, new: str) -> None:
    assert process_accuracy(GOLD.replace(old, new), GOLD) == pytest.approx(1 - 1 / len(STEPS))


def test_a_deleted_step_costs_its_share_and_those_of_steps_that_cite_it() -> None:
    cited = [1, 1, 2, 1, 1, 0]  # how many steps compute with each
    for step, children in zip(STEPS, cited, strict=True):
        left = process_accuracy(GOLD.replace(step, ""), GOLD)
        assert left == pytest.approx(1 - (1 + children) / len(STEPS))
    for problem in drawn():  # nothing cites the query of a forward problem
        if not problem.reverse:
            last = "Define" + problem.solution.rsplit("Define", 1)[1]
            left = process_accuracy(problem.completion.replace(last, ""), problem.completion)
            assert left == pytest.approx(1 - 1 / len(problem.gold))


def test_recomputed_children_cost_their_shares_too() -> None:
    wrong = GOLD.replace("h = 2. ", "h = 3. ").replace("d + h = 8 + 2 = 10", "d + h = 8 + 3 = 11")
    wrong = wrong.replace("2 * h = 2 * 2 = 4", "2 * h = 2 * 3 = 6").replace("B - y = 10 - 4 = 6", "B - y = 11 - 6 = 5")
    assert process_accuracy(wrong, GOLD) == pytest.approx(1 - 4 / len(STEPS))


def test_extra_steps_are_free_and_order_does_not_matter() -> None:
    extra = GOLD.replace(" Define owls", " Define owls in Nowhere as Q; so Q = 9. Define owls", 1)
    assert process_accuracy(extra, GOLD) == 1
    assert verified_correct(extra, GOLD)
    swapped = f" {STEPS[1]} {STEPS[2]} {STEPS[0]} " + GOLD.split(STEPS[2])[1]
    assert verified_correct(swapped, GOLD)


def test_the_right_answer_by_a_wrong_way_is_not_verified() -> None:
    wrong = GOLD.replace("2 * h = 2 * 2 = 4", "2 * h = 2 * 2 = 5")
    assert not verified_correct(wrong, GOLD)
    assert score(wrong, GOLD).answer
    assert not verified_correct(GOLD.replace("<answer> 6", "<answer> 7"), GOLD)
    assert process_accuracy(GOLD.replace("<answer> 6", "<answer> 7"), GOLD) == 1


@pytest.mark.parametrize(
    "ending", ["", "<answer> </answer>", "<answer> 6 </answer> <answer> 7 </answer>", "<answer> ٦ </answer>"]
)
def test_an_answer_that_is_missing_or_given_twice_is_wrong(ending: str) -> None:
    assert not score(GOLD.split("<answer>")[0] + ending, GOLD).answer


def test_a_step_defined_twice_counts_as_it_was_last() -> None:
    again = GOLD.replace(" </solution>", f" {STEPS[4].replace('= 4.', '= 5.')} </solution>")
    assert score(again, GOLD).wrong == 1
    first_wrong = GOLD.replace(STEPS[4], STEPS[4].replace("= 4.", "= 5.") + " " + STEPS[4])
    assert score(first_wrong, GOLD).verified


def test_reverse_mode_keeps_lines_and_checks_the_solving_step() -> None:
    problem = next(p for p in drawn(300) if p.reverse and "2 * x + " in p.solution)
    assert parse_solution(problem.completion).steps["Solve"].value == (0, problem.answer)
    left = problem.completion.replace("2 * x + ", "3 * x + ")
    assert process_accuracy(left, problem.completion) < 1
    without = problem.completion.split("Solve")[0] + f"</solution> <answer> {problem.answer} </answer>"
    assert process_accuracy(without, problem.completion) == pytest.approx(1 - 1 / len(problem.gold))
    assert not verified_correct(without, problem.completion)


def tokens(text: str) -> list[str]:
    return re.findall(r"[a-z]+|\d+|[-+*()]", text)


@given(
    st.recursive(st.integers(0, 99).map(str), lambda e: st.builds("( {} {} {} )".format, e, st.sampled_from("+-*"), e))
)
def test_expressions_agree_with_pythons_own_arithmetic(text: str) -> None:
    """Brackets come from the generator, so Python's evaluation of this text (the test's own) is exact and safe."""
    expected = int(Fraction(eval(text)))
    found = compute(tokens(text), {})
    assert found is None or found == (0, expected)
    assert found is not None or abs(expected) > 10**9 or text.count("(") > 20 or len(text) > 300


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2 + 3 * 4 - 1", (0, 13)),
        ("- 3 + 5", (0, 2)),
        ("2 * ( x + 3 ) - x", (1, 6)),
        ("x * x", None),
        ("2 +", None),
        ("2 3", None),
        ("( 2", None),
        ("9999999999", None),
        ("999999999 * 999999999 * 999999999", None),
        ("", None),
        ("q", None),
        ("( " * 60 + "1" + " )" * 60, None),
    ],
)
def test_expressions(text: str, value: tuple[int, int] | None) -> None:
    assert compute(tokens(text), {}) == value


WORDS = [
    "Define",
    "Solve",
    "as",
    ";",
    ".",
    "=",
    "+",
    "-",
    "*",
    "(",
    ")",
    "so",
    "U",
    "u",
    "x",
    "7",
    "9" * 5000,
    "²",
    "__",
]
WORDS += ["owls in Foxmoor", "</solution>", "<answer>", "</answer>", "6", "\n", "\x00", "import os", "**", "/", "0"]


@settings(max_examples=300)
@given(st.one_of(st.text(max_size=300), st.lists(st.sampled_from(WORDS), max_size=60).map(" ".join)))
@example("Define a as b; so b = b = b; c = c; so b = c.")
@example("Define owls in Foxmoor as U; so U = __import__('os').system('false').")
@example("Solve; so x = . Define as ; = ; Define as as as;")
def test_garbage_never_crashes_the_parser(text: str) -> None:
    found = score(text, GOLD)
    assert 0 <= found.process <= 1
    for kind in ("outcome", "process", "mixed", "strict"):
        assert 0 <= reward(text, GOLD, kind=kind) <= 1
    assert 0 <= reward(GOLD[: len(GOLD) // 2] + text, GOLD, gated=True) <= 1


def test_nothing_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins
    import os

    called: list[str] = []
    for where, name in ((builtins, "eval"), (builtins, "exec"), (os, "system")):
        monkeypatch.setattr(where, name, lambda *a, name=name, **k: called.append(name))
    text = GOLD.replace("so U = 3", "so U = __import__('os').system('touch x') = open('x') = 3 ** 9 ** 9 ** 9 = 3")
    assert process_accuracy(text, GOLD) <= 1
    assert not called


@pytest.mark.parametrize(
    "piece",
    ["Define a as b ; ", "Define a as ", "( ", "- ", "U = ", "so " * 3, "<answer> ", " ", "1 + ", "Solve x ", "as "],
)
def test_long_texts_take_little_time(piece: str) -> None:
    text = (piece * 40_000)[:200_000]
    started = time.process_time()
    score(text, GOLD)
    score("Define a as b; so b = " + text, GOLD)
    assert time.process_time() - started < 5


def test_rewards() -> None:
    wrong = GOLD.replace("2 * h = 2 * 2 = 4", "2 * h = 2 * 2 = 5")  # answer right, 5 of 6 steps
    off = GOLD.replace("<answer> 6", "<answer> 7")  # answer wrong, all steps
    for text, outcome, process in ((GOLD, 1, 1), (wrong, 1, 5 / 6), (off, 0, 1), ("", 0, 0)):
        assert reward(text, GOLD, kind="outcome") == outcome
        assert reward(text, GOLD, kind="process") == pytest.approx(process)
        assert reward(text, GOLD) == pytest.approx(0.2 * outcome + 0.8 * process)
        assert reward(text, GOLD, a=0.7) == pytest.approx(0.7 * outcome + 0.3 * process)
        assert reward(text, GOLD, kind="strict") == (outcome if process == 1 else 0)
    extra = wrong.replace(" Define owls", " Define owls in Nowhere as Q; so Q = 9. Define owls", 1)
    assert reward(off, GOLD, gated=True) == 0
    assert reward(GOLD, GOLD, gated=True) == 1
    assert reward(extra, GOLD, gated=True) == pytest.approx(0.2 + 0.8 * (1 - 2 / 6))
    assert reward("<answer> 6 </answer>", GOLD, gated=True) == pytest.approx(0.2)


def test_the_reward_function_takes_what_trl_passes() -> None:
    function = reward_function(kind="process")
    chat = [[{"role": "assistant", "content": GOLD}]]
    assert function(prompts=["a", "b"], completions=[GOLD, ""], answer=[GOLD, GOLD], other=[1, 2]) == [1.0, 0.0]
    assert function(prompts=["a"], completions=chat, answer=[GOLD]) == [1.0]


def test_bad_settings_and_gold_are_said_plainly() -> None:
    for wrong in ({"kind": "best"}, {"a": 2.0}, {"kind": "strict", "gated": True}):
        with pytest.raises(ConfigError):
            reward(GOLD, GOLD, **wrong)
        with pytest.raises(ConfigError):
            reward_function(**wrong)
    for gold in ("", "6", "Define a b as U; so U = 3."):
        with pytest.raises(DataError, match="no worked solution"):
            score(GOLD, gold)


def test_pass_at_k_is_the_share_of_draws_that_hit() -> None:
    for n in range(1, 9):
        for c in range(n + 1):
            for k in range(1, n + 1):
                exact = 1 - Fraction(math.comb(n - c, k), math.comb(n, k))
                assert pass_at_k(n, c, k) == pytest.approx(float(exact), abs=1e-12)
    assert pass_at_k(100_000, 1, 16) == pytest.approx(16 / 100_000)
    assert pass_at_k(10_000, 5_000, 10_000) == 1.0
    for bad in ((4, 5, 1), (4, -1, 1), (4, 2, 0), (4, 2, 5)):
        with pytest.raises(ConfigError):
            pass_at_k(*bad)
