"""Whether the modules that recipes name for adapters are in the model, before anything is trained."""

from __future__ import annotations

import difflib
import re
from typing import Any

from infosteer.errors import ConfigError
from infosteer.experiments.recipe import Recipe

_EVERY_LINEAR = "all-linear"


def check_adapters(recipe: Recipe, skeleton: Any) -> None:
    """Every arm's ``train.peft.target_modules`` against the modules of the model.

    PEFT takes a list as the ends of module names and one text as a regular expression for the whole name. It passes
    over a name that fits nothing beside one that does; here it is an error.

    Args:
        skeleton: the model's modules, with or without weights.

    Raises: ConfigError naming the arm and the name that fits nothing, or nothing that can be adapted.
    """
    modules = {name: module for name, module in skeleton.named_modules() if name}
    for arm in recipe.arms:
        peft = recipe.train_for(arm).peft
        if peft is None or (isinstance(peft.target_modules, str) and peft.target_modules.lower() == _EVERY_LINEAR):
            continue
        where = f"arms.{arm}: train.peft.target_modules"
        wanted = [peft.target_modules] if isinstance(peft.target_modules, str) else list(peft.target_modules)
        if not wanted:
            raise ConfigError("no module is named for adapters", where=where, got="an empty list")
        for name in wanted:
            found = _matching(name, modules, isinstance(peft.target_modules, str), where)
            if not found or not all(_adaptable(module) for module in found):
                raise _nothing(name, bool(found), modules, where)


def _matching(wanted: str, modules: dict[str, Any], expression: bool, where: str) -> list[Any]:
    if not expression:
        return [module for name, module in modules.items() if name == wanted or name.endswith(f".{wanted}")]
    try:
        pattern = re.compile(wanted)
    except re.error as error:
        raise ConfigError(
            "the modules to adapt are no regular expression", where=where, got=f"{wanted!r}: {error}"
        ) from None
    return [module for name, module in modules.items() if pattern.fullmatch(name)]


def _adaptable(module: Any) -> bool:
    """Whether a layer has a weight of its own that LoRA can stand beside: linear layers and embeddings."""
    weight = getattr(module, "weight", getattr(module, "in_proj_weight", None))
    return weight is not None and weight.dim() >= 2


def _nothing(wanted: str, found: bool, modules: dict[str, Any], where: str) -> ConfigError:
    ends = sorted({name.rpartition(".")[2] for name, module in modules.items() if _adaptable(module)})
    near = difflib.get_close_matches(wanted.rpartition(".")[2], ends, n=2, cutoff=0.5)
    return ConfigError(
        "a module named for adapters cannot be adapted" if found else "no module of the model has this name",
        where=where,
        got=repr(wanted),
        expected=f"layers with weights: {', '.join(ends)}",
        fix=f"did you mean {' or '.join(map(repr, near))}?" if near else f"name some of them, or {_EVERY_LINEAR!r}",
    )
