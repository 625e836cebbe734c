"""A new method's folder works as it is: found through an entry point, trained with, off at strength 0."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from infosteer.core import registry
from infosteer.experiments.recipe import load_recipe
from infosteer.experiments.run import run

Call = Callable[..., tuple[int, str, str]]
SURFACES = registry.SURFACE_NAMES


@pytest.fixture
def made(infosteer: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Folders of new methods, one a surface, installed as a third party's package would be."""
    entries = []
    for surface in SURFACES:
        code, out, err = infosteer("new", surface, f"my_{surface}", "--output", tmp_path / "mine")
        assert code == 0, err
        assert "entry-points" in out
        entries.append(importlib.metadata.EntryPoint(f"{surface}/my_{surface}", f"my_{surface}", registry.ENTRY_POINTS))
    monkeypatch.syspath_prepend(str(tmp_path / "mine"))
    real = importlib.metadata.entry_points

    def entry_points(**selection: str) -> Any:
        return entries if selection.get("group") == registry.ENTRY_POINTS else real(**selection)

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    registry._methods.cache_clear()
    yield tmp_path / "mine"
    registry._methods.cache_clear()
    for surface in SURFACES:
        for module in (f"my_{surface}", f"my_{surface}.method"):
            sys.modules.pop(module, None)


def test_new_methods_train_and_are_off_at_strength_0(made: Path, infosteer: Call, inputs: Path, tmp_path: Path) -> None:
    for surface in SURFACES:
        name = f"my_{surface}"
        assert sorted(p.name for p in (made / name).iterdir() if p.is_file()) == [
            "__init__.py",
            "card.md",
            "method.py",
            "recipe.yaml",
        ]
        info = registry.method_info(name)
        assert (info.surface, info.status) == (surface, "experimental")
        assert load_recipe(made / name / "recipe.yaml").arms[name].methods[0]["method"] == name
        code, out, _ = infosteer("show", name)
        assert code == 0
        assert name in out
        assert all(f"`{field}`" in info.card.read_text() for field in info.fields)
    arms: dict[str, Any] = {"plain": []}
    for surface in SURFACES:
        arms[surface] = [{"method": f"my_{surface}"}]
    arms["off"] = [{"method": f"{surface}/my_{surface}", "strength": 0} for surface in SURFACES]
    train = {"max_steps": 2, "logging_steps": 1}
    path = run(tiny.recipe(inputs, arms=arms, seeds=[1], train=train), tmp_path / "run")
    scores = {arm: json.loads((path / f"outcomes/{arm}/seed-1.json").read_text())["examples"] for arm in arms}
    for surface in SURFACES:
        assert (scores[surface] == scores["plain"]) == (surface == "probes"), "a probe reads only"
    assert scores["off"] == scores["plain"]
    logged = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    found = {name for line in logged if line.get("arm") == "probes" for name in line}
    assert {f"infosteer/my_probes/layer_{i}" for i in (0, 1)} <= found


def test_the_penaltys_gradient_is_that_of_its_rows(made: Path) -> None:
    method = registry.build_method({"method": "my_penalties"})
    k = torch.randn(3, 5, 7, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(method.rows(k).sum(), k)
    torch.testing.assert_close(method.rows_gradient(k.detach()), expected)


def test_an_existing_folder_is_left_alone(infosteer: Call, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    code, _, err = infosteer("new", "penalties", "mine", "--output", tmp_path)
    assert code == 1
    assert "exists already" in err
    assert not list((tmp_path / "mine").iterdir())
    code, _, err = infosteer("new", "penalties", "key_entropy", "--output", tmp_path)
    assert code == 1
    assert "such a method already" in err
