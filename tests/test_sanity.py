"""Sanity experiments of single methods: cards say what the results say, and every script runs in a slice."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tests.scripts import load_script

ROOT = Path(__file__).parents[1]


@pytest.fixture
def sanity() -> ModuleType:
    return load_script("sanity")


def test_a_slice_of_grafting_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_script("sanity"), "EVIDENCE", tmp_path)
    script = load_script("sanity_grafting")
    short = {"DENSITIES": (0.01,), "TUNERS": {"SGD": (1.0, 2), "AdamW": (2e-3, 2)}, "ROWS": 64, "BATCH": 8, "TEST": 16}
    for key, value in short.items():
        monkeypatch.setattr(script, key, value)
    monkeypatch.setattr(sys, "argv", ["grafting", "--seeds", "1", "--steps", "2"])
    script.main()
    found = json.loads((tmp_path / "grafting" / "results.json").read_text())["conditions"]
    assert len(found) == 8
    arms = {row["arm"] for row in found["tuned by SGD; masks that begin with 1 % of the layers' weights"]["summary"]}
    assert arms == {"tuned", "base", "learned", "all but the learned", "movement", "random", "magnitude"}


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
        ("galore", ("AdamW", "GaLore d/16"), {"GALORE_RATES": (5e-3,), "RATES": (2e-3,)}, ["--steps", "2"]),
        ("recadam", ("plain", "recadam"), {"SETTINGS": {"max_steps": 1}, "PEOPLE": 2}, ["--held-out", "4"]),
        ("instruction_modelling", ("plain", "weight_0.1"), {"CONDITIONS": {"long": (8, 2)}}, ["--held-out", "4"]),
        ("ditto", ("plain", "lambda 0.5"), {"TUNING": {"max_steps": 2}}, ["--steps", "2"]),
        ("phf", ("plain", "conditional"), {}, ["--steps", "10"]),
        ("base_divergence", ("plain", "square, 1"), {"THEN": {"max_steps": 1}, "THINGS": 8}, ["--steps", "2"]),
        ("stability_gap", ("all, once", "I+II+III"), {"EVERY": 2}, ["--steps", "4"]),
        (
            "spectrum",
            ("spectrum", "mode"),
            {"PRETRAINING": {"max_steps": 1}, "HELD_OUT": 2, "SAMPLES": 2},
            ["--tasks", "12"],
        ),
        ("demo_position", ("slot sum",), {"MAPS": 1}, ["--steps", "2"]),
        (
            "latent_perturbation",
            ("LAPT, lambda 0.5",),
            {"THEN": {"max_steps": 1}},
            ["--steps", "2", "--asked", "2", "--attacked", "2"],
        ),
    ],
)
def test_a_slice_of_each_runs(
    name: str, arms: tuple[str, ...], changes: dict[str, Any], arguments: list[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(load_script("sanity"), "EVIDENCE", tmp_path)
    script = load_script(f"sanity_{name}")
    monkeypatch.setattr(script, "ARMS", {arm: script.ARMS[arm] for arm in arms})
    for key, value in changes.items():
        monkeypatch.setattr(script, key, value)
    monkeypatch.setattr(sys, "argv", [name, "--seeds", "1", *arguments])
    script.main()
    (found,) = json.loads((tmp_path / name / "results.json").read_text())["conditions"].values()
    assert set(arms) <= {row["arm"] for row in found["summary"]}


def test_a_slice_of_markers_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its arms are asked in several ways."""
    monkeypatch.setattr(load_script("sanity"), "EVIDENCE", tmp_path)
    script = load_script("sanity_markers")
    monkeypatch.setattr(script, "BATCH", 4)
    monkeypatch.setattr(sys, "argv", ["markers", "--seeds", "1", "--steps", "2", "--tests", "2"])
    script.main()
    (found,) = json.loads((tmp_path / "markers" / "results.json").read_text())["conditions"].values()
    arms = {row["arm"] for row in found["summary"]}
    assert arms == {"no markers"} | {f"{arm} {mode}" for arm in ("50/50", "0/50") for mode in script.MODES}


def test_a_slice_of_what_ditto_writes_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_script("sanity"), "EVIDENCE", tmp_path)
    script = load_script("sanity_ditto")
    monkeypatch.setattr(script, "WRITTEN", {"max_steps": 1, "samples": 4, "tokens": 6})
    monkeypatch.setattr(sys, "argv", ["ditto", "--written", "--seeds", "1", "--steps", "2"])
    script.main()
    (found,) = json.loads((tmp_path / "ditto" / "results.json").read_text())["conditions"].values()
    assert {row["arm"] for row in found["summary"]} == {"plain", "before", "lambda 0.5"}
    assert {"MAUVE, greedy", "MAUVE, top-p 0.9", "rep-4, held-out texts"} <= {row["metric"] for row in found["summary"]}


def test_a_slice_of_the_attacks_runs_beside_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sanity = load_script("sanity")
    monkeypatch.setattr(sanity, "EVIDENCE", tmp_path)
    before = {"plain": {1: {"loss": [1.0]}}}
    sanity.write("phf", {"an earlier condition": before}, {"command": "none"}, 0.0)
    script = load_script("sanity_phf")
    arms = {arm: script.ATTACKED[arm] for arm in ("plain", "conditional, learnt reward")}
    for key, value in {"ATTACKED": arms, "ROUNDS": 1, "PROMPTS": 2, "SAMPLES": 2}.items():
        monkeypatch.setattr(script, key, value)
    monkeypatch.setattr(sys, "argv", ["phf", "--attacked", "--seeds", "1", "--steps", "2"])
    script.main()
    results = json.loads((tmp_path / "phf" / "results.json").read_text())
    assert list(results["conditions"]) == ["an earlier condition", "2 steps, then attacked"]
    assert results["about"]["command"] == "none"
    assert results["about"]["2 steps, then attacked"]["rounds"] == 1
    assert {row["arm"] for row in results["conditions"]["2 steps, then attacked"]["summary"]} == set(arms)
