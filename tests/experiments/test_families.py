"""Every hub recipe on a tiny random model of its family: two optimiser steps, one evaluation batch, save and reload."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import tiny
import torch
from transformers import AutoModelForCausalLM

from infosteer.experiments.recipe import load_recipe
from infosteer.experiments.run import run

DATA = Path(os.environ.get("INFOSTEER_DATA", "../shared/data")) / "llm-adapters"
FAMILIES = {"qwen2.5-1.5b": "Qwen2", "llama-3.2-1b": "Llama", "gemma-2-2b": "Gemma2"}

pytestmark = [pytest.mark.data, pytest.mark.skipif(not DATA.is_dir(), reason="no ../shared/data")]


@pytest.mark.parametrize("adapter", ["", "-lora"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_hub_recipe_runs_on_its_family(name: str, adapter: str, tmp_path: Path) -> None:
    model = tiny.save_model(tmp_path / "model", FAMILIES[name], max_position_embeddings=2048)
    test = DATA / "openbookqa" / "test.jsonl.gz"
    changes = [
        f"model={model}",
        f"data.train={DATA / 'openbookqa' / 'train.jsonl.gz'}",
        "data.limit=16",
        "seeds=[1]",
        "train.max_steps=2",
        "train.per_device_train_batch_size=2",
        "train.gradient_accumulation_steps=2",
        "train.max_length=1024",  # a token a byte
        "arms={steered: [{method: key_lift}, {method: key_entropy}]}",
        f"evaluate={{openbookqa: {{source: {test}, format: llm_adapters, template: alpaca, limit: 4, batch_size: 4}}}}",
    ]
    recipe = load_recipe(name + adapter)
    assert list(recipe.arms) == ["plain", "intervention", "regularisation"]
    assert (recipe.train.peft is not None) == bool(adapter)
    path = run(name + adapter, tmp_path / "run", overrides=changes)
    results = json.loads((path / "results.json").read_text())
    (arm,) = results["arms"]
    assert 0 <= arm["metrics"]["openbookqa/option_accuracy"] <= 1
    folder = path / "checkpoints" / "steered" / "seed-1"
    base = AutoModelForCausalLM.from_pretrained(model)
    reloaded = AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.arange(2, 12).unsqueeze(0)
    with torch.no_grad():
        assert not torch.equal(reloaded(ids).logits, base(ids).logits), "training changed the model"
    assert (folder / "infosteer.json").is_file()
    assert (folder / "adapter_config.json").is_file() == bool(adapter)


@pytest.mark.parametrize(("name", "scoring"), [("arc-easy", "option"), ("gsm8k", "number")])
def test_recipes_over_the_fifteen_tasks_run(name: str, scoring: str, tmp_path: Path) -> None:
    model = tiny.save_model(tmp_path / "model", max_position_embeddings=2048)
    recipe = load_recipe(name)
    changes = [f"model={model}", "data.limit=8", "seeds=[1]", "train.max_steps=1", "train.max_length=1500"]
    changes += ["train.per_device_train_batch_size=2", "arms={plain: [], intervention: [{method: key_lift}]}"]
    changes += [f"evaluate.{s}.{key}" for s in recipe.evaluate for key in ("limit=4", "max_new_tokens=8")]
    path = run(name, tmp_path / "run", overrides=changes)
    outcome = json.loads((path / "outcomes" / "plain" / "seed-1.json").read_text())
    assert {facts["settings"]["scoring"] for facts in outcome["sets"].values()} == {scoring}
    assert set(outcome["sets"]) == set(recipe.evaluate)
