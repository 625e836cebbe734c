"""From the final hidden states to logits, as each family's own forward computes them.

Trainers no longer build logits in the forward (they fuse the head with the loss), so what needs them - losses over the
vocabulary, the reading of memory vectors - computes them here.

Legend: D hidden, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from infosteer.errors import ArchitectureError
from infosteer.models.decoder import output_head, text_config
from infosteer.models.walk import root_model
from infosteer.ops.surrogate import information_surrogate

# What a family does besides the head's product, by model_type: the setting of its config, and the power it is taken to.
# Every row of the table is compared with its model's own logits by tests/models.
_BEFORE_HEAD = {"minicpm3": "dim_model_base"}
_FACTORS = {
    "cohere": ("logit_scale", 1),
    "cohere2": ("logit_scale", 1),
    "falcon_h1": ("lm_head_multiplier", 1),
    "granite": ("logits_scaling", -1),
    "granite_swa": ("logits_scaling", -1),
    "granitemoehybrid": ("logits_scaling", -1),
}
_CAPS = ("final_logit_softcapping", "logits_soft_cap")
CHUNK_ROWS = 1024  # what needs logits of many rows holds those of so many at a time


def head_logits(model: nn.Module, hidden: Tensor) -> Tensor:
    """Logits of final hidden states: hidden (..., D) after the final norm -> (..., V), differentiable in both.

    The head's own module is called, so adapters on it count; then come the family's scale and soft cap.

    Raises:
        ArchitectureError: the model has no language-model head.
    """
    found = root_model(model)
    head: Any = found[1].get_output_embeddings() if found is not None else None
    if found is None or head is None:
        raise ArchitectureError(
            "the model has no language-model head",
            got=type(found[1] if found else model).__name__,
            expected="a causal language model with an output embedding",
            fix="load it with AutoModelForCausalLM",
        )
    config = text_config(found[1])
    logits: Tensor = head(_before_head(config, hidden))
    return scaled_logits(config, logits)


def vocabulary_reading(model: nn.Module, vectors: Tensor) -> Tensor:
    """Vectors (..., D) of the residual stream in vocabulary space, (..., V) fp32 (fp64 for fp64).

    What ``head_logits`` computes, but for the head's bias, which is no vector's doing; products are summed in fp32.

    Raises:
        ArchitectureError: the model has no language-model head.
        ConfigError: a head whose weight holds no floating numbers (quantised).
    """
    weight = output_head(model)
    found = root_model(model)
    assert found is not None  # output_head has found it
    config = text_config(found[1])
    return scaled_logits(config, information_surrogate(_before_head(config, vectors), weight))


def _before_head(config: Any, hidden: Tensor) -> Tensor:
    if config.model_type not in _BEFORE_HEAD:
        return hidden
    return hidden / (config.hidden_size / getattr(config, _BEFORE_HEAD[config.model_type]))


def scaled_logits(config: Any, logits: Tensor) -> Tensor:
    """What a family does to the product of hidden states and head: a constant factor, or a cap c: c tanh(x / c)."""
    if config.model_type in _FACTORS:
        name, power = _FACTORS[config.model_type]
        return logits * float(getattr(config, name)) ** power
    for name in _CAPS:
        if cap := getattr(config, name, None):
            return torch.tanh(logits / cap) * cap
    return logits
