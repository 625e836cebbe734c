"""Recipes that extend others, and recipes in parts: what they come to, and what is refused."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import yaml

from infosteer.errors import ConfigError
from infosteer.experiments.library import put_over, read_recipe, shipped_folder, shipped_recipes
from infosteer.experiments.parts import Parts, covering, parts_of
from infosteer.experiments.recipe import load_recipe, read_raw
from infosteer.experiments.source import Source

BASE: dict[str, Any] = {
    "name": "base",
    "data": {"train": "lab:facts", "options": {"people": 40, "questions": 2}},
    "train": {"learning_rate": 1e-3},
    "arms": {"plain": []},
    "evaluate": {"id": "lab:facts/new_people"},
}
AXES: dict[str, Any] = {
    "model": {"facts": {}, "reasoning": {"model": "embedded:reasoning"}},
    "rate": {"low": {"train": {"learning_rate": 1e-4}}, "high": {"train": {"learning_rate": 1e-2}}, "same": {}},
}


def write(folder: Path, file: str, /, **keys: Any) -> Path:
    path = folder / f"{file}.yaml"
    path.write_text(yaml.safe_dump(keys, sort_keys=False))
    return path


def parts(*overrides: str, **changes: Any) -> Parts:
    data = {key: value for key, value in {**BASE, "parts": AXES, **changes}.items() if value is not None}
    return parts_of(data, Source("recipe"), Path.cwd(), overrides)


# -- extends --------------------------------------------------------------------------------------------------------


def test_a_recipe_is_put_over_what_it_extends(tmp_path: Path) -> None:
    write(tmp_path, "base", **BASE, description="of the base", seeds=[1, 2])
    write(
        tmp_path, "middle", extends="base.yaml", train={"num_train_epochs": 3}, arms={"lift": [{"method": "key_lift"}]}
    )
    top = write(tmp_path, "top", extends="middle.yaml", data={"options": {"people": None}}, seeds=[7])
    recipe = load_recipe(top)
    assert (recipe.name, recipe.description) == ("top", "")
    assert (recipe.train.learning_rate, recipe.train.num_train_epochs) == (1e-3, 3)
    assert list(recipe.arms) == ["plain", "lift"]
    assert recipe.data.options == {"questions": 2}, "a null takes a key away"
    assert recipe.seeds == (7,), "a list is replaced whole"


def test_a_shipped_recipe_is_extended_by_name(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, "mine", extends="demo", seeds=[9]))
    assert recipe.arms == load_recipe("demo").arms
    assert recipe.seeds == (9,)


def test_putting_over_changes_neither_side() -> None:
    base, changes = {"a": {"b": 1, "c": [1, 2]}}, {"a": {"c": [3]}, "d": None}
    assert put_over(base, changes) == {"a": {"b": 1, "c": [3]}}
    assert base == {"a": {"b": 1, "c": [1, 2]}}
    assert changes == {"a": {"c": [3]}, "d": None}


@pytest.mark.parametrize(
    "extends", ["b.yaml", "a.yaml", "nowhere.yaml", 3, "", ["a.yaml"], "list.yaml", "/etc/hostname"]
)
def test_what_cannot_be_extended_is_refused(tmp_path: Path, extends: Any) -> None:
    (tmp_path / "list.yaml").write_text("- a\n")
    write(tmp_path, "b", extends="a.yaml", **BASE)
    with pytest.raises(ConfigError):
        load_recipe(write(tmp_path, "a", **{**BASE, "extends": extends}))


def test_names_in_folders_and_files_that_are_no_recipes() -> None:
    names = shipped_recipes()
    assert "demo" in names
    assert "paper/table1" in names
    assert not [name for name in names if "_settings" in name or "_commonsense" in name]
    _, _, folder, name = read_recipe("paper/table4")
    assert name == "paper/table4"
    assert folder == shipped_folder(), "relative paths are those of the other shipped recipes"
    assert read_recipe(names["paper/table4"])[3] == "paper/table4", "by path, too"


# -- parts ----------------------------------------------------------------------------------------------------------


def test_parts_are_all_combinations_in_order() -> None:
    found = parts()
    assert [part.name for part in found.chosen] == [f"{m}/{r}" for m, r in itertools.product(*AXES.values())]
    by_name = {part.name: part.recipe for part in found.chosen}
    assert by_name["reasoning/low"].model == "embedded:reasoning"
    assert by_name["reasoning/low"].train.learning_rate == 1e-4
    assert by_name["facts/same"].train.learning_rate == 1e-3
    assert by_name["facts/same"].name == "base/facts/same"
    assert by_name["facts/same"].to_config() == load_recipe({**BASE, "name": "base/facts/same"}).to_config()


def test_overrides_choose_parts_or_change_all_of_them(tmp_path: Path) -> None:
    found = parts("rate=[high, low]", "model=facts", "train.learning_rate=5e-4", "seeds=[3]")
    assert [part.name for part in found.chosen] == ["facts/high", "facts/low"]
    assert {part.recipe.train.learning_rate for part in found.chosen} == {5e-4}
    assert {part.recipe.seeds for part in found.chosen} == {(3,)}
    assert [part.name for part in parts(only={"rate": "same"}).chosen] == ["facts/same", "reasoning/same"]
    assert [part.name for part in parts("rate=low", only={"rate": "same", "model": ["facts"]}).chosen] == ["facts/low"]
    own = parts("model=some/Other-1.5B", "rate=same").chosen[0]
    assert (own.name, own.recipe.model) == ("Other-1.5B/same", "some/Other-1.5B")


def test_a_cover_has_every_value_with_as_few_parts_as_the_longest_axis() -> None:
    for overrides in ((), ("rate=[low,high]",), ("model=facts",), ("rate=same", "model=reasoning")):
        found = parts(*overrides)
        kept = covering(found)
        for axis in found.axes:
            assert {part.place[axis] for part in kept} == {part.place[axis] for part in found.chosen}
        assert len(kept) == max(len({part.place[axis] for part in found.chosen}) for axis in found.axes)


@pytest.mark.parametrize(
    ("overrides", "changes", "match"),
    [
        (["rate=lwo"], {}, "'low'"),
        (["model=nothing"], {}, "hub id"),
        (["rate=[]"], {}, "No part is chosen"),
        (["train.learning_rte=1"], {}, "learning_rate"),
        ([], {"only": {"rte": "low"}}, "'rate'"),
        ([], {"parts": {}}, "at least one axis"),
        ([], {"parts": {"rate": {}}}, "no values"),
        ([], {"parts": {"rate": {"../up": {}}}}, "folder's name"),
        ([], {"parts": {"rate": {"a": {"parts": {}}}}}, "cannot have this key"),
        ([], {"parts": {"rate": {"a": {"sweep": {}}}}}, "cannot have this key"),
        ([], {"parts": {"rate": {"a": 3}}}, "wrong type"),
        ([], {"parts": {"rate": {"a": {"train": {"learning_rte": 1}}}}}, "in the part a"),
        ([], {"parts": {str(i): {str(j): {} for j in range(8)} for i in range(4)}}, "too many parts"),
        ([], {"sweep": {"grid": {"train.learning_rate": [1e-3]}}}, "cannot be a sweep"),
        ([], {"reproduces": {"paper": "x"}}, "table"),
        ([], {"reproduces": {"paper": "x", "table": 1, "tabel": 2}}, "tabel"),
    ],
)
def test_what_cannot_be_meant_is_refused(overrides: list[str], changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        parts(*overrides, **changes)


def test_only_run_and_validate_take_parts(tmp_path: Path) -> None:
    path = write(tmp_path, "many", **{key: value for key, value in BASE.items() if key != "name"}, parts=AXES)
    with pytest.raises(ConfigError, match="has parts"):
        load_recipe(path)
    data, source, folder = read_raw(path)
    assert parts_of(data, source, folder).name == "many"
