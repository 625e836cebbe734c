"""Strength 0, hooks on and firing, gives the bare trainer's losses and weights bit by bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from harness import SFTTrainer, build_trainer
from test_attach_gradients import run_processes

import infosteer

ZERO = [
    {"method": "key_lift", "fraction": 0.2, "strength": 0},
    {"method": "key_entropy", "weight": 0.5, "strength": 0},
    {"method": "protect_memory", "strength": 0},
]
NOTHING = [
    {"method": "key_lift", "fraction": 0},
    {"method": "key_entropy", "weight": 0},
    {"method": "protect_memory", "values": 1.0, "keys": 1.0, "gates": 1.0},
]
MODES: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulation": {"micro": 2, "accumulate": 2},
    "checkpointing": {"gradient_checkpointing": True},
    "reentrant": {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
    "LoRA": {"lora": True},
    "padding-free": {"padding_free": True, "max_length": None},
    "bf16": {"bf16": True},
}


def train(folder: Path, methods: list[Any] | None, **settings: Any) -> SFTTrainer:
    torch.manual_seed(0)
    trainer = build_trainer(str(folder), max_steps=4, max_grad_norm=1.0, **settings)
    if methods is not None:
        infosteer.attach(trainer, methods)
    trainer.train()
    return trainer


def same(a: SFTTrainer, b: SFTTrainer) -> None:
    losses = [[log["loss"] for log in trainer.state.log_history if "loss" in log] for trainer in (a, b)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 4
    for (name, left), right in zip(a.model.named_parameters(), b.model.parameters(), strict=True):
        assert torch.equal(left, right), name


@pytest.mark.parametrize("mode", MODES)
def test_strength_zero_is_the_bare_trainer(mode: str, tmp_path: Path) -> None:
    bare = train(tmp_path / "bare", None, **MODES[mode])
    steered = train(tmp_path / "steered", ZERO, **MODES[mode])
    same(bare, steered)


def test_zero_fraction_weight_and_factor_one_are_the_bare_trainer(tmp_path: Path) -> None:
    same(train(tmp_path / "bare", None), train(tmp_path / "steered", NOTHING))


def test_no_methods_only_observes(tmp_path: Path) -> None:
    bare, observed = train(tmp_path / "bare", None), train(tmp_path / "observed", [])
    same(bare, observed)
    assert observed.state.log_history[0]["infosteer/entropy"] > 0


def test_strength_zero_in_two_processes(tmp_path: Path) -> None:
    spec = {"methods": ZERO, "micro": 2, "accumulate": 2, "max_steps": 2, "ddp_backend": "gloo"}
    steered = run_processes(2, tmp_path / "steered.pt", dict(spec))
    bare = run_processes(2, tmp_path / "bare.pt", {**spec, "steered": False})
    for name, weight in bare["state"].items():
        assert torch.equal(weight, steered["state"][name]), name


def test_positive_strength_does_change_the_run(tmp_path: Path) -> None:
    bare = train(tmp_path / "bare", None)
    for i, method in enumerate(ZERO):
        steered = train(tmp_path / str(i), [{**method, "strength": 1}])
        different = [
            name
            for (name, left), right in zip(bare.model.named_parameters(), steered.model.parameters(), strict=True)
            if not torch.equal(left, right)
        ]
        assert different, method
