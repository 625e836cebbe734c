"""Question and answer: no claim beyond the intervals, in every state that a run can be in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infosteer.evaluation import measures
from infosteer.inspection.report.answer import answer, corrected
from infosteer.inspection.report.gather import Run

METRIC = "exact_match"


def row(
    arm: str, name: str, difference: float, low: float, high: float, p: float, measure: str = METRIC
) -> dict[str, Any]:
    return {
        "arm": arm, "baseline": "plain", "metric": f"{name}/{measure}", "difference": difference, "low": low,
        "high": high, "p_value": p,
    }  # fmt: skip


def run(*rows: dict[str, Any], seeds: int = 3, failures: int = 0, finished: int | None = None) -> Run:
    arms = list(dict.fromkeys(["plain", *(r["arm"] for r in rows)]))
    done = [{"arm": arm, "seed": seed, "metrics": {}} for arm in arms for seed in range(1, seeds + 1)][:finished]
    results = {
        "arms": done,
        "summary": [],
        "comparisons": list(rows),
        "failures": [{"arm": "plain", "seed": 9, "error": "x"}] * failures,
        "notes": [],
    }
    recipe = {"arms": {arm: [] if arm == "plain" else [{}] for arm in arms}, "seeds": list(range(1, seeds + 1))}
    return Run(path=Path("runs/x"), recipe=recipe, results=results)


def test_no_difference_is_an_answer() -> None:
    found = answer(run(row("lift", "a", 0.02, -0.03, 0.07, 0.4), row("lift", "b", -0.01, -0.055, 0.02, 0.6)))
    assert found.question == "Does lift do better than plain?"
    assert found.answer == (
        "No difference from plain in right answers could be shown "
        "(the intervals leave room for anything from \u22125.5 to +7.0 points)."
    )
    assert found.caveats == ()


def test_a_difference_that_outlasts_the_correction() -> None:
    found = answer(
        run(
            row("lift", "a", 0.02, -0.03, 0.07, 0.4),
            row("lift", "b", 0.0, -0.02, 0.02, 1.0),
            row("freeze", "a", 0.084, 0.05, 0.12, 0.0005),
            row("freeze", "b", -0.05, -0.08, -0.02, 0.001),
        )
    )
    assert found.question == "Do lift or freeze do better than plain?"
    assert found.answer == (
        "In right answers, freeze was better than plain on a (+8.4 points, 95 % interval +5.0 to +12.0) and worse on b "
        "(\u22125.0 points, 95 % interval \u22128.0 to \u22122.0); for lift no difference could be shown."
    )


def test_a_hint_is_no_difference() -> None:
    rows = [row("lift", name, 0.05, 0.01, 0.09, 0.02) for name in "a"]
    rows += [row("lift", name, 0.0, -0.05, 0.05, 0.9) for name in "bcd"]
    found = answer(run(*rows)).answer
    assert found.startswith("No difference from plain in right answers could be shown")
    assert "1 hint (lift on a) does not outlast a correction for 4 comparisons" in found
    assert "better" not in found
    alone = answer(run(rows[0])).answer
    assert "lift was better than plain on a" in alone, "one comparison needs no correction"


def test_a_small_p_without_an_interval_apart_from_zero_claims_nothing() -> None:
    assert "better" not in answer(run(row("lift", "a", 0.05, -0.01, 0.09, 0.0001))).answer
    assert "better" not in answer(run(row("lift", "a", 0.05, 0.01, 0.09, 0.06))).answer


@pytest.mark.parametrize(
    ("measure", "difference", "word"),
    [("answer_nll", -0.2, "better"), ("answer_nll", 0.2, "worse"), ("nll", -1.0, "better"), ("surprise", 0.2, "higher"),
     ("exact_match", -0.2, "worse"), ("bits_per_byte", 0.2, "worse"), ("my_accuracy", 0.2, "better")],
)  # fmt: skip
def test_which_way_is_better(measure: str, difference: float, word: str) -> None:
    low, high = sorted((0.5 * difference, 1.5 * difference))
    assert f"lift was {word} than plain" in answer(run(row("lift", "a", difference, low, high, 0.001, measure))).answer


def test_right_answers_are_judged_before_losses() -> None:
    rows = [row("lift", "a", -0.5, -0.6, -0.4, 0.0001, "answer_nll"), row("lift", "a", 0.0, -0.1, 0.1, 1.0)]
    assert answer(run(*rows)).answer.startswith("No difference from plain in right answers")


def test_many_arms_stay_one_sentence() -> None:
    rows = [row(f"arm{i}", "a", 0.1 + i / 100, 0.05, 0.4, 1e-6) for i in range(30)]
    rows += [row(f"dud{i}", "a", 0.0, -0.1, 0.1, 1.0) for i in range(9)]
    found = answer(run(*rows))
    assert found.question == "Do 39 ways of training do better than plain?"
    assert "arm29 was better" in found.answer, "the largest first"
    assert "27 more differences could be shown" in found.answer
    assert "for the 9 other arms no difference could be shown" in found.answer
    assert len(found.answer) < 500
    assert len(re.findall(r"\.(?:\s|$)", found.answer)) == 1


def test_states_of_a_run() -> None:
    rows = [row("lift", "a", 0.0, -0.1, 0.1, 1.0)]
    assert any("One seed" in caveat for caveat in answer(run(*rows, seeds=1)).caveats)
    assert "Preliminary: 3 of the run's trainings are not finished." in answer(run(*rows, finished=3)).caveats
    assert any(caveat.startswith("1 failed: plain (seed 9)") for caveat in answer(run(*rows, failures=1)).caveats)
    alone = Run(path=Path("x"), recipe={"arms": {"plain": []}})
    assert answer(alone).answer == "There is one way of training, so nothing is compared."
    early = Run(path=Path("x"), recipe={"arms": {"plain": [], "lift": [{}]}})
    assert answer(early).answer == "Not known yet: no arm has been compared."
    assert answer(Run(path=Path("x"), recipe={})).question == "What did this run do?"


def test_rows_of_a_sweep() -> None:
    """Cells are rows, each with its own baseline, corrected p-values and, at the ceiling, no rank."""
    rows = [
        {
            **row("lift fraction=0.5", "a", 0.1, 0.05, 0.2, 0.001),
            "baseline": "plain lr=1",
            "p_holm": 0.01,
            "ranked": True,
        },
        {
            **row("lift fraction=0.1", "a", 0.1, 0.05, 0.2, 0.001),
            "baseline": "plain lr=2",
            "p_holm": 0.2,
            "ranked": True,
        },
        {
            **row("lift fraction=0.5", "b", 0.1, 0.05, 0.2, 0.001),
            "baseline": "plain lr=1",
            "p_holm": None,
            "ranked": False,
        },
    ]
    found = run(*rows)
    assert found.results is not None
    found.results["sweep"] = {"missing": ["one", "two"]}
    found.recipe["sweep"] = {"grid": {}}
    told = answer(found)
    assert told.question == "Do lift fraction=0.5 or lift fraction=0.1 do better than the baseline?"
    assert "lift fraction=0.5 was better than plain lr=1 on a (+10.0 points" in told.answer
    assert "1 hint (lift fraction=0.1 on a)" in told.answer
    assert "on b" not in told.answer
    assert "1 comparisons are not judged: their baseline is at the ceiling." in told.caveats
    assert "Preliminary: 2 of the run's trainings are not finished." in told.caveats
    at_ceiling = run(rows[2])
    assert answer(at_ceiling).answer == "No arm can be ranked: the baseline is at the ceiling."


def test_the_correction_is_holms() -> None:
    """Against the definition: p_(k) is the largest of (m - j) p_(j) over j <= k, at most 1."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        p = rng.uniform(0, 0.2, size=7)
        p[3] = p[5]  # a tie
        order = np.argsort(p, kind="stable")
        stepped = np.minimum(1, np.maximum.accumulate((7 - np.arange(7)) * p[order]))
        expected = np.empty(7)
        expected[order] = stepped
        assert corrected([{"p_value": value} for value in p]) == pytest.approx(expected)
    assert corrected([]) == []


def test_numbers_as_people_read_them() -> None:
    assert measures.show(0.1234, "exact_match") == "12.3"
    assert measures.show(-0.0001, "exact_match", sign=True) == "0.0", "no signed zero"
    assert measures.show(-0.5, "answer_nll", sign=True) == "\u22120.500"
    assert measures.split("a/b/exact_match") == ("a/b", "exact_match")
    assert measures.ordered(["nll", "odd", "exact_match", "nll"]) == ["exact_match", "nll", "odd"]
    assert measures.show_p(0.00004) == "<0.001"
