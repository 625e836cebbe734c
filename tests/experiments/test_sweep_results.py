"""What a sweep makes of its outcomes: choices, ceiling, families of comparisons, notes. Outcomes are made up here."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from infosteer.evaluation.multiple import adjust
from infosteer.evaluation.power import components, detectable
from infosteer.experiments.sweep.choose import candidates, choose
from infosteer.experiments.sweep.drive import plan_of
from infosteer.experiments.sweep.folder import SweepDir
from infosteer.experiments.sweep.plan import Plan, Row, distinct
from infosteer.experiments.sweep.results import write_results
from infosteer.experiments.table import tables

LR, EPOCHS = "train.learning_rate", "train.num_train_epochs"
ARMS: dict[str, Any] = {
    "plain": [],
    "lift": [{"method": "key_lift"}],
    "damped": [{"method": "key_lift", "fraction": 0.5}],
}
TUNE: dict[str, Any] = {"seeds": [11, 12], "metric": "id/exact_match"}
EXAMPLES = 200
Shares = Callable[[Row], dict[str, float] | None]


def plan(sweep: dict[str, Any], **changes: Any) -> Plan:
    sets = {"id": "lab:facts/new_people", "form": "lab:facts/new_form"}
    base = {"data": {"train": "lab:facts"}, "arms": ARMS, "seeds": [1, 2, 3, 4], "evaluate": sets, "sweep": sweep}
    return plan_of({**base, **changes})[0]


def fill(found: Plan, folder: SweepDir, rows: list[Row], shares: Shares) -> None:
    """Write an outcome for every row: a share of right answers for each set, or a failure for None."""
    for row in rows:
        wanted = shares(row)
        outcome: dict[str, Any] = {
            "schema": 1,
            "arm": row.trial.arm,
            "seed": row.seed,
            "ran": {"seconds": 2.0, "threads": 1, "host": "h", "process": 1},
        }
        if wanted is None:
            outcome |= {"status": "failed", "kind": "X", "error": "it broke\nbadly"}
        else:
            draw = np.random.default_rng([row.seed, len(row.arm)])
            answers = {
                name: [float(x) for x in draw.permutation(np.arange(EXAMPLES) < round(share * EXAMPLES))]
                for name, share in wanted.items()
            }
            outcome |= {
                "status": "finished",
                "metrics": {f"{name}/exact_match": sum(a) / EXAMPLES for name, a in answers.items()},
                "examples": {name: {"exact_match": a} for name, a in answers.items()},
                "sets": {name: {"failures": {}} for name in answers},
                "settings": row.trial.recipe.settings_of(row.trial.arm),
                "train": {"steps": 7, "loss": 0.5, "overlap": {}, "monitors": {"infosteer/entropy": 2.5}},
            }
        folder.trial(row.trial).write_outcome(outcome)


def finish(found: Plan, path: Path, shares: Shares) -> dict[str, Any]:
    """The results of a sweep whose outcomes are made up."""
    folder = SweepDir(path)
    fill(found, folder, found.tuning, shares)
    chosen = None
    if found.tuning:
        table = candidates(found, folder)
        assert table is not None
        chosen = {arm: one.cell for arm, one in choose(found, table).items()}
    fill(found, folder, found.final(chosen), shares)
    write_results(found, folder)
    return json.loads(folder.results_file.read_text())


def test_the_best_cell_is_chosen_and_the_first_on_a_tie(tmp_path: Path) -> None:
    found = plan({"grid": {LR: [1e-4, 2e-4, 3e-4]}, "tune": TUNE})
    means = {"plain": [0.5, 0.6, 0.6], "lift": [0.7, 0.7, 0.7], "damped": [0.1, 0.2, 0.3]}

    def shares(row: Row) -> dict[str, float]:
        place = found.cells[row.arm].index(row.cell)
        wobble = 0.05 if row.seed == 11 else -0.05
        return {"id": means[row.arm][place] + (wobble if row.phase == "tune" else 0), "form": 0.5}

    results = finish(found, tmp_path, shares)
    facts = results["sweep"]
    assert {arm: best["cell"][LR] for arm, best in facts["chosen"].items()} == {
        "plain": 2e-4,
        "lift": 1e-4,
        "damped": 3e-4,
    }
    assert facts["chosen"]["plain"]["score"] == pytest.approx(0.6)
    assert [row["scores"] for row in facts["tuning"]["rows"]][1] == {"11": 0.65, "12": 0.55}
    assert [row["chosen"] for row in facts["tuning"]["rows"]] == [
        False,
        True,
        False,
        True,
        False,
        False,
        False,
        False,
        True,
    ]
    edges = [note for note in results["notes"] if "may lie beyond" in note]
    assert [note.partition(":")[0] for note in edges] == ["lift", "damped"]
    assert facts["budget"]["lift"] == {
        "cells": 3,
        "tune_trials": 6,
        "tune_steps": 42,
        "final_trials": 4,
        "final_steps": 28,
    }


def test_a_cell_with_a_failed_trial_is_not_chosen(tmp_path: Path) -> None:
    found = plan({"grid": {LR: [1e-4, 2e-4]}, "tune": TUNE})

    def shares(row: Row) -> dict[str, float] | None:
        best = row.cell.get(LR) == 2e-4
        return None if row.arm == "lift" and best and row.seed == 12 else {"id": 0.9 if best else 0.2, "form": 0.5}

    results = finish(found, tmp_path, shares)
    assert {arm: best["cell"][LR] for arm, best in results["sweep"]["chosen"].items()} == {
        "plain": 2e-4,
        "lift": 1e-4,
        "damped": 2e-4,
    }
    (failure,) = results["failures"]
    assert (failure["phase"], failure["seed"], failure["cell"]) == ("tune", 12, {LR: 2e-4})


def test_the_baselines_cell_for_all(tmp_path: Path) -> None:
    found = plan({"grid": {LR: [1e-4, 2e-4, 3e-4]}, "tune": {**TUNE, "per_arm": False}})
    assert found.budget() == {"plain": 6, "lift": 0, "damped": 0}
    results = finish(found, tmp_path, lambda row: {"id": 0.9 if row.cell[LR] == 2e-4 else 0.2, "form": 0.5})
    assert {best["cell"][LR] for best in results["sweep"]["chosen"].values()} == {2e-4}
    assert list(results["sweep"]["chosen"]) == ["plain", "lift", "damped"]
    assert "only plain was tuned; all arms have its cell" in results["notes"]


def test_the_mean_of_several_metrics_chooses(tmp_path: Path) -> None:
    tune = {**TUNE, "metric": ["id/exact_match", "form/exact_match"]}
    found = plan({"grid": {LR: [1e-4, 2e-4]}, "tune": tune})
    results = finish(
        found, tmp_path, lambda row: {"id": 0.8, "form": 0.1} if row.cell[LR] == 1e-4 else {"id": 0.5, "form": 0.5}
    )
    assert {best["cell"][LR] for best in results["sweep"]["chosen"].values()} == {2e-4}
    assert results["sweep"]["primary"] == tune["metric"]


def test_nothing_is_ranked_where_the_baseline_is_at_its_ceiling(tmp_path: Path) -> None:
    found = plan({"primary": "form/exact_match"})
    results = finish(found, tmp_path, lambda row: {"id": 0.985, "form": 0.6 if row.arm == "plain" else 0.7})
    by_metric = {(row["arm"], row["metric"]): row for row in results["comparisons"]}
    held = by_metric["lift", "id/exact_match"]
    assert held["ranked"] is False
    assert held["reason"] == "the baseline is at 98.5 %, within 2 points of the ceiling"
    assert (held["p_holm"], held["p_bh"]) == (None, None)
    assert by_metric["lift", "form/exact_match"]["ranked"] is True
    console = Console(file=io.StringIO(), width=160)
    for part in tables(results):
        console.print(part)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert text.count("not ranked") == 2
    assert text.count("holm") == 2
    free = finish(plan({"ceiling": None}), tmp_path / "free", lambda row: {"id": 0.985, "form": 0.5})
    assert all(row["ranked"] for row in free["comparisons"])
    wide = finish(plan({"ceiling": 50}), tmp_path / "wide", lambda row: {"id": 0.985, "form": 0.5})
    assert [row["ranked"] for row in wide["comparisons"]] == [False, True] * 2, "exactly at the limit is ranked"


def test_p_values_are_corrected_within_their_family(tmp_path: Path) -> None:
    found = plan({"primary": "id/exact_match"})
    shares = {"plain": 0.5, "lift": 0.56, "damped": 0.52}
    results = finish(found, tmp_path, lambda row: {"id": shares[row.arm], "form": shares[row.arm] - 0.1})
    for metric, family in (("id/exact_match", "primary"), ("form/exact_match", "exact_match")):
        rows = [row for row in results["comparisons"] if row["metric"] == metric]
        assert [row["family"] for row in rows] == [family] * 2
        p_values = [row["p_value"] for row in rows]
        assert [row["p_holm"] for row in rows] == adjust(p_values, "holm")
        assert [row["p_bh"] for row in rows] == adjust(p_values, "bh")
    assert any("primary 2, exact_match 2" in note for note in results["notes"])


def test_power_is_that_of_the_table_of_differences(tmp_path: Path) -> None:
    found = plan({"primary": "id/exact_match"})
    results = finish(found, tmp_path, lambda row: {"id": 0.5 + 0.01 * len(row.arm) + 0.01 * row.seed, "form": 0.5})
    row = next(r for r in results["comparisons"] if (r["arm"], r["metric"]) == ("lift", "id/exact_match"))
    folder = SweepDir(tmp_path)
    scores: dict[str, list[list[float]]] = {"plain": [], "lift": []}
    for line in found.final():
        outcome = folder.outcome(line.trial)
        assert outcome is not None
        if line.arm in scores:
            scores[line.arm].append(outcome["examples"]["id"]["exact_match"])
    differences = np.array(scores["lift"]) - np.array(scores["plain"])
    assert row["n"] == 4
    assert row["detectable"] == pytest.approx(detectable(components(differences), 4))
    assert row["seeds_for_one_point"] is None or row["seeds_for_one_point"] > 4
    said = f"lift, id/exact_match: 4 seeds find {100 * row['detectable']:.1f} points in 80 of 100 studies; "
    assert sum(note.startswith(said) for note in results["notes"]) == 1


def test_results_on_the_way_say_what_is_missing(tmp_path: Path) -> None:
    found = plan({"grid": {LR: [1e-4, 2e-4]}, "tune": TUNE})
    folder = SweepDir(tmp_path)
    fill(found, folder, found.tuning[:5], lambda row: {"id": 0.5, "form": 0.5})
    results = write_results(found, folder)
    assert results["sweep"]["missing"] == len(distinct(found.tuning)) - 5
    assert results["sweep"]["chosen"] is None
    assert results["arms"] == []
    assert any("7 trials are not done" in note for note in results["notes"])


def test_cells_are_compared_with_the_baseline_of_the_same_cell(tmp_path: Path) -> None:
    grid = {EPOCHS: [1, 2], "arms.lift[0].fraction": [0.1, 0.2]}
    results = finish(
        plan({"grid": grid}, arms={"plain": [], "lift": ARMS["lift"]}),
        tmp_path,
        lambda row: {"id": 0.1 * row.cell[EPOCHS] + row.cell.get("arms.lift[0].fraction", 0.0), "form": 0.5},
    )
    found = {
        (row["arm"], row["baseline"]): round(row["difference"], 6)
        for row in results["comparisons"]
        if row["metric"] == "id/exact_match"
    }
    assert found == {
        (f"lift num_train_epochs={epochs}, fraction={fraction}", f"plain num_train_epochs={epochs}"): fraction
        for epochs in (1, 2)
        for fraction in (0.1, 0.2)
    }


def test_utilisation_is_over_the_facts_that_the_base_stores(tmp_path: Path) -> None:
    found = plan(
        {"grid": {LR: [1e-4, 2e-4]}, "tune": {**TUNE, "metric": "id/utilisation"}},
        evaluate_base=True,
        arms={"plain": []},
        seeds=[1],
        evaluate={"id": "lab:facts/new_people"},
    )
    folder = SweepDir(tmp_path)
    stored = [index % 4 == 0 for index in range(EXAMPLES)]
    answers = [float(index % 8 == 0) for index in range(EXAMPLES)]

    def shares(row: Row) -> dict[str, float]:
        return {"id": 0.5}

    (base,) = {row.base for row in found.tuning}
    assert base is not None
    for trial in (base, *{row.base for row in found.final({"plain": {LR: 1e-4}})}):
        assert trial is not None
        outcome = {
            "status": "finished",
            "arm": "base",
            "seed": 0,
            "metrics": {"id/exact_match": 0.25},
            "examples": {"id": {"exact_match": [float(known) for known in stored]}},
            "sets": {"id": {"failures": {}}},
            "stored": {"id": stored},
            "ran": {"seconds": 1.0, "threads": 1, "host": "h", "process": 1},
        }
        folder.trial(trial).write_outcome(outcome)
    fill(found, folder, found.tuning, shares)
    better = next(row for row in found.tuning if row.cell[LR] == 2e-4 and row.seed == 11)
    file = folder.trial(better.trial).outcome_file("arm", 11)
    outcome = json.loads(file.read_text())
    outcome["examples"]["id"]["exact_match"] = answers
    file.write_text(json.dumps(outcome))
    table = candidates(found, folder)
    assert table is not None
    assert table[1].scores[11] == 0.5, "half of the stored facts are used: 25 of 50"
    chosen = {arm: one.cell for arm, one in choose(found, table).items()}
    fill(found, folder, found.final(chosen), shares)
    results = write_results(found, folder)
    assert "id/utilisation" in results["arms"][1]["metrics"]
    assert {row["metric"] for row in results["summary"] if row["arm"] == "plain"} >= {"id/utilisation"}
    assert any("id 50 of 200" in note for note in results["notes"])
