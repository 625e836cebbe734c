"""Engines that put other tensors in the place of a model's parameters.

FSDP2 (``fully_shard``) replaces every parameter of the model by a DTensor of the same name. DeepSpeed's ZeRO leaves the
parameters where they are and lets a torch optimizer step on flat partitions, which are copied back afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from infosteer.core.params import Handle
from infosteer.errors import AttachError


def names_of(model: nn.Module) -> dict[int, str]:
    """Names of the model's parameters by identity."""
    return {id(parameter): name for name, parameter in model.named_parameters()}


def follow(handles: Mapping[str, Handle], model: nn.Module, names: Mapping[int, str]) -> None:
    """Tells handles which parameters stand in the place of those they act on, where an engine has replaced any.

    Args:
        handles: by the method's name.
        model: as it is trained.
        names: of the parameters when the methods acted on it.

    Raises:
        AttachError: a method that cannot act on what is there now.
    """
    now = dict(model.named_parameters())
    present = {id(parameter) for parameter in now.values()}
    moved = {known: now.get(name) for known, name in names.items() if known not in present}
    instead = {known: parameter for known, parameter in moved.items() if parameter is not None}
    for label, handle in handles.items():
        gone = sum(id(p) in moved and id(p) not in instead for p in handle.parameters())
        if gone:
            raise _out_of_reach(label, f"{gone} parameters that are part of a flat one now (FSDP1)")
        handle.follow(instead, label)


def refuse_flat(handles: Mapping[str, Handle], names: Mapping[int, str]) -> None:
    """Refuses methods that act around steps on the model's parameters, when the steps are on flat partitions of them.

    Raises:
        AttachError: naming the method.
    """
    for label, handle in handles.items():
        if any(id(parameter) in names for parameter in handle.parameters()):
            raise _out_of_reach(label, "an optimizer that steps on flat partitions of the weights (DeepSpeed ZeRO)")


def steps_on_partitions(model: nn.Module, optimizer: torch.optim.Optimizer) -> bool:
    """Whether a torch optimizer holds DeepSpeed's partitions of the model's parameters."""
    held: set[int] | None = None
    for parameter in model.parameters():
        engine, fragment = (vars(parameter).get(key) for key in ("_z3_optimizer", "_hp_mapping"))
        if engine is not None:  # ZeRO-3
            return bool(engine.optimizer is optimizer)
        if fragment is not None:  # ZeRO-1 and 2, on the processes that hold a part of this one
            if held is None:
                held = {p.untyped_storage().data_ptr() for group in optimizer.param_groups for p in group["params"]}
            if fragment.get_hp_fragment().untyped_storage().data_ptr() in held:
                return True
    return False


def refuse_absent(model: nn.Module) -> None:
    """Refuses to keep a copy of a model whose weights are in shards or not loaded yet.

    Raises:
        AttachError: naming the first such parameter.
    """
    for name, parameter in model.named_parameters():
        sharded = is_sharded(parameter) or hasattr(parameter, "ds_id")  # the latter: ZeRO-3
        if sharded or parameter.is_meta:
            raise AttachError(
                "the model before training cannot be kept: this process does not hold its weights",
                where=name,
                got="a sharded parameter" if sharded else "a parameter without data",
                fix="steer before the model is sharded, on processes that have all loaded it; ZeRO-3 is not covered",
            )


def is_sharded(parameter: Any) -> bool:
    """Whether a parameter is a DTensor, of which this process may hold a part only."""
    return getattr(parameter, "placements", None) is not None


def _out_of_reach(label: str, got: str) -> AttachError:
    return AttachError(
        "the engine keeps the weights where the method cannot act on their updates",
        where=label,
        got=got,
        expected="methods of the forward and the loss, or protection of whole roles with factor 0",
        fix="freeze with factor 0 and constant strength, or train with DDP (or FSDP2, for whole roles)",
    )
