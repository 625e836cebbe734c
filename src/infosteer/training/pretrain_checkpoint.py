"""Checkpoints of pretraining: weights and AdamW state in safetensors, the rest in JSON, swapped in whole."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from infosteer.errors import RunError


def write_checkpoint(
    folder: Path,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
    *,
    save_also: Callable[[Path], Any],
) -> None:
    """Write a checkpoint beside the old one and put it in its place, so that a kill leaves one of the two."""
    fresh, old = folder.with_suffix(".new"), folder.with_suffix(".old")
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh.mkdir(parents=True)
    tensors: dict[str, torch.Tensor] = {}
    for name, p in model.named_parameters():
        moments = optimizer.state[p]
        tensors |= {name: p.detach(), f"avg.{name}": moments["exp_avg"], f"sq.{name}": moments["exp_avg_sq"]}
    save_file(tensors, fresh / "state.safetensors")
    save_also(fresh)
    (fresh / "state.json").write_text(json.dumps(state))
    if folder.exists():
        os.replace(folder, old)
    os.replace(fresh, folder)
    shutil.rmtree(old, ignore_errors=True)


def read_checkpoint(
    folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, config: Mapping[str, Any]
) -> dict[str, Any] | None:
    """Load weights and optimizer state; returns the rest of the state, or None where there is no checkpoint.

    Raises:
        RunError: the checkpoint is of other settings than ``config``.
    """
    if not (folder / "state.json").exists():
        return None
    state: dict[str, Any] = json.loads((folder / "state.json").read_text())
    differing = [key for key in config if state["config"].get(key) != config[key]]
    if differing:
        raise RunError(
            "The output folder holds a checkpoint of other settings.",
            where=str(folder),
            got=", ".join(f"{key}={state['config'].get(key)}" for key in differing),
            expected=", ".join(f"{key}={config[key]}" for key in differing),
            fix="choose another output folder, or remove the checkpoint",
        )
    tensors = load_file(folder / "state.safetensors")
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(tensors[name])
            optimizer.state[p] = {
                "step": torch.tensor(float(state["step"])),
                "exp_avg": tensors[f"avg.{name}"].clone(),
                "exp_avg_sq": tensors[f"sq.{name}"].clone(),
            }
    return state
