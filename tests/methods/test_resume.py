"""An interrupted training with every control at work goes on to the same bits."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "experiments"))  # for the tiny models

import tiny

from infosteer.experiments.reporter import Reporter
from infosteer.experiments.run import run

CONTROLS = [
    {"method": "key_lift", "fraction": 0.1, "tokens": "answer", "shield": True, "entropy_high": 0.95},
    {"method": "key_lift", "fraction": 0.2, "uncertain_from": 5.0},
    {"method": "key_random", "fraction": 0.1},
    {"method": "key_damp", "fraction": 0.1, "strength": 0.5},
    {"method": "key_noise", "fraction": 0.1},
    {"method": "key_dropout", "rate": 0.1},
    {"method": "key_entropy_target"},
    {"method": "key_norm"},
    {"method": "output_entropy"},
    {"method": "label_smoothing"},
    {"method": "base_divergence", "weight": 0.1},
]


class Interrupter(Reporter):
    def steps(self, *, done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt


def test_an_interrupted_training_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"train": {"save_steps": 2, "save_model": True}, "seeds": [1]}
    recipe = tiny.recipe(tmp_path, arms={"controls": CONTROLS}, **changes)
    whole = run(recipe, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(recipe, tmp_path / "cut", reporter=Interrupter())
    folder = Path("checkpoints") / "controls" / "seed-1"
    assert (tmp_path / "cut" / folder / "checkpoint-2").is_dir()
    run(recipe, tmp_path / "cut")
    found, wanted = ((tmp_path / name / folder / "model.safetensors").read_bytes() for name in ("cut", "whole"))
    assert found == wanted
    results = [json.loads((path / "results.json").read_text()) for path in (tmp_path / "cut", whole)]
    assert results[0]["arms"] == results[1]["arms"]
