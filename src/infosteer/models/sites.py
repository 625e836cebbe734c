"""Sites: the places where key coefficients can be read and replaced, and read-only views of the weights around them.

Legend: B batch, T time, D hidden, M memories (FFN width), V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import nn

from infosteer.errors import SiteError
from infosteer.models.walk import base_linear, is_conv1d, linear_shape

RoleName = Literal["values", "keys", "gates"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Role:
    """A projection, or one half of a fused one, that plays a part in a site.

    Args:
        path: dotted path of the projection in the model given to ``locate``.
        module: the module at that path; under PEFT the outermost adapter wrapper.
        rows: the output features that belong to the role in a fused projection; ``None`` means all.
    """

    path: str
    module: nn.Module
    rows: slice | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Site:
    """One layer's down projection, whose input is the key coefficients k.

    Rows of k come as (B, T, M), or as (B*T, M) where a family flattens them (OPT).

    Args:
        layer: zero-based index in the text decoder.
        name: dotted path of the down projection in the model given to ``locate``.
        module: the module whose forward pre-hook sees k; under PEFT the outermost wrapper, so that the frozen and the
            adapter path both see an edited k.
        width: M.
        hidden: D.
        gated: whether k is a product of a gate and an up projection.
        roles: ``values`` (W_down), ``keys`` (W_up or W_in) and ``gates`` (W_gate; empty in a plain FFN).
        enclosing: path and module that call the down projection.
    """

    layer: int
    name: str
    module: nn.Module
    width: int
    hidden: int
    gated: bool
    roles: Mapping[RoleName, tuple[Role, ...]]
    enclosing: tuple[str, nn.Module]

    def __repr__(self) -> str:
        kind = "gated" if self.gated else "plain"
        return f"Site(layer={self.layer}, name={self.name!r}, width={self.width}, hidden={self.hidden}, {kind})"


def parameters_of(role: Role) -> Iterator[tuple[str, nn.Parameter, int | None, slice | None]]:
    """Every parameter of a role as (full name, parameter, dim, rows): the role owns ``rows`` along ``dim``.

    ``dim`` and ``rows`` are ``None`` where the role owns the whole parameter, or shares it with the other half of a
    fused projection because its axes are not the output features (``lora_A``). Of a fused projection the weight, the
    bias, ``lora_B`` and DoRA's magnitude are split; a transposed layout (Conv1D) has its output features on the last
    axis.
    """
    _, features = linear_shape(role.module) or (0, 0)
    transposed = is_conv1d(base_linear(role.module))
    for name, parameter in role.module.named_parameters():
        path = f"{role.path}.{name}"
        dim = None if role.rows is None else output_dim(name, parameter, features, transposed)
        yield path, parameter, dim, None if dim is None else role.rows


def output_dim(name: str, parameter: nn.Parameter, features: int, transposed: bool) -> int | None:
    parts = name.split(".")
    if "lora_A" in parts:
        return None  # (rank, in): an axis may equal the output width by chance
    own = not any(part.startswith("lora_") for part in parts)
    if own and parts[-1] == "weight" and parameter.dim() == 2:
        dim = 1 if transposed else 0
        return dim if parameter.shape[dim] == features else None
    matching = [dim for dim, size in enumerate(parameter.shape) if size == features]
    return matching[0] if matching else None


def memory_vectors(site: Site) -> torch.Tensor:
    """The memory vectors of a site: the rows v_i of W_down, so that the FFN's output is ``k @ v`` (plus a bias).

    Shape (M, D), detached; a view where the storage allows it, so it must not be written to. Under PEFT these are the
    base weights without the adapter, or the copy in training where the projection is in ``modules_to_save``.

    Raises:
        SiteError: the weight cannot be read as (M, D) numbers: 4- or 8-bit, on the meta device, or sharded away.
    """
    linear = base_linear(site.module)
    weight = _readable(getattr(linear, "weight", None), site.name, linear)
    vectors = weight if is_conv1d(linear) else weight.T
    if vectors.shape != (site.width, site.hidden):
        raise _unreadable(site.name, linear, f"its weight has shape {tuple(weight.shape)}", "gather or dequantise it")
    return vectors


def _readable(weight: object, where: str, linear: nn.Module) -> torch.Tensor:
    """``weight`` as a detached 2-D floating tensor, gathered when it is a DTensor."""
    if not isinstance(weight, torch.Tensor):
        raise _unreadable(where, linear, "it has no weight tensor (quantised?)", "load the model without quantisation")
    if weight.is_meta:
        raise _unreadable(where, linear, "its weight is on the meta device", "load the weights before reading them")
    if weight.numel() == 0 or not (hasattr(weight, "full_tensor") or weight.untyped_storage().size()):
        raise _unreadable(
            where, linear, "its weight is empty (ZeRO-3 or FSDP keeps the values on other ranks)",
            "read it inside deepspeed.zero.GatheredParameters or FSDP.summon_full_params",
        )  # fmt: skip
    if not weight.is_floating_point() or weight.element_size() < 2:
        raise _unreadable(
            where, linear, f"its weight is stored as {weight.dtype}", "load the model without 4- or 8-bit quantisation"
        )
    if weight.dim() != 2:
        raise _unreadable(
            where, linear, f"its weight has shape {tuple(weight.shape)} (a flat shard?)",
            "read it inside FSDP.summon_full_params",
        )  # fmt: skip
    weight = weight.detach()
    # A DTensor's values lie on several ranks; full_tensor is a collective, which every rank reaches here alike.
    return cast(Any, weight).full_tensor() if hasattr(weight, "full_tensor") else weight


def _unreadable(where: str, linear: nn.Module, why: str, fix: str) -> SiteError:
    return SiteError(
        f"the weights of {where} cannot be read as numbers: {why}",
        where=where,
        got=type(linear).__name__,
        expected="a dense 2-D weight in fp16, bf16, fp32 or fp64",
        fix=fix,
    )
