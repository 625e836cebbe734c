"""Recipes: what is accepted, what is refused and how, and that the resolved form means the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from infosteer.errors import ConfigError
from infosteer.experiments.library import find_recipe, shipped_recipes
from infosteer.experiments.recipe import Recipe, load_recipe
from infosteer.experiments.sweep.drive import plan_of

GOOD: dict[str, Any] = {
    "data": {"train": "lab:facts"},
    "arms": {"plain": [], "lift": [{"method": "key_lift", "fraction": 0.02}]},
    "evaluate": {"id": "lab:facts/new_people"},
}


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    return path


def changed(**changes: Any) -> dict[str, Any]:
    return {**GOOD, **changes}


def test_defaults_are_the_papers() -> None:
    train = load_recipe(GOOD).train
    assert (train.learning_rate, train.num_train_epochs, train.warmup_steps, train.weight_decay) == (5e-5, 1, 100, 0.01)
    assert (train.max_length, train.per_device_train_batch_size, train.gradient_accumulation_steps) == (256, 4, 16)
    assert (train.max_grad_norm, train.gradient_checkpointing) == (1.0, True)


def test_the_resolved_recipe_reloads_to_the_same(tmp_path: Path) -> None:
    recipe = load_recipe(changed(train={"peft": {"r": 4}, "report_to": ["none"]}, seeds=[3, 4]))
    path = write(tmp_path, yaml.safe_dump(recipe.to_config(), sort_keys=False))
    again = load_recipe(path)
    assert again == recipe
    assert again.arms["lift"].methods[0]["alpha"] == 1.0, "methods are written out with their defaults"


def test_overrides_are_yaml_values() -> None:
    overrides = [
        "train.learning_rate=1e-4",
        "seeds=[1,2]",
        "arms.lift[0].fraction=0.25",
        "evaluate.id.limit=5",
        "train.peft.r=2",
        "arms.reg=[{method: key_entropy}]",
        "train.max_length=null",
        "train.bf16=false",
    ]
    recipe = load_recipe(GOOD, overrides)
    assert recipe.train.learning_rate == 1e-4
    assert recipe.seeds == (1, 2)
    assert recipe.arms["lift"].methods[0]["fraction"] == 0.25
    assert recipe.evaluate["id"].limit == 5
    assert recipe.train.peft is not None
    assert recipe.train.peft.r == 2
    assert list(recipe.arms) == ["plain", "lift", "reg"]
    assert recipe.train.max_length is None
    assert recipe.train.bf16 is False


@pytest.mark.parametrize("override", ["train.learning_rate", "=3", "arms.lift[4].fraction=1", "seeds.x.y=1", "a=[1"])
def test_bad_overrides_are_refused(override: str) -> None:
    with pytest.raises(ConfigError):
        load_recipe(GOOD, [override])


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ("trian: {}", "train"),
        ("train: {learning_rat: 1}", "learning_rate"),
        ("train: {peft: {alhpa: 1}}", "alpha"),
        ("data: {train: lab:facts, formt: x}", "format"),
        ("evaluate: {id: {sorce: x}}", "source"),
        ("arms: {lift: [{method: key_lift, fracton: 1}]}", "fraction"),
        ("arms: {lift: [{method: key_lfit}]}", "key_lift"),
    ],
)
def test_unknown_keys_name_the_nearest_and_the_file(tmp_path: Path, text: str, nearest: str) -> None:
    base = {key: yaml.safe_dump({key: value}) for key, value in GOOD.items()}
    base[text.partition(":")[0]] = text + "\n"
    path = write(tmp_path, "".join(base.values()))
    with pytest.raises(ConfigError) as caught:
        load_recipe(path)
    assert f"'{nearest}'" in str(caught.value)
    assert "r.yaml" in str(caught.value)


def test_errors_name_the_line(tmp_path: Path) -> None:
    path = write(
        tmp_path, "data:\n  train: lab:facts\ntrain:\n  learning_rate: fast\narms: {a: []}\nevaluate: {x: y}\n"
    )
    with pytest.raises(ConfigError, match=r"r\.yaml:4, key train\.learning_rate"):
        load_recipe(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"train": {"learning_rate": 0}},
        {"train": {"learning_rate": ".nan"}},
        {"train": {"num_train_epochs": -1}},
        {"train": {"per_device_train_batch_size": 1.5}},
        {"train": {"per_device_train_batch_size": True}},
        {"train": {"packing": "yes please"}},
        {"train": {"stage": "dpo"}},
        {"train": {"packing": True, "max_length": None}},
        {"train": []},
        {"seeds": []},
        {"seeds": [1, 1]},
        {"seeds": [-1]},
        {"seeds": "1"},
        {"seeds": [2**32]},
        {"arms": {}},
        {"arms": {"../up": []}},
        {"arms": {"a b": []}},
        {"arms": {"a": [{"fraction": 0.1}]}},
        {"arms": {"a": ["key_lift"]}},
        {"arms": {"a": [{"method": "key_lift", "fraction": 1.5}]}},
        {"arms": {"a": [{"method": "key_lift", "fraction": "many"}]}},
        {"evaluate": {}},
        {"evaluate": {"a/b": "lab:facts/recall"}},
        {"evaluate": {"a": 3}},
        {"data": {}},
        {"data": "lab:facts"},
        {"data": {"train": 7}},
        {"model": None},
        {"name": "../evil"},
    ],
)
def test_wrong_values_are_config_errors(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        load_recipe(changed(**changes))


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)
)


@pytest.mark.parametrize(
    "text",
    [
        "data: !!python/object/apply:os.system ['true']\n",
        "data: !!python/name:os.system\n",
        BOMB,
        "a: &a {b: *a}\n",
        "[" * 5000,
        "arms: {a: [}\n",
        "- just\n- a list\n",
        "just text\n",
        "",
        "seeds: [1]\nseeds: [2]\n",
        "\t- x\n",
        "? [a, b]\n: 1\n",
        "data: {train: \x00}\n",
    ],
)
def test_hostile_yaml_is_refused_shortly(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(write(tmp_path, text))
    assert len(str(caught.value)) < 2000


def test_bytes_that_are_no_text_and_huge_files_are_refused(tmp_path: Path) -> None:
    binary = tmp_path / "b.yaml"
    binary.write_bytes(b"\xff\xfe\x00data")
    huge = tmp_path / "h.yaml"
    huge.write_bytes(b"# " + b"x" * 1_100_000)
    for path in (binary, huge, tmp_path):
        with pytest.raises(ConfigError):
            load_recipe(path)


def test_a_missing_recipe_names_the_nearest_shipped_one() -> None:
    with pytest.raises(ConfigError, match="'demo'"):
        find_recipe("dmeo")


def test_numbers_as_people_write_them(tmp_path: Path) -> None:
    text = yaml.safe_dump(GOOD) + "train: {learning_rate: 2e-4, weight_decay: 1E-2}\n"
    train = load_recipe(write(tmp_path, text)).train
    assert (train.learning_rate, train.weight_decay) == (2e-4, 1e-2)


def test_relative_paths_are_found_from_here_or_from_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rows.jsonl").write_text("{}\n")
    recipe = {**GOOD, "data": {"train": "rows.jsonl"}}
    path = write(tmp_path, yaml.safe_dump(recipe))
    assert load_recipe(path).data.train == str(tmp_path / "rows.jsonl")
    other = tmp_path / "elsewhere"
    (other / "suite").mkdir(parents=True)
    monkeypatch.setenv("INFOSTEER_DATA", str(other))
    recipe["data"] = {"train": "../shared/data/suite"}
    assert load_recipe(recipe).data.train == str(other / "suite")


def test_the_baseline_is_the_plain_arm() -> None:
    assert load_recipe(changed(arms={"x": [{"method": "key_lift"}], "p": []})).baseline == "p"
    assert load_recipe(changed(arms={"x": [{"method": "key_lift"}], "y": [{"method": "key_entropy"}]})).baseline == "x"


SINGLE = [name for name in shipped_recipes() if not name.endswith("-pretrain") and not name.startswith("paper/")]


@pytest.mark.parametrize("name", SINGLE)
def test_every_shipped_recipe_is_valid(name: str) -> None:
    recipe = load_recipe(name)
    assert isinstance(recipe, Recipe)
    assert recipe.name == name
    assert recipe.description
    common = [m for m in recipe.arms[recipe.baseline].methods if all(m in arm.methods for arm in recipe.arms.values())]
    assert list(recipe.arms[recipe.baseline].methods) == common, "the baseline has nothing of its own"
    assert plan_of(name)[0].recipe == recipe, "a sweep can be planned, too"
