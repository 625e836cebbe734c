"""Guessing the layout of a model that the table does not know. Used only with the user's consent.

Legend: D hidden, M memories (FFN width).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from infosteer.errors import ArchitectureError
from infosteer.models.decoder import text_config, text_modules
from infosteer.models.table import FFNLayout
from infosteer.models.walk import inner, join, linear_shape

_ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
_GATE = re.compile(r"gate|w1$|wi_0$", re.IGNORECASE)
_NORMS = (r"norm", r"final_.*norm", r"(ln|norm)_f", r".*norm")  # in this order of preference
_WIDTH_KEYS = ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "d_ff", "inner_dim")


def infer_layout(root: PreTrainedModel) -> FFNLayout:
    """The row that fits ``root``: in every decoder layer, outside attention, the one linear D <- M and its inputs.

    M is the width named by the config; where that finds nothing, any linear that narrows counts.

    Raises:
        ArchitectureError: no list of layers, no or several candidates in a layer, or roles that names cannot tell.
    """
    config = text_config(root)
    owner, layers_path, blocks = _layer_list(root)
    widths = {size for key in _WIDTH_KEYS for size in _sizes(getattr(config, key, None))}
    hidden = getattr(config, "hidden_size", None)
    found = [_down_candidates(block, hidden, widths) or _down_candidates(block, hidden, None) for block in blocks]
    for layer, candidates in enumerate(found):
        if len(candidates) != 1:
            raise _refusal(
                config.model_type,
                f"layer {layer} has {len(candidates)} linears that could be the down projection",
                ", ".join(candidates) or "none",
            )
    down = {candidates[0] for candidates in found}
    if len(down) != 1:
        raise _refusal(
            config.model_type, "the down projection has another name in every layer", ", ".join(sorted(down))
        )
    path = down.pop()
    keys, gates, gate_first = _inputs(config.model_type, blocks[0], path)
    children = [name for name, _ in owner.named_children()]
    norms = [name for pattern in _NORMS for name in children if re.fullmatch(pattern, name)]
    return FFNLayout(
        model_type=config.model_type,
        down=path,
        keys=keys,
        gates=gates,
        gate_first=gate_first,
        layers=layers_path,
        norm=norms[0] if norms else "norm",
    )


def _sizes(value: Any) -> Iterator[int]:
    if isinstance(value, int):
        yield value
    elif isinstance(value, list | tuple):
        yield from (size for size in value if isinstance(size, int))


def _layer_list(root: PreTrainedModel) -> tuple[nn.Module, str, list[nn.Module]]:
    """The list of decoder layers in the innermost text module: (its owner, its path there, the blocks).

    It is the one as long as the config says (hybrids mix classes of blocks in it), else the longest of one class.
    """
    stated = getattr(text_config(root), "num_hidden_layers", None)
    best: tuple[nn.Module, str, list[nn.Module]] | None = None
    for _, owner in text_modules("", root):
        nested = [name for name, module in owner.named_modules() if name and isinstance(module, PreTrainedModel)]
        for name, module in owner.named_modules():
            if any(name == other or name.startswith(other + ".") for other in nested):
                continue  # belongs to an inner model: reached from there, or a tower of another kind
            if not isinstance(module, nn.ModuleList) or not len(module):
                continue
            blocks = [inner("", block)[1] for block in module]
            alike = len({type(block) for block in blocks}) == 1
            rank = (len(blocks) == stated, len(blocks))
            if (alike or rank[0]) and (best is None or rank > (len(best[2]) == stated, len(best[2]))):
                best = owner, name, blocks
    if best is None:
        raise _refusal(text_config(root).model_type, "no list of decoder layers was found", type(root).__name__)
    return best


def _linears(module: nn.Module, path: str = "") -> Iterator[tuple[str, tuple[int, int]]]:
    """(path, (in, out)) of the outermost linears outside attention; adapters inside a linear do not count."""
    for name, child in module.named_children():
        if _ATTENTION.search(name) or _ATTENTION.search(type(child).__name__):
            continue
        shape = linear_shape(child)
        if shape is not None:
            yield join(path, name), shape
        else:
            yield from _linears(inner("", child)[1], join(path, name))


def _down_candidates(block: nn.Module, hidden: int | None, widths: set[int] | None) -> list[str]:
    def fits(size_in: int, size_out: int) -> bool:
        if hidden is not None and size_out != hidden:
            return False
        return size_in in widths if widths is not None else size_in > size_out

    return [path for path, shape in _linears(block) if fits(*shape)]


def _inputs(model_type: str, block: nn.Module, down: str) -> tuple[str, str | None, bool]:
    """(keys, gates, gate_first) of the linears beside the down projection that widen D to M or 2M."""
    parent, _, _ = down.rpartition(".")
    linears = dict(_linears(block))
    size_in, size_out = linears[down]
    beside = [path for path in linears if path != down and path.rpartition(".")[0] == parent]
    single = [path for path in beside if linears[path] == (size_out, size_in)]
    fused = [path for path in beside if linears[path] == (size_out, 2 * size_in)]
    if len(single) == 1 and not fused:
        return single[0], None, True
    if len(single) == 2:
        gates = [path for path in single if _GATE.search(path.rpartition(".")[2])]
        if len(gates) == 1:
            return next(path for path in single if path != gates[0]), gates[0], True
    if len(fused) == 1 and not single and "gate_up" in fused[0]:
        return fused[0], fused[0], True
    raise _refusal(
        model_type, f"which projection before {down} is the gate and which the keys is not clear", ", ".join(beside)
    )


def _refusal(model_type: str, what: str, got: str) -> ArchitectureError:
    return ArchitectureError(
        f"the structural search failed: {what}",
        where=f"model_type {model_type!r}",
        got=got,
        expected="one linear from the FFN width to the hidden size in every layer, outside attention",
        fix="add a row by hand to src/infosteer/models/table.py, with a tiny config in tests/models",
    )
