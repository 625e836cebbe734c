"""Shipped compositions: all methods of the full arm together, two steps on the embedded base; each leaves its trace."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
from tests.scripts import load_script

from infosteer.experiments.recipe import load_recipe
from infosteer.experiments.run import run

ROOT = Path(__file__).resolve().parents[2]

# Composition -> what its full arm logs: a trace of every part that logs, and the number of its methods.
TRACES = {
    "lean-even-marked": (["infosteer/galore/matrices", "infosteer/penalty", "infosteer/entropy"], 3),
    "read-only-sequences": (["infosteer/protect_memory/frozen_weights", "infosteer/spectrum/nll_first"], 4),
}


@pytest.fixture
def script() -> ModuleType:
    return load_script("compositions")


def test_the_page_says_what_the_results_say(script: ModuleType) -> None:
    text = script.PAGE.read_text(encoding="utf-8")
    assert len(script.PLACE.findall(text)) == 1
    assert script.render(text) == text, "run: python benchmarks/compositions.py --render"
    assert set(TRACES) == set(script.NAMES)


def test_a_table_holds_means_and_differences_from_plain(script: ModuleType) -> None:
    metrics, both = list(script.SHOWN), (("plain", 0.5), ("together", 0.6))
    results = {
        "environment": {"packages": {"torch": "1", "transformers": "2"}},
        "arms": [{"arm": arm, "seed": 4} for arm, _ in both],
        "summary": [{"arm": arm, "metric": m, "mean": mean} for arm, mean in both for m in metrics],
        "comparisons": [
            {"arm": "together", "baseline": "plain", "metric": m, "difference": 0.1, "low": -0.1, "high": 0.3}
            for m in metrics
        ],
    }
    lines = script.table("made up", results).splitlines()
    assert lines[2] == "| plain | 50.0 | 50.0 | 50.0 | 0.500 |"
    assert lines[3].startswith("| together | 60.0; +10.0 (-10.0 to +30.0) |")
    assert "over questions only" in lines[5]


@pytest.mark.parametrize("name", TRACES)
def test_a_composition_makes_two_steps(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    traces, count = TRACES[name]
    together = recipe.arms["together"].methods
    assert len(together) == count
    parts = [method for arm, one in recipe.arms.items() if arm != "together" for method in one.methods]
    assert all(method in parts for method in together), "each part stands in an arm of its own, with the same settings"
    changes = ["seeds=[71]", "train.max_steps=2", "train.per_device_train_batch_size=4", "train.logging_steps=1"]
    changes += [f"evaluate.{one}.limit=2" for one in recipe.evaluate]
    changes += [f"evaluate.{one}.max_new_tokens=4" for one in recipe.evaluate if one != "biographies"]
    own = {"methods": list(together), "train": dict(recipe.arms["together"].train)}
    changes.append(f"arms={json.dumps({'plain': [], 'together': own})}")
    path = run(name, tmp_path / "run", overrides=changes)
    results = json.loads((path / "results.json").read_text())
    assert not results["failures"]
    measured = {arm["arm"]: arm["metrics"] for arm in results["arms"]}
    assert measured["plain"]["biographies/nll"] != measured["together"]["biographies/nll"]
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    logged = set().union(*(line for line in lines if line.get("arm") == "together"))
    assert set(traces) <= logged
