"""Sanity experiments of single methods: cards say what the results say, and every script runs in a slice."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # the scripts import each other by name
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def sanity() -> ModuleType:
    return load("sanity")


def test_cards_say_what_the_results_say(sanity: ModuleType) -> None:
    for card in sanity.CARDS:
        text = card.read_text(encoding="utf-8")
        assert sanity.render(text) == text, f"{card}: run python benchmarks/sanity.py"


def test_tables_hold_means_intervals_and_differences(
    sanity: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sanity, "EVIDENCE", tmp_path)
    scores = {
        "plain": {seed: {"loss": [2.0 + 0.1 * seed, 2.2]} for seed in (1, 2, 3)},
        "changed": {seed: {"loss": [1.0 + 0.1 * seed, 1.2]} for seed in (1, 2, 3)},
    }
    path = sanity.write("made_up", {"a condition": scores}, {"command": "none"}, 0.0)
    results = json.loads(path.read_text())
    assert results["schema"] == 1
    assert len(results["conditions"]["a condition"]["arms"]) == 6
    card = "Before\n<!-- sanity: made_up -->\nBehind\n"
    filled = sanity.render(card)
    assert "| loss | 2.2 (" in filled
    assert "; -1 (-1 to -1) |" in filled
    assert "n = 3 seeds" in filled
    assert filled.endswith("<!-- sanity: end -->\nBehind\n")
    assert sanity.render(filled) == filled
    assert sanity.render("<!-- sanity: nothing -->\n") == "<!-- sanity: nothing -->\n"


@pytest.mark.parametrize(
    ("name", "arms", "changes", "arguments"),
    [
        ("instruction_modelling", ("plain", "weight_0.1"), {"CONDITIONS": {"long": (8, 2)}}, ["--held-out", "4"]),
        ("ditto", ("plain", "lambda 0.5"), {"TUNING": {"max_steps": 2}}, ["--steps", "2"]),
        ("phf", ("plain", "conditional"), {}, ["--steps", "10"]),
    ],
)
def test_a_slice_of_each_runs(
    name: str, arms: tuple[str, ...], changes: dict[str, Any], arguments: list[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(load("sanity"), "EVIDENCE", tmp_path)
    script = load(f"sanity_{name}")
    monkeypatch.setattr(script, "ARMS", {arm: script.ARMS[arm] for arm in arms})
    for key, value in changes.items():
        monkeypatch.setattr(script, key, value)
    monkeypatch.setattr(sys, "argv", [name, "--seeds", "1", *arguments])
    script.main()
    (found,) = json.loads((tmp_path / name / "results.json").read_text())["conditions"].values()
    assert set(arms) <= {row["arm"] for row in found["summary"]}
