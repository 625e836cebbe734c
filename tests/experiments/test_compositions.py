"""Shipped compositions: all methods of the full arm together, two steps on the embedded base; each leaves its trace."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from infosteer.experiments.recipe import load_recipe
from infosteer.experiments.run import run

# Composition -> what its full arm logs: a trace of every part that logs, and the number of its methods.
TRACES = {
    "lean-even-marked": (["infosteer/galore/matrices", "infosteer/penalty", "infosteer/entropy"], 3),
    "read-only-sequences": (["infosteer/protect_memory/frozen_weights", "infosteer/spectrum/nll_first"], 4),
}


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
