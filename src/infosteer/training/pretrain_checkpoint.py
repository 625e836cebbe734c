"""Checkpoints of pretraining: weights and optimizer state in safetensors, the rest in JSON, swapped in whole."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from infosteer.errors import RunError


def write_checkpoint(
    folder: Path,
    model: torch.nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
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
        tensors[name] = p.detach()
        for optimizer in optimizers:
            tensors |= {f"{key}/{name}": value for key, value in optimizer.state.get(p, {}).items()}
    save_file(tensors, fresh / "state.safetensors")
    save_also(fresh)
    (fresh / "state.json").write_text(json.dumps(state))
    if folder.exists():
        os.replace(folder, old)
    os.replace(fresh, folder)
    shutil.rmtree(old, ignore_errors=True)


def read_checkpoint(
    folder: Path, model: torch.nn.Module, optimizers: Sequence[torch.optim.Optimizer], config: Mapping[str, Any]
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
            owner = next(
                one for one in optimizers if any(q is p for group in one.param_groups for q in group["params"])
            )
            moments = {
                key.removesuffix(f"/{name}"): value for key, value in tensors.items() if key.endswith(f"/{name}")
            }
            owner.state[p] = {key: value.clone() for key, value in moments.items()}
    return state
