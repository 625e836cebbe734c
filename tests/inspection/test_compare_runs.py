"""Runs against each other: the numbers of the statistics they rest on, what is shared, and what is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infosteer.errors import RunError
from infosteer.evaluation.statistics import compare
from infosteer.inspection.compare_runs import compare_runs, is_run, read_run

ROOT = Path(__file__).parents[2]


def scores(run: int, arm: str, seed: int, size: int = 40) -> list[float]:
    draw = np.random.default_rng([run, seed, len(arm)])
    return (draw.random(size) < 0.4 + 0.2 * run).astype(float).tolist()


def make_run(
    folder: Path, number: int, *, arms: tuple[str, ...] = ("plain", "lift"), seeds: tuple[int, ...] = (1, 2, 3),
    outcomes: bool = True, size: int = 40, rate: float = 1e-3,
) -> Path:  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(
        json.dumps({"name": folder.name, "train": {"learning_rate": rate}, "arms": {arm: [] for arm in arms}})
    )
    rows: list[dict[str, Any]] = [{"arm": "base", "seed": 0, "metrics": {"id/exact_match": 0.0}}]
    for arm in arms:
        for seed in seeds:
            values = scores(number, arm, seed, size)
            rows.append({"arm": arm, "seed": seed, "metrics": {"id/exact_match": float(np.mean(values))}})
            if outcomes:
                path = folder / "outcomes" / arm / f"seed-{seed}.json"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps({"arm": arm, "seed": seed, "status": "finished",
                                            "examples": {"id": {"exact_match": [*values[:-1], None]}}}))  # fmt: skip
    summary = [
        {"arm": arm, "metric": "id/exact_match", "mean": 0.5, "low": 0.4, "high": 0.6, "n": len(seeds)} for arm in arms
    ]
    results = {"schema": 1, "environment": {"packages": {"torch": f"2.{number}"}}, "arms": rows, "summary": summary}
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def test_paired_by_seed_and_example(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a", 0), make_run(tmp_path / "b", 1, seeds=(2, 3, 4), rate=2e-3)
    found = compare_runs([a, b], resamples=500)
    assert [(row["arm"], row["n"], row["paired_by"]) for row in found["comparisons"]] == [
        ("plain", 2, "seed and example"),
        ("lift", 2, "seed and example"),
    ]
    left, right = ({s: [*scores(n, "plain", s)[:-1], float("nan")] for s in (2, 3)} for n in (1, 0))
    wanted = compare(left, right, resamples=500)
    row = found["comparisons"][0]
    assert (row["difference"], row["low"], row["high"], row["p_value"]) == (
        wanted.difference, wanted.low, wanted.high, wanted.p_value,
    )  # fmt: skip
    assert row["difference"] > 0
    values = sorted(r["p_value"] for r in found["comparisons"])
    assert min(r["p_holm"] for r in found["comparisons"]) == pytest.approx(min(1, 2 * values[0]))
    assert max(r["p_bh"] for r in found["comparisons"]) == pytest.approx(values[1])
    (settings,) = found["settings"]
    assert "train.learning_rate: 0.001 -> 0.002" in settings["differences"]
    assert "packages.torch: 2.0 -> 2.1" in settings["differences"]
    assert {row["run"] for row in found["summary"]} == {"a", "b"}
    assert found["runs"][1]["seeds"] == [2, 3, 4]


def test_a_run_against_itself(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", 0)
    found = compare_runs([a, a / "results.json"], resamples=200)
    assert all(row["difference"] == row["low"] == row["high"] == 0 for row in found["comparisons"])
    assert found["settings"][0]["differences"] == []
    assert len({run["path"] for run in found["runs"]}) == 1


@pytest.mark.parametrize("changes", [{"outcomes": False}, {"size": 30}])
def test_without_examples_in_common_seeds_are_paired(tmp_path: Path, changes: dict[str, Any]) -> None:
    a, b = make_run(tmp_path / "a", 0), make_run(tmp_path / "b", 1, **changes)
    found = compare_runs([a, b], resamples=500)
    row = found["comparisons"][0]
    size = changes.get("size", 40)
    wanted = np.mean([np.mean(scores(1, "plain", s, size)) - np.mean(scores(0, "plain", s)) for s in (1, 2, 3)])
    assert row["paired_by"] == "seed"
    assert row["difference"] == pytest.approx(wanted)
    assert row["low"] < row["difference"] < row["high"]
    assert any("seeds alone" in note for note in found["notes"])


def test_one_seed_without_examples_has_no_interval(tmp_path: Path) -> None:
    a, b = (make_run(tmp_path / str(n), n, outcomes=False, seeds=(1,)) for n in (0, 1))
    row = compare_runs([a, b])["comparisons"][0]
    assert row["difference"] == pytest.approx(np.mean(scores(1, "plain", 1)) - np.mean(scores(0, "plain", 1)))
    assert row["low"] is row["high"] is row["p_value"] is row["p_holm"] is None


def test_single_arms_are_compared_whatever_their_names_and_several_runs_with_the_first(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a", 0, arms=("plain",)), make_run(tmp_path / "b", 1, arms=("lift",))
    c = make_run(tmp_path / "c", 1, arms=("plain", "other"))
    found = compare_runs([a, b, c], resamples=200)
    assert [(r["run"], r["arm"], r["reference_arm"]) for r in found["comparisons"]] == [
        ("b", "lift", "plain"),
        ("c", "plain", "plain"),
    ]
    assert len(found["settings"]) == 2


def test_hostile_runs(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", 0)
    with pytest.raises(RunError, match="two runs"):
        compare_runs([a])
    with pytest.raises(RunError, match="no such run"):
        compare_runs([a, tmp_path / "nowhere"])
    with pytest.raises(RunError, match="nothing in common"):
        compare_runs([a, make_run(tmp_path / "b", 1, arms=("x", "y"))])
    with pytest.raises(RunError, match="nothing in common"):
        compare_runs([a, make_run(tmp_path / "c", 1, seeds=(8, 9))])
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "recipe.yaml").write_text("arms: {plain: []}\n")
    with pytest.raises(RunError, match="no results"):
        compare_runs([a, tmp_path / "d"])
    broken = make_run(tmp_path / "e", 1)
    (broken / "outcomes" / "plain" / "seed-1.json").write_text('{"examples": {"id": {"exact_match": 3}}}')
    assert compare_runs([a, broken], resamples=100)["comparisons"][0]["paired_by"] == "seed"
    (broken / "results.json").write_text('{"schema": 9}')
    with pytest.raises(RunError, match="version"):
        compare_runs([a, broken])


def test_what_is_a_run(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", 0)
    assert is_run(a)
    assert is_run(a / "results.json")
    assert not is_run(a / "recipe.yaml")
    assert not is_run(tmp_path)
    assert not is_run(tmp_path / "nowhere")


def test_sets_of_one_name_and_other_rows_are_not_paired_by_example(tmp_path: Path) -> None:
    a, b = make_run(tmp_path / "a", 0), make_run(tmp_path / "b", 1)
    recipe = json.loads((b / "recipe.yaml").read_text())
    (b / "recipe.yaml").write_text(json.dumps({**recipe, "evaluate": {"id": {"data": "other.jsonl"}}}))
    found = compare_runs([a, b], resamples=100)
    assert found["comparisons"][0]["paired_by"] == "seed"
    assert any("same rows" in note for note in found["notes"])


def test_committed_studies() -> None:
    demo = ROOT / "docs/evidence/demo"
    found = compare_runs([demo, demo / "results.json"], resamples=100)
    assert {row["arm"] for row in found["comparisons"]} == set(read_run(demo).arms)
    with pytest.raises(RunError, match="nothing in common"):  # no seed in common
        compare_runs([demo, ROOT / "docs/evidence/lab-check"])
