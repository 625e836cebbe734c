"""A run tells what of its evaluation sets it trained on, and what it scores on the rest; old outcomes stay readable."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tiny import recipe

from infosteer.evaluation.statistics import compare, summarise
from infosteer.experiments.contaminated import contamination_notes, contamination_of, with_clean_part
from infosteer.experiments.recipe import load_recipe
from infosteer.experiments.results import build_results, outcome_notes
from infosteer.experiments.run import run
from infosteer.experiments.table import tables
from infosteer.inspection.report.build import write_report

ASKED = ["What colour is the door?", "Who sings in the evening?", "How many boats are there?", "Where is the mill?"]


@pytest.fixture(scope="module")
def dirty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that trained on two of the four questions of its set, on one of them with another answer."""
    folder = tmp_path_factory.mktemp("dirty")
    config = recipe(folder, seeds=[1, 2])
    trained = [*(f"Question {i} of a training set" for i in range(10)), ASKED[0].upper(), f" {ASKED[2]}\n"]
    (folder / "train.jsonl").write_text(
        "".join(
            json.dumps({"prompt": text, "completion": "7" if "boats" in text else "red"}) + "\n" for text in trained
        )
    )
    (folder / "asked.jsonl").write_text("".join(json.dumps({"prompt": q, "answer": "red"}) + "\n" for q in ASKED))
    config["evaluate"] = {"asked": str(folder / "asked.jsonl"), "other": str(folder / "test.jsonl")}
    config["train"]["max_steps"] = 1
    return run(config, folder / "run")


def results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


def test_every_outcome_and_the_results_say_what_was_trained_on(dirty: Path) -> None:
    outcome = json.loads((dirty / "outcomes" / "plain" / "seed-1.json").read_text())
    own = outcome["sets"]["asked"]["contamination"]
    assert (own["examples"], own["normalised"], own["with_answer"], own["dirty"]) == (4, 2, 1, [0, 2])
    assert own["found"][0]["place"].endswith("asked.jsonl:3"), "the same text, so the strongest"
    assert own["found"][1]["trained_at"].endswith("train.jsonl:11")
    assert outcome["sets"]["other"]["contamination"]["dirty"] == []
    found = results(dirty)["contamination"]
    assert found["rule"]["covered_share"] == 0.7
    assert (found["sets"]["asked"]["trainings"], found["sets"]["asked"]["dirty"]) == (4, [0, 2])
    (note,) = [note for note in results(dirty)["notes"] if note.startswith("asked:")]
    assert "2 of 4 rows are dirty" in note
    assert "asked.jsonl:3, trained on at " in note


def test_clean_scores_are_those_of_the_other_rows(dirty: Path) -> None:
    scores: dict[str, dict[int, list[float]]] = {}
    for arm in ("plain", "lift"):
        for seed in (1, 2):
            outcome = json.loads((dirty / "outcomes" / arm / f"seed-{seed}.json").read_text())
            values = outcome["examples"]["asked"]["answer_nll"]
            scores.setdefault(arm, {})[seed] = [values[1], values[3]]
    clean = results(dirty)["contamination"]["clean"]
    row = next(r for r in clean["summary"] if (r["arm"], r["metric"]) == ("plain", "asked/answer_nll"))
    wanted = summarise(scores["plain"])
    assert (row["mean"], row["low"], row["high"]) == pytest.approx((wanted.mean, wanted.low, wanted.high))
    pair = next(r for r in clean["comparisons"] if r["metric"] == "asked/answer_nll")
    assert pair["p_value"] == pytest.approx(compare(scores["lift"], scores["plain"]).p_value)
    assert {row["metric"].partition("/")[0] for row in clean["summary"]} == {"asked"}
    assert not any("calibration" in row["metric"] for row in clean["summary"]), "it is of the whole set"


def test_tables_and_the_page_mark_the_set(dirty: Path) -> None:
    console = Console(file=io.StringIO(), width=200)
    for part in tables(results(dirty)):
        console.print(part)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "2 of 4 dirty" in text
    assert text.count("clean ") >= 4
    page = write_report(dirty).read_text()
    assert "2 of 4 dirty" in page
    assert "as they stand" in page
    assert "asked.jsonl:3" in page


def test_outcomes_from_before_are_readable(dirty: Path) -> None:
    config = load_recipe(dirty / "recipe.yaml")
    outcomes = [json.loads(file.read_text()) for file in sorted((dirty / "outcomes").glob("*/*.json"))]
    for outcome in outcomes:
        outcome["train"]["overlap"] = {"asked": 2}
        for facts in outcome["sets"].values():
            del facts["contamination"]
    found = build_results(config, outcomes, resamples=50)
    assert found["contamination"] == {}
    assert "asked: 2 of its questions are also trained on" in found["notes"]


def test_arms_share_one_clean_part() -> None:
    """Arms that trained on different rows are compared on the rows that are dirty in none."""

    def outcome(arm: str, dirty: list[int]) -> dict[str, Any]:
        match = {"place": "q:1", "trained_at": "t:1"}
        own = {
            "examples": 4, "exact": 0, "normalised": len(dirty), "with_answer": 0, "touched": 0, "covered": 0,
            "dirty": dirty, "found": [match] * bool(dirty),
        }  # fmt: skip
        return {"arm": arm, "seed": 1, "sets": {"q": {"contamination": own, "failures": {}}}, "train": {}}

    found = contamination_of([outcome("plain", [0]), outcome("lift", [1, 0])])
    assert found["q"]["dirty"] == [0, 1]
    assert found["q"]["normalised"] == 2
    scores = {arm: {1: {"q/exact_match": values, "q/calibration_error": [0.3], "r/nll": [1.0, 2.0]}}
              for arm, values in (("plain", [1.0, 1, 0, 0]), ("lift", [0.0, 0, 1, 1]))}  # fmt: skip
    clean = with_clean_part(found, scores, baseline="plain", resamples=100)["clean"]
    assert {(row["arm"], row["metric"], row["mean"]) for row in clean["summary"]} == {
        ("plain", "q/exact_match", 0.0),
        ("lift", "q/exact_match", 1.0),
    }
    assert clean["comparisons"][0]["difference"] == 1.0
    assert len(contamination_notes(found)) == 1
    everything = contamination_of([outcome("plain", [0, 1, 2, 3])])
    assert with_clean_part(everything, scores, baseline="plain", resamples=100)["clean"]["summary"] == []
    assert with_clean_part({}, scores, resamples=100) == {}
    assert outcome_notes([outcome("plain", [])]) == []
