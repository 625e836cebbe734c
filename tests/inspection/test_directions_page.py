"""The page's numbers are those of the committed results, and the script's statements are what they claim."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.scripts import load_script

from infosteer.lab.facts import make_world

ROOT = Path(__file__).parents[2]


def test_the_page_shows_the_committed_numbers() -> None:
    render = load_script("render_directions")
    results = json.loads(render.RESULTS.read_text(encoding="utf-8"))
    page = render.PAGE.read_text(encoding="utf-8")
    assert render.rendered(page, results) == page, "run python benchmarks/render_directions.py"
    assert "<!-- directions: end -->" in page
    results["sizes"]["pairs"] += 1
    assert render.rendered(page, results) != page


def test_lab_statements_are_true_and_false_twins() -> None:
    texts, labels, topics = load_script("directions").lab_statements(count=3)
    facts = {person.name: person.facts for person in make_world().people}
    assert len(texts) == len(labels) == len(topics) == 2 * 3 * 8
    for true, false, topic, label in zip(texts[::2], texts[1::2], topics[::2], labels[::2], strict=True):
        assert label == 1
        name = next(name for name in facts if name in true)
        value = facts[name][topic]
        assert true.endswith(f" {value}.")
        assert not false.endswith(f" {value}.")
        assert false.startswith(true.removesuffix(f"{value}."))


def test_the_recipe_of_the_models_is_valid() -> None:
    from infosteer.experiments.recipe import load_recipe

    recipe = load_recipe(str(ROOT / "docs/evidence/directions/recipe.yaml"))
    results = json.loads((ROOT / "docs/evidence/directions/results.json").read_text(encoding="utf-8"))
    made = {name for name in results["models"] if name != "base"}
    assert made == {f"{arm}/{seed}" for arm in recipe.arms for seed in recipe.seeds}


def test_a_page_that_names_an_unknown_part_is_an_error() -> None:
    render = load_script("render_directions")
    results = json.loads(render.RESULTS.read_text(encoding="utf-8"))
    with pytest.raises(KeyError):
        render.rendered("<!-- directions: nothing -->\n<!-- directions: end -->", results)
