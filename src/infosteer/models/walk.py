"""Walking through models that other libraries have wrapped: PEFT, DDP, FSDP, torch.compile, TRL's value heads."""

from __future__ import annotations

from collections.abc import Container
from typing import cast

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from infosteer.errors import ArchitectureError

# Modules that hold the real one under this name and only pass calls on to it.
_TRANSPARENT = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
# peft: an adapter around one linear keeps it here.
_BASE = "base_layer"


def join(*parts: str) -> str:
    return ".".join(part for part in parts if part)


def root_model(model: nn.Module) -> tuple[str, PreTrainedModel] | None:
    """The one transformers model inside ``model`` and its path; ``None`` where there is none.

    Raises:
        ArchitectureError: several unrelated models live in one module.
    """
    found: list[tuple[str, PreTrainedModel]] = []
    for name, module in model.named_modules():
        inside = any(not outer or name.startswith(outer + ".") for outer, _ in found)
        if isinstance(module, PreTrainedModel) and not inside:
            found.append((name, module))
    if len(found) > 1:
        raise ArchitectureError(
            "several models live in one module, and which of them to steer is not clear",
            where=", ".join(name for name, _ in found),
            got=type(model).__name__,
            expected="a module that holds one transformers model",
            fix="pass the inner model itself",
        )
    return found[0] if found else None


def inner(path: str, module: nn.Module) -> tuple[str, nn.Module]:
    """Step through transparent wrappers and PEFT's copies-to-train to the module that does the work."""
    while True:
        children = module._modules
        if "original_module" in children:  # peft: copies to train (modules_to_save), or adapters of single tokens
            copies = cast(Container[str], children.get("modules_to_save") or ())
            active = next((name for name in getattr(module, "active_adapters", ()) if name in copies), None)
            step = f"modules_to_save.{active}" if active is not None else "original_module"
        else:
            step = next((name for name in _TRANSPARENT if children.get(name) is not None), "")
            if not step:
                return path, module
        path, module = join(path, step), module.get_submodule(step)


def descend(path: str, module: nn.Module, relative: str) -> tuple[str, nn.Module] | None:
    """The module at ``relative``, whatever wraps the modules on the way; wrappers around the last one are kept."""
    for step in relative.split("."):
        path, module = inner(path, module)
        child = module._modules.get(step)
        if child is None:
            return None
        path, module = join(path, step), child
    return path, module


def base_linear(module: nn.Module) -> nn.Module:
    """The linear at the bottom of adapters and wrappers."""
    while True:
        _, module = inner("", module)
        below = module._modules.get(_BASE)
        if below is None:
            return module
        module = below


def is_conv1d(module: nn.Module) -> bool:
    """GPT-2's linear, whose weight is (in, out)."""
    return isinstance(module, Conv1D)


def linear_shape(module: nn.Module) -> tuple[int, int] | None:
    """(in, out) of a linear-like module, ``None`` for anything else.

    Quantised linears pack their weight, so the declared sizes count, not the weight's shape.
    """
    linear = base_linear(module)
    if isinstance(linear, Conv1D):
        return linear.nx, linear.nf
    sizes = getattr(linear, "in_features", None), getattr(linear, "out_features", None)
    if all(isinstance(size, int) for size in sizes):
        return sizes  # type: ignore[return-value]
    return None
