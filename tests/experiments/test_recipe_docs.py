"""The pages about recipes and the command line say what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import reference
import typer
import yaml
from typer.core import TyperGroup

from infosteer import errors
from infosteer.cli.main import app
from infosteer.experiments.parts import parts_of
from infosteer.experiments.recipe import load_recipe
from infosteer.experiments.source import Source

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_key_tables_are_those_of_the_dataclasses() -> None:
    page = reference.PAGE.read_text()
    assert page == reference.page_with_keys(page), "run python tests/experiments/reference.py"


def test_the_recipes_on_the_page_are_valid() -> None:
    first, second, third = re.findall(r"```yaml\n(.*?)```", reference.PAGE.read_text(), re.DOTALL)
    recipe = load_recipe(yaml.safe_load(first))
    assert list(recipe.arms) == ["plain", "intervention", "regularisation", "both"]
    recipe = load_recipe(yaml.safe_load(second))
    assert recipe.train_for("lower_rate").learning_rate == 1e-4
    parts = parts_of(yaml.safe_load(third), Source("page"), Path.cwd(), ["model=facts", "task=[few,many]"])
    assert [part.name for part in parts.chosen] == ["facts/few", "facts/many"]


def test_every_verb_and_option_is_on_the_page() -> None:
    page = (DOCS / "cli.md").read_text()
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    for name, command in group.commands.items():
        assert f"## `infosteer {name}" in page
        for parameter in command.params:
            for option in (o for o in parameter.opts if o.startswith("--") and o not in ("--help", "--json")):
                assert option in page, f"{option} of {name}"


@pytest.mark.parametrize(
    "kind", [errors.InfoSteerError, errors.ConfigError, errors.RunError, errors.NonFiniteLossError]
)
def test_the_error_has_a_page(kind: type[errors.InfoSteerError]) -> None:
    text = (DOCS / "errors" / f"{kind.page}.md").read_text()
    for heading in ("Symptom", "Cause", "Fix"):
        assert heading.lower() in text.lower()
