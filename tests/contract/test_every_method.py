"""The contract of every method folder: its card, its recipe, and its settings in words."""

from __future__ import annotations

import pytest
import yaml
from every import every_method
from world import KEYS, make, settings_of

import infosteer
from infosteer.core.registry import build_method, describe_method, method_info, read_card
from infosteer.core.surfaces import SURFACES
from infosteer.errors import ConfigError

HEADINGS = ("What it does", "Formula", "Settings", "Interactions", "Measured effect", "Deviations")


def test_the_first_three_folders_are_found() -> None:
    assert {"interventions/key_lift", "params/protect_memory", "penalties/key_entropy"} <= set(KEYS)
    assert infosteer.list_methods("penalties/*") == [key for key in KEYS if key.startswith("penalties/")]
    assert infosteer.list_methods("key_*") == [key for key in KEYS if key.split("/")[1].startswith("key_")]


@every_method
def test_folder_card_and_recipe(key: str) -> None:
    info = method_info(key)
    assert len((info.folder / "__init__.py").read_text().splitlines()) <= 15
    assert issubclass(info.cls, SURFACES[info.surface])
    facts, body = read_card(info.card)
    assert facts["status"] in ("stable", "experimental")
    for heading in HEADINGS:
        assert f"\n## {heading}\n" in body, heading
    for field, help_text in info.fields.items():
        assert f"`{field}`" in body, f"the card does not mention the setting {field}"
        assert help_text, f"{field} has no help text"
    assert settings_of(key)["method"] in (info.name, info.key)


@every_method
def test_recipe_validates(key: str) -> None:
    from infosteer.experiments.recipe import load_recipe

    recipe = load_recipe(str(method_info(key).recipe))
    assert len(recipe.arms) >= 2


@every_method
def test_config_round_trip(key: str) -> None:
    method = make(key, strength={"points": [[0, 0.5], [10, 1.0]]})
    again = build_method(yaml.safe_load(yaml.safe_dump(describe_method(method))))
    assert again == method
    assert again.to_config() == method.to_config()


@every_method
def test_unknown_setting_names_the_nearest(key: str) -> None:
    with pytest.raises(ConfigError, match="did you mean 'strength'"):
        make(key, strenght=1.0)
    for wrong in (-1, float("nan"), "much", True, None):
        with pytest.raises(ConfigError):
            make(key, strength=wrong)
    with pytest.raises(ConfigError, match=r"preset|unknown key"):
        make(key, preset="best-of-all")
