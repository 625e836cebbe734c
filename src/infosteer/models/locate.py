"""From a model to its sites.

Legend: D hidden, M memories (FFN width).
"""

from __future__ import annotations

import difflib
import logging
from types import MappingProxyType

from torch import nn

from infosteer.errors import ArchitectureError
from infosteer.models.decoder import find_decoder, text_config, text_modules
from infosteer.models.sites import Role, RoleName, Site
from infosteer.models.structure import infer_layout
from infosteer.models.table import LAYOUTS, FFNLayout
from infosteer.models.walk import base_linear, descend, is_conv1d, linear_shape, root_model

_log = logging.getLogger(__name__)

# Liger modules that never call the down projection as a module, or call it once per tile of tokens.
_FUSED_NAMES = ("LigerMLP", "LigerTiled")
_MESH_AXES_THAT_SPLIT_M = ("tp", "tensor", "tensor_parallel")


def locate(model: nn.Module, trust_structure: bool = False) -> list[Site]:
    """The sites of a model, ordered by layer; the model is left as it is.

    Works on base models, causal-LM and classification heads, multimodal wrappers (text decoder only), PEFT models, and
    models wrapped by DDP, FSDP or torch.compile.

    Args:
        model: the model as it will be called.
        trust_structure: for a model type that the table does not know, accept a search by structure.

    Raises:
        ArchitectureError: unknown type, encoder-decoder, routed experts, fused MLP, tensor parallelism, or layers that
            do not look as the table says.
    """
    found = root_model(model)
    if found is None:
        raise ArchitectureError(
            "no transformers model was found",
            got=type(model).__name__,
            expected="a transformers PreTrainedModel, or a wrapper around one",
            fix="load the model with transformers' AutoModelForCausalLM",
        )
    model_type = text_config(found[1]).model_type
    _refuse_experts(*found)
    layout = LAYOUTS.get(model_type)
    if layout is None:
        if not trust_structure:
            raise _unknown(model_type, type(found[1]).__name__)
        layout = infer_layout(found[1])
        _log.warning(
            "model type %r is not in InfoSteer's table; the structural search found: %s. Please check it, and add the "
            "row to src/infosteer/models/table.py",
            model_type,
            layout.source(),
        )
    decoder = find_decoder(model, layout)
    if decoder is None:
        raise ArchitectureError(
            f"a model of type {model_type!r} does not look as the table says: no layers at {layout.layers!r}",
            got=type(found[1]).__name__,
            expected=layout.source(),
            fix="use a transformers version that InfoSteer is tested with (infosteer env), or unmodified model code",
        )
    return [_site(model, layout, layer, path, block) for layer, (path, block) in enumerate(decoder.layers)]


def _unknown(model_type: str, class_name: str) -> ArchitectureError:
    nearest = difflib.get_close_matches(model_type, LAYOUTS, n=3, cutoff=0.5)
    hint = f" (nearest: {', '.join(nearest)})" if nearest else ""
    return ArchitectureError(
        f"model type {model_type!r} is not in InfoSteer's table{hint}",
        got=f"{class_name} (model_type {model_type!r})",
        expected=f"one of: {', '.join(sorted(LAYOUTS))}",
        fix="pass trust_structure=True (on the command line --trust-structure) to accept a search by structure, or add "
        "a row to src/infosteer/models/table.py",
    )


def _refuse_experts(root_path: str, root: nn.Module) -> None:
    experts: dict[str, str] = {}
    for path, module in text_modules(root_path, root):  # type: ignore[arg-type]
        for name, inside in module.named_modules():
            kind = type(inside).__name__
            if name.rpartition(".")[2] == "experts" or "Experts" in kind or kind.endswith(("MoE", "SparseMoeBlock")):
                experts.setdefault(f"{path}.{name}".lstrip("."), kind)
    if experts:
        first = list(experts)[:3]
        raise ArchitectureError(
            "models with routed experts are not supported yet",
            where=", ".join(first) + (f" and {len(experts) - 3} more" if len(experts) > 3 else ""),
            got=f"{type(root).__name__} with {', '.join(sorted(set(experts.values())))}",
            expected="a dense model: one feed-forward network in each layer",
            fix="use a dense model of the same family",
        )


def _site(model: nn.Module, layout: FFNLayout, layer: int, layer_path: str, block: nn.Module) -> Site:
    def at(relative: str) -> tuple[str, nn.Module, int, int]:
        found = descend(layer_path, block, relative)
        shape = linear_shape(found[1]) if found is not None else None
        if found is None or shape is None:
            inside = descend(layer_path, block, relative.rpartition(".")[0]) if "." in relative else None
            raise ArchitectureError(
                f"layer {layer} has no linear {relative!r}",
                where=layer_path,
                got=type(found[1]).__name__ if found else f"inside {type(inside[1] if inside else block).__name__}",
                expected=layout.source(),
                fix="load the model without patches that replace its feed-forward modules",
            )
        return *found, *shape

    name, down, width, hidden = at(layout.down)
    enclosing_path = name.rpartition(".")[0]
    enclosing = model.get_submodule(enclosing_path)
    kind = enclosing._get_name()  # Liger renames patched instances through this method
    if kind.startswith(_FUSED_NAMES):
        raise ArchitectureError(
            "a fused feed-forward kernel hides the key coefficients",
            where=enclosing_path,
            got=kind,
            expected="a feed-forward module that calls its down projection once",
            fix="load the model without this kernel (for Liger: turn its MLP patch off and keep the others)",
        )
    _refuse_tensor_parallel(name, down)
    roles: dict[RoleName, tuple[Role, ...]] = {"values": (Role(path=name, module=down),)}
    keys_path, keys, _, features = at(layout.keys)
    expected = 2 * width if layout.fused else width
    if features != expected:
        raise ArchitectureError(
            f"layer {layer}: the projection before the down projection has an unexpected width",
            where=keys_path,
            got=features,
            expected=expected,
            fix="use unmodified model code of this family",
        )
    if layout.fused:
        first, second = slice(0, width), slice(width, 2 * width)
        gate_rows, key_rows = (first, second) if layout.gate_first else (second, first)
        roles["keys"] = (Role(path=keys_path, module=keys, rows=key_rows),)
        roles["gates"] = (Role(path=keys_path, module=keys, rows=gate_rows),)
    else:
        roles["keys"] = (Role(path=keys_path, module=keys),)
        gates = at(layout.gates) if layout.gates is not None else None
        roles["gates"] = (Role(path=gates[0], module=gates[1]),) if gates is not None else ()
    return Site(
        layer=layer,
        name=name,
        module=down,
        width=width,
        hidden=hidden,
        gated=layout.gated,
        roles=MappingProxyType(roles),
        enclosing=(enclosing_path, enclosing),
    )


def _refuse_tensor_parallel(name: str, down: nn.Module) -> None:
    linear = base_linear(down)
    weight = getattr(linear, "weight", None)
    placements, mesh = getattr(weight, "placements", None), getattr(weight, "device_mesh", None)
    if placements is None or mesh is None:
        return
    axes = mesh.mesh_dim_names or ("",) * len(placements)
    m_dim = 0 if is_conv1d(linear) else 1
    for placement, axis in zip(placements, axes, strict=True):
        # FSDP shards dim 0, which is D of a Linear but M of a Conv1D; there only the axis' name tells them apart.
        if placement.is_shard(m_dim) and (m_dim == 1 or axis in _MESH_AXES_THAT_SPLIT_M):
            raise ArchitectureError(
                "tensor parallelism splits the key coefficients over ranks",
                where=name,
                got=f"placement {placement} on mesh axis {axis or 'without a name'}",
                expected="every rank sees all M coefficients of a token",
                fix="load the model without tp_plan / tp_size; use data parallelism or FSDP instead",
            )
