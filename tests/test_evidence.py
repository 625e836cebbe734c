"""The evidence: its page says what the results say, a study can be carried on, and its recipe runs in a slice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from scipy.stats import spearmanr
from tests.scripts import load_script

from infosteer.experiments.sweep.drive import sweep

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def evidence() -> Iterator[ModuleType]:
    return load_script("evidence")


def test_the_page_says_what_the_results_say(evidence: ModuleType) -> None:
    text = evidence.PAGE.read_text(encoding="utf-8")
    assert evidence.PART.search(text), "the page has no generated part"
    assert evidence.render(text) == text, "run: python benchmarks/evidence.py"


def made_up(means: dict[str, float], pairs: dict[str, tuple[float, float, float, float, bool]]) -> dict[str, Any]:
    """Results of a sweep with one metric: arm -> mean; arm -> difference, low, high, corrected p, ranked."""
    metric = "new_people/exact_match"
    cell = {"train.learning_rate": 4e-4, "train.num_train_epochs": 8}
    return {
        "summary": [
            {"arm": arm, "metric": metric, "mean": mean, "low": mean - 0.1, "high": mean + 0.1, "n": 5}
            for arm, mean in means.items()
        ],
        "comparisons": [
            {
                "arm": arm, "baseline": "plain", "metric": metric, "difference": d, "low": low, "high": high,
                "p_value": p, "p_holm": p if ranked else None, "ranked": ranked, "detectable": 0.02,
                "seeds_for_one_point": 40,
            }
            for arm, (d, low, high, p, ranked) in pairs.items()
        ],
        "sweep": {
            "baseline": "plain",
            "primary": [metric],
            "keys": list(cell),
            "chosen": {arm: {"cell": cell, "score": 0.5} for arm in means if arm != "base"},
            "budget": {arm: {"tune_trials": 18} for arm in means},
            "tuning": {"seeds": [11, 12], "metrics": [metric]},
        },
    }  # fmt: skip


def test_tables_show_differences_with_intervals_and_what_is_sure(
    evidence: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = made_up(
        {"base": 0.0, "plain": 0.5, "up": 0.7, "same": 0.51, "down": 0.4, "high": 0.9},
        {
            "up": (0.2, 0.15, 0.25, 0.001, True),
            "same": (0.01, -0.02, 0.04, 0.6, True),
            "down": (-0.1, -0.15, -0.05, 0.002, True),
            "high": (0.4, 0.3, 0.5, 0.001, False),
        },
    )
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "results.json").write_text(json.dumps(results))
    monkeypatch.setattr(evidence, "EVIDENCE", tmp_path)
    study = evidence.Study("made")
    table = evidence.table(study)
    assert "| plain | 5 | 50.0 (40.0 to 60.0) |" in table
    assert "| up | 5 | **+20.0 (+15.0 to +25.0)** |" in table
    assert "| same | 5 | +1.0 (-2.0 to +4.0) |" in table
    assert "| high | 5 | +40.0 (+30.0 to +50.0) not ranked |" in table
    said = evidence.verdicts(study)
    assert "- better: up +20.0" in said
    assert "- worse: down -10.0" in said
    assert "- undecided: same +1.0" in said
    assert "high" not in said
    assert "| new people (ID) | 0.0 | 50.0 (40.0 to 60.0) | 2.0 | 40 |" in evidence.headroom(study)
    assert "| up | 0.0004 | 8 | 50.0 | 18 |" in evidence.chosen(study)
    evidence.forest(study, tmp_path / "forest.svg")
    first = (tmp_path / "forest.svg").read_bytes()
    evidence.forest(study, tmp_path / "forest.svg")
    assert (tmp_path / "forest.svg").read_bytes() == first, "the figure changes without its data"


def test_a_slice_of_the_main_table_runs_and_is_carried_on(
    evidence: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = yaml.safe_load((ROOT / "recipes" / "evidence-main.yaml").read_text(encoding="utf-8"))
    small = [
        "arms={plain: [], protect: [{method: protect_memory}]}",
        "seeds=[101, 102]",
        "train.max_steps=2",
        "sweep.grid={train.learning_rate: [2e-4, 4e-4]}",
        "sweep.tune.seeds=[11]",
        "sweep.tune.sets={new_people: {limit: 4}, new_form: {limit: 4}, new_attribute: {limit: 4}}",
        "sweep.workers=1",
        *(f"evaluate.{name}.limit=4" for name in recipe["evaluate"]),
    ]
    path = sweep("evidence-main", tmp_path / "sweep", overrides=small)
    results = json.loads((path / "results.json").read_text())
    assert results["sweep"]["missing"] == 0
    assert {row["arm"] for row in results["comparisons"]} == {"protect"}
    assert {"p_holm", "ranked", "detectable"} <= set(results["comparisons"][0])
    assert set(results["sweep"]["chosen"]) == {"plain", "protect"}
    monkeypatch.setattr(evidence, "EVIDENCE", tmp_path / "evidence")
    evidence.pack("main", path)
    first = (tmp_path / "evidence" / "main" / "trials.tar.xz").read_bytes()
    evidence.pack("main", path)
    assert (tmp_path / "evidence" / "main" / "trials.tar.xz").read_bytes() == first
    evidence.unpack("main", tmp_path / "again")
    outcomes = sorted(file.relative_to(path) for file in path.glob("trials/*/outcomes/*/*.json"))
    assert outcomes == sorted(
        file.relative_to(tmp_path / "again") for file in tmp_path.glob("again/trials/*/outcomes/*/*.json")
    )
    assert evidence.table(evidence.Study("main")).count("| protect |") == 1


def test_of_a_model_in_a_folder_the_results_alone_are_packed(
    evidence: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, model = tmp_path / "sweep", str(tmp_path / "runs" / "lab-gpt2" / "model")
    folder.mkdir()
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"model": model}))
    (folder / "results.json").write_text(json.dumps({"settings": {"model": model}}))
    monkeypatch.setattr(evidence, "EVIDENCE", tmp_path / "evidence")
    evidence.pack("family", folder)
    packed = tmp_path / "evidence" / "family"
    assert json.loads((packed / "results.json").read_text()) == {"settings": {"model": "lab-gpt2/model"}}
    assert [file.name for file in packed.iterdir()] == ["results.json"]


def test_a_committed_study_goes_on_where_it_stopped(evidence: ModuleType, tmp_path: Path) -> None:
    """All its trials are found again by today's code, so that nothing is trained twice."""
    folder = tmp_path / "confirm"
    evidence.unpack("confirm", folder)
    finished = len(list(folder.glob("trials/*/outcomes/*/*.json")))
    path = sweep("evidence-confirm", folder, update=True)
    assert len(list(folder.glob("trials/*/outcomes/*/*.json"))) == finished
    found, kept = (
        json.loads((place / "results.json").read_text(encoding="utf-8"))
        for place in (path, ROOT / "docs" / "evidence" / "confirm")
    )
    assert found["summary"] == kept["summary"]


def made_up_doses() -> dict[str, Any]:
    """Entropy rises with the dose; the gain follows the dose, and at one dose the seed's own luck, not entropy."""
    rng = np.random.default_rng(0)
    arms = []
    for seed in range(1, 7):
        for name, dose in (("plain", 0.0), ("lift fraction=0.1", 1.0), ("lift fraction=0.02", 0.5)):
            metrics = {
                "biographies/information_flux_nats": 5 + dose + 0.01 * rng.normal(),
                "new_people/exact_match": 0.5 + 0.2 * dose + 0.01 * rng.normal(),
            }
            arms.append({"arm": name, "seed": seed, "metrics": metrics})
    return {"arms": arms}


def test_mediation_tells_a_common_cause_from_a_path(evidence: ModuleType, tmp_path: Path) -> None:
    import evidence_dose as dose

    results = made_up_doses()
    names = list(dict.fromkeys(row["arm"] for row in results["arms"]))
    assert dose.doses(names) == {"lift": [(0.02, "lift fraction=0.02"), (0.1, "lift fraction=0.1")]}
    rows, metric = ["lift fraction=0.02", "lift fraction=0.1"], "new_people/exact_match"
    found = dose.mediation(results, "plain", rows, metric)
    entropy, gain = (dose.changes(results, "plain", name) for name in (dose.ENTROPY, metric))
    assert found["all"] == pytest.approx(spearmanr([entropy[k] for k in gain], [gain[k] for k in gain])[0])
    assert found["runs"] == 12
    assert found["all"] > 0.6
    assert found["within_low"] < 0 < found["within_high"], "nothing is left at one dose"
    for key in list(entropy):  # now a seed's gain is its entropy
        row = next(row for row in results["arms"] if (row["arm"], row["seed"]) == key)
        row["metrics"][metric] = row["metrics"][dose.ENTROPY] / 10
    plain = [row for row in results["arms"] if row["arm"] == "plain"]
    for row in plain:
        row["metrics"][metric] = row["metrics"][dose.ENTROPY] / 10
    assert dose.mediation(results, "plain", rows, metric)["within"] == pytest.approx(1.0)
    table = dose.mediation_table(results, "plain", names, {metric: "new people"})
    assert "| lift | 12 | +1.00 (+1.00 to +1.00); at one dose +1.00" in table
    pairs = {(row, metric): {"difference": 0.1, "low": 0.05, "high": 0.2} for row in rows}
    for place in (tmp_path / "a.svg", tmp_path / "b.svg"):
        dose.figure(pairs, names, {metric: ("new people", 100)}, "plain", place)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_the_descent_is_read_off_the_loss_and_where_it_does_not_end_the_table_says_so() -> None:
    script = load_script("evidence_descent")
    halving = [(10 * i, 4.0 * 0.5**i) for i in range(12)]  # below 1 after 20 steps, below 0.1 after log2(40) tens
    assert script.crossing(halving, 1.0) == pytest.approx(20.0)
    assert script.crossing(halving, 0.1) == pytest.approx(10 * np.log2(40))
    assert script.crossing(halving[:3], 0.1) is None
    assert script.crossing([(10, 0.5)], 1.0) == 10.0
    assert script.crossing([(10, 0.5), (20, 0.0)], 0.1) == 20.0
    ended = [("a", 1, 0.8, 30.0), ("a", 2, 0.7, 50.0), ("a", 3, 0.1, None), ("b", 1, 0.2, None)]
    rows = [{"arm": arm, "seed": seed, "score": score, "steps": n, "last": 0.01} for arm, seed, score, n in ended]
    table = script.descent_table({"trials": rows})
    assert "| a | 3 | 50 | 70.0 | not ended, 0.01, 10.0; 50, 0.01, 70.0 | -1.00 |" in table
    assert "| b | 1 | not ended | 20.0 | not ended, 0.01, 20.0 | +nan |" in table


def test_tokens_are_grouped_by_uncertainty_and_every_arm_has_a_line() -> None:
    script = load_script("evidence_where")
    values = torch.tensor([5.0, 1.0, 4.0, 2.0, 3.0, 0.0, 7.0, 6.0])
    assert [values[part].tolist() for part in script.groups(values)] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    changes = {"entropy": {"1": [0.1, 0.2, 0.3, 0.4], "2": [0.3, 0.2, 0.1, 0.0]}}
    found = {"uncertainty": [[0, 1], [2, 3], [4, 5], [6, 7]], "changes": changes}
    table = script.where_table({"texts": {"questions": found}})
    assert "| questions | entropy | +0.200 (+0.100 to +0.300) | +0.200 (+0.200 to +0.200) |" in table
    assert "| questions | (the base's uncertainty, nats) | 0.0 to 1.0 |" in table
