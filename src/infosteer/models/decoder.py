"""Finding the text decoder of a model before anything is matched by name.

Vision and audio towers have a ``down_proj`` or an ``fc2`` of their own, so the path of a layout row is only ever
followed from inside the text decoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from infosteer.errors import ArchitectureError
from infosteer.models.table import LAYOUTS, FFNLayout
from infosteer.models.walk import base_linear, descend, inner, join, root_model


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """A text decoder: its path and module in the model given, its layout, and its layers as (path, module)."""

    path: str
    module: nn.Module
    layout: FFNLayout
    layers: tuple[tuple[str, nn.Module], ...]


def text_config(root: PreTrainedModel) -> Any:
    """The config of the text decoder.

    Raises:
        ArchitectureError: the model is an encoder-decoder, or has several text decoders.
    """
    if getattr(root.config, "is_encoder_decoder", False):
        raise ArchitectureError(
            "encoder-decoder models are not supported",
            got=f"{type(root).__name__} (model_type {root.config.model_type!r})",
            expected="a decoder-only language model",
            fix="use a decoder-only model, such as Llama, Qwen or Gemma",
        )
    try:
        return root.config.get_text_config(decoder=True)
    except ValueError as error:
        raise ArchitectureError(
            "the model has several text decoders, and which of them to steer is not clear",
            got=f"{type(root).__name__} (model_type {root.config.model_type!r})",
            expected="a model with one text decoder",
            fix="pass the inner text model itself",
        ) from error


def text_modules(root_path: str, root: PreTrainedModel) -> list[tuple[str, PreTrainedModel]]:
    """Every transformers model inside ``root`` that carries the text decoder's model type, outermost first."""
    wanted = text_config(root).model_type
    return [
        (join(root_path, name), module)
        for name, module in root.named_modules()
        if isinstance(module, PreTrainedModel) and module.config.model_type == wanted
    ]


def decoder_layers(path: str, module: nn.Module, layout: FFNLayout) -> tuple[tuple[str, nn.Module], ...]:
    """The layers of a decoder, each behind its transparent wrappers; empty where the path leads nowhere."""
    found = descend(path, module, layout.layers)
    if found is None:
        return ()
    list_path, blocks = inner(*found)
    if not isinstance(blocks, nn.ModuleList):
        return ()
    # Not named_children(), which leaves out a block that is used for several layers.
    return tuple(inner(join(list_path, str(number)), block) for number, block in enumerate(blocks))


def find_decoder(model: nn.Module, layout: FFNLayout | None = None) -> Decoder | None:
    """The text decoder of ``model``; ``None`` where the model or its type is unknown.

    Args:
        model: any module that holds one transformers model.
        layout: the row to use instead of the table's.

    Raises:
        ArchitectureError: an encoder-decoder, several models or several text decoders in one module.
    """
    found = root_model(model)
    if found is None:
        return None
    config = text_config(found[1])
    layout = layout or LAYOUTS.get(config.model_type)
    if layout is None:
        return None
    decoders = [
        Decoder(path=path, module=module, layout=layout, layers=layers)
        for path, module in text_modules(*found)
        if (layers := decoder_layers(path, module, layout))
    ]
    if len(decoders) > 1:  # a speech head may be of the same type: the main decoder is the one built from this config
        decoders = [decoder for decoder in decoders if decoder.module.config is config] or decoders
    if len(decoders) > 1:
        raise ArchitectureError(
            f"several decoders of type {config.model_type!r} were found",
            where=", ".join(decoder.path or "the model itself" for decoder in decoders),
            got=type(found[1]).__name__,
            expected="a model with one text decoder",
            fix="pass the inner text model itself",
        )
    return decoders[0] if decoders else None


def output_head(model: nn.Module) -> torch.Tensor:
    """The weight of the output head, shape (V, D), detached and not to be written to.

    Under PEFT the base weight without an adapter, or the copy in training where the head is in ``modules_to_save``.

    Raises:
        ArchitectureError: the model has no language-model head.
    """
    found = root_model(model)
    head = found[1].get_output_embeddings() if found is not None else None
    weight = getattr(base_linear(head), "weight", None) if head is not None else None
    if not isinstance(weight, torch.Tensor) or weight.dim() != 2:
        raise ArchitectureError(
            "the model has no readable language-model head",
            got=type(found[1] if found else model).__name__,
            expected="a causal language model with an output embedding of shape (V, D)",
            fix="load it with AutoModelForCausalLM",
        )
    weight = weight.detach()
    return cast(Any, weight).full_tensor() if hasattr(weight, "full_tensor") else weight


def final_norm(model: nn.Module) -> nn.Module:
    """The norm between the last decoder layer and the head; for reading only.

    Raises:
        ArchitectureError: the model is not in the table, or this variant has no final norm.
    """
    decoder = find_decoder(model)
    norm = descend(decoder.path, decoder.module, decoder.layout.norm) if decoder is not None else None
    if norm is None:
        raise ArchitectureError(
            "the final norm of the model was not found",
            got=type(model).__name__,
            expected="a model whose model_type is in docs/architectures.md, with a norm after the last layer",
            fix="read the hidden states through the model's own forward instead",
        )
    return norm[1]
