"""Arms with settings of their own: what they may say, what they come to, and that trainings use it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml

from infosteer.errors import ConfigError
from infosteer.experiments.preview import preview
from infosteer.experiments.recipe import load_recipe
from infosteer.experiments.run import run

ARMS: dict[str, Any] = {
    "plain": [],
    "slow": {"train": {"learning_rate": 1e-5}},
    "adapter": {"methods": [{"method": "key_lift"}], "train": {"peft": {"r": 2}}},
    "noisy": {"data": {"options": {"questions": 2}}},
}


def recipe(**changes: Any) -> dict[str, Any]:
    return {
        "data": {"train": "lab:facts", "options": {"people": 7}},
        "train": {"peft": {"dropout": 0.5}},
        "arms": ARMS,
        "evaluate": {"id": "lab:facts/new_people"},
        **changes,
    }


def test_an_arms_own_keys_are_put_into_the_recipes() -> None:
    loaded = load_recipe(recipe())
    assert loaded.train_for("plain") == loaded.train
    assert loaded.train_for("slow").learning_rate == 1e-5
    peft = loaded.train_for("adapter").peft
    assert peft is not None
    assert (peft.r, peft.dropout) == (2, 0.5), "mappings are merged key by key"
    assert loaded.data_for("noisy").options == {"people": 7, "questions": 2}
    assert loaded.data_for("slow") == loaded.data
    assert loaded.settings_of("adapter")["methods"][0]["method"] == "key_lift"
    assert loaded.settings_of("adapter")["train"]["peft"]["r"] == 2


def test_null_takes_the_adapter_away() -> None:
    loaded = load_recipe(recipe(arms={"all": {"train": {"peft": None}}}))
    assert loaded.train_for("all").peft is None


def test_the_resolved_recipe_says_the_same(tmp_path: Path) -> None:
    loaded = load_recipe(recipe())
    config = loaded.to_config()
    assert config["arms"]["plain"] == [], "an arm of methods only stays a list"
    assert config["arms"]["slow"] == {"methods": [], "train": {"learning_rate": 1e-5}}
    assert config["arms"]["adapter"]["train"] == {"peft": {"r": 2}}, "no default of the recipe is written into the arm"
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    assert load_recipe(path) == loaded


def test_the_baseline_is_the_arm_without_settings_of_its_own() -> None:
    assert load_recipe(recipe(arms={"slow": ARMS["slow"], "plain": []})).baseline == "plain"
    assert load_recipe(recipe(arms={"adapter": ARMS["adapter"], "slow": ARMS["slow"]})).baseline == "slow"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("slow: {trian: {learning_rate: 1}}", ("'train'", "r.yaml:4", "arms.slow.trian")),
        ("slow: {train: {learning_rat: 1}}", ("'learning_rate'", "r.yaml:4", "arms.slow.train.learning_rat")),
        ("slow: {train: {peft: {rr: 1}}}", ("arms.slow.train.peft.rr",)),
        ("slow: {train: {learning_rate: -1}}", ("arms.slow.train.learning_rate", "> 0")),
        ("slow: {train: {learning_rate: .nan}}", ("finite",)),
        ("slow: {train: {stage: pretrain}}", ("fine-tuning",)),
        ("slow: {train: {packing: true, max_length: null}}", ("sequence length", "arms.slow")),
        ("slow: {train: 3}", ("arms.slow.train", "a mapping")),
        ("slow: {data: {option: {}}}", ("'options'",)),
        ("slow: {data: {train: []}}", ("training rows",)),
        ("slow: {methods: [{method: key_lift, fracton: 1}]}", ("'fraction'", "r.yaml:4")),
        ("slow: {evaluate: {}}", ("arms.slow.evaluate",)),
        ("slow: [key_lift]", ("arms.slow[0]", "a mapping")),
        ("slow: 5", ("arms.slow", "a list")),
    ],
)
def test_wrong_arms_are_refused_with_their_place(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(f"data: {{train: lab:facts}}\nevaluate: {{id: lab:facts/new_people}}\narms:\n  {text}\n")
    with pytest.raises(ConfigError) as caught:
        load_recipe(path)
    for word in words:
        assert word in str(caught.value)


def test_overrides_reach_into_arms_of_both_kinds() -> None:
    changes = [
        "arms.adapter[0].fraction=0.2",
        "arms.plain.train.max_steps=3",
        "arms.new.train.learning_rate=2e-3",
        "arms.v1.5.train.max_steps=5",
    ]
    arms = {**ARMS, "v1.5": [{"method": "key_lift"}]}
    loaded = load_recipe(recipe(arms=arms), changes)
    assert loaded.arms["adapter"].methods[0]["fraction"] == 0.2
    assert loaded.train_for("plain").max_steps == 3
    assert loaded.train_for("new").learning_rate == 2e-3
    assert loaded.train_for("v1.5").max_steps == 5, "names may hold dots"
    assert len(loaded.arms["v1.5"].methods) == 1
    with pytest.raises(ConfigError, match="No such list entry"):
        load_recipe(recipe(), ["arms.plain[0].fraction=1"])


def test_an_arm_is_trained_with_its_own_settings(inputs: Path, tmp_path: Path) -> None:
    few = tiny.write_rows(tmp_path / "few.jsonl", count=5)
    arms = {
        "plain": [],
        "same": {"train": {"learning_rate": 1e-3}},
        "slow": {"train": {"learning_rate": 1e-7, "max_steps": 2}},
        "few": {"data": {"train": str(few)}},
    }
    path = run(tiny.recipe(inputs, arms=arms, seeds=[3]), tmp_path / "run")
    found = {arm: json.loads((path / "outcomes" / arm / "seed-3.json").read_text()) for arm in arms}
    assert found["same"]["examples"] == found["plain"]["examples"], "the same settings are the same bits"
    assert found["slow"]["examples"] != found["plain"]["examples"]
    assert [found[arm]["train"]["steps"] for arm in arms] == [4, 4, 2, 4]
    assert [found[arm]["train"]["rows"] for arm in arms] == [24, 24, 24, 5]
    assert found["slow"]["settings"]["train"]["learning_rate"] == 1e-7
    results = json.loads((path / "results.json").read_text())
    assert results["settings"]["few"]["data"]["train"] == str(few)
    assert results["settings"]["slow"] == found["slow"]["settings"]
    assert {row["baseline"] for row in results["comparisons"]} == {"plain"}


def test_the_preview_shows_what_differs(inputs: Path, tmp_path: Path) -> None:
    few = tiny.write_rows(tmp_path / "few.jsonl", count=5)
    arms = {"plain": [], "few": {"data": {"train": str(few)}, "train": {"learning_rate": 1e-7}}}
    summary = preview(load_recipe(tiny.recipe(inputs, arms=arms)), 0)["summary"]
    assert "few: plain (train.learning_rate=1e-07, data.train=" in summary["arms"]
    assert summary["rows of few"].startswith("5, ")
