"""Which part of the model a parameter belongs to, which of its axes counts memories, and how coefficients scale.

Legend: M memories (FFN width), D hidden.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from infosteer.errors import ArchitectureError
from infosteer.models.decoder import Decoder, find_decoder, text_config
from infosteer.models.sites import RoleName, Site, output_dim, parameters_of
from infosteer.models.structure import infer_layout
from infosteer.models.walk import base_linear, inner, is_conv1d, linear_shape, root_model

PARTS = ("attention", "embeddings", "norms", "head", "ffn", "other")

# What mixes tokens in a layer: attention, and what stands in its place in hybrid models. A test runs over the table.
_MIXERS = re.compile(r"Attention|Mixer|Mamba|ShortConv|DeltaNet|RecurrentBlock")
_ACTIVATIONS = ("hidden_act", "activation_function", "activation")
_DEGREES = {"relu": 1.0, "relu2": 2.0}  # act(c x) = c^degree act(x) for c > 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Placed:
    """A parameter and its place.

    Attributes:
        name: dotted name in the model.
        parameter: the parameter, named once even where two modules share it.
        parts: one of ``PARTS``; two for a weight that is embedding and head at once.
        layer: the decoder layer it lies in, else None.
    """

    name: str
    parameter: nn.Parameter
    parts: tuple[str, ...]
    layer: int | None


def place_parameters(model: nn.Module, sites: Sequence[Site]) -> list[Placed]:
    """Every parameter of a model with the part it belongs to.

    ``ffn``: all that computes or reads the key coefficients; ``attention``: what mixes tokens (Mamba blocks, short
    convolutions and linear attention too); ``norms``: of the text decoder, those inside attention included;
    ``embeddings``: of tokens and positions; ``head``: the output head; ``other``: what is left (towers of other kinds,
    residual gates). Adapters belong to what they adapt.

    Args:
        model: the model that ``sites`` were located in.

    Raises:
        ArchitectureError: no text decoder.
    """
    decoder = _decoder(model)
    root = root_model(model)
    head = root[1].get_output_embeddings() if root is not None else None
    modules = dict(model.named_modules())
    of_head = {id(parameter) for parameter in head.parameters()} if head is not None else set()
    of_ffn = {
        id(p) for site in sites for roles in site.roles.values() for r in roles for _, p, _, _ in parameters_of(r)
    }
    enclosing = tuple(f"{site.enclosing[0]}." for site in sites if site.enclosing[0] not in dict(decoder.layers))

    def placed(name: str, parameter: nn.Parameter) -> Placed:
        layer = next((i for i, (path, _) in enumerate(decoder.layers) if name.startswith(f"{path}.")), None)
        tied = ("head",) if id(parameter) in of_head else ()
        if id(parameter) in of_ffn:
            part = "ffn"
        elif layer is not None:
            part = _in_layer(decoder.layers[layer][0], name, modules, name.startswith(enclosing))
        else:
            part = _outside(decoder, name, modules)
        if tied and part != "embeddings":
            return Placed(name=name, parameter=parameter, parts=tied, layer=None)
        return Placed(name=name, parameter=parameter, parts=(part, *tied), layer=layer)

    return [placed(name, parameter) for name, parameter in model.named_parameters()]


def memory_axes(site: Site, role: RoleName) -> Iterator[tuple[str, nn.Parameter, int, int]]:
    """Parameters of a role that have one entry, row or column for every memory: (name, parameter, axis, first index).

    The M indices from ``first index`` along ``axis`` are the memories in order. Of the values: W_down, whose rows (in a
    Linear: columns) are the memory vectors, not its bias and not an adapter, in which a memory has no row of its own.
    Of keys and gates: weight, bias, ``lora_B`` and DoRA's magnitude.
    """
    for part in site.roles[role]:
        linear = base_linear(part.module)
        transposed = is_conv1d(linear)
        for name, parameter in part.module.named_parameters():
            if role == "values":
                if parameter is getattr(linear, "weight", None) and parameter.dim() == 2:
                    yield f"{part.path}.{name}", parameter, 0 if transposed else 1, 0
                continue
            features = (linear_shape(part.module) or (0, 0))[1]
            axis = output_dim(name, parameter, features, transposed)
            if axis is not None:
                first = 0 if part.rows is None else part.rows.indices(features)[0]
                yield f"{part.path}.{name}", parameter, axis, first


def is_adapted(site: Site, role: RoleName) -> bool:
    """Whether adapters sit on a projection of the role."""
    return any(inner(part.path, part.module)[1] is not base_linear(part.module) for part in site.roles[role])


def key_degree(model: nn.Module, site: Site) -> float | None:
    """The degree d in ``k_i(c w_i) = c^d k_i(w_i)``, c > 0, for all that feeds coefficient i of ``roles["keys"]``.

    1 in a gated FFN and with ReLU, 2 with squared ReLU; None where scaling the keys does not scale k (GELU, xIELU).
    """
    if site.gated:
        return 1.0
    root = root_model(model)
    config: Any = text_config(root[1]) if root is not None else None
    named = [getattr(config, name) for name in _ACTIVATIONS if isinstance(getattr(config, name, None), str)]
    return _DEGREES.get(named[0]) if named else None


def _decoder(model: nn.Module) -> Decoder:
    root = root_model(model)
    decoder = find_decoder(model)
    if decoder is None and root is not None:
        decoder = find_decoder(model, infer_layout(root[1]))  # sites were located on trust
    if decoder is None:
        raise ArchitectureError("no text decoder was found", got=type(model).__name__, expected="a located model")
    return decoder


def _is_norm(module: nn.Module | None) -> bool:
    return module is not None and "norm" in type(module).__name__.lower()


def _in_layer(layer: str, name: str, modules: dict[str, nn.Module], in_ffn: bool) -> str:
    steps = name[len(layer) + 1 :].split(".")[:-1]
    chain = [modules[".".join([layer, *steps[: i + 1]])] for i in range(len(steps))]
    if any(_is_norm(module) for module in chain):
        return "norms"
    if in_ffn:
        return "ffn"
    return "attention" if any(_MIXERS.search(type(module).__name__) for module in chain) else "other"


def _outside(decoder: Decoder, name: str, modules: dict[str, nn.Module]) -> str:
    prefix = f"{decoder.path}." if decoder.path else ""
    if not name.startswith(prefix):
        return "other"
    first = modules.get(prefix + name[len(prefix) :].split(".")[0])
    if first is None:
        return "other"
    if isinstance(base_linear(first), nn.Embedding):
        return "embeddings"
    return "norms" if _is_norm(inner("", first)[1]) else "other"
