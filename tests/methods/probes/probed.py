"""A tiny model, a batch with padding, what its layers have as coefficients, and what a probe says of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

import infosteer

V = 40


def llama(**changes: Any) -> LlamaForCausalLM:
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
    torch.manual_seed(0)
    config = LlamaConfig(**{**shape, "num_key_value_heads": 2, "vocab_size": V, **changes})
    config.initializer_range = 0.3
    return LlamaForCausalLM(config)


def batch() -> dict[str, Tensor]:
    ids = torch.randint(1, V, (4, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, 5:], mask[3, 3:] = 0, 0
    return {"input_ids": ids * mask, "attention_mask": mask}


def coefficients(model: Any, inputs: dict[str, Tensor]) -> list[Tensor]:
    """k of every layer, (B, T, M), by hooks of our own."""
    found: list[Tensor] = []
    hooks = [
        layer.mlp.down_proj.register_forward_pre_hook(lambda _, args: found.append(args[0].detach().double()))
        for layer in model.model.layers
    ]
    with torch.no_grad():
        model(**inputs, use_cache=False)
    for hook in hooks:
        hook.remove()
    return found


def entropy(weights: Tensor) -> Tensor:
    p = weights / weights.sum(-1, keepdim=True)
    return -torch.where(p > 0, p * p.log(), 0.0).sum(-1)


def read(model: Any, probe: Any, **arguments: Any) -> dict[str, float]:
    """The metrics of a probe over one evaluated batch, without the prefix of the log."""
    with infosteer.steer(model.eval(), [probe], **arguments) as session, torch.no_grad():
        model(**batch(), use_cache=False)
        found = session.metrics()
    assert all(key.startswith(f"infosteer/{type(probe).label()}/") for key in found)
    return {key.split("/", 2)[2]: value for key, value in found.items()}
