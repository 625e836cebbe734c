"""A tiny model, one batch, and what its sites saw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from infosteer.models import locate
from infosteer.ops.counter import mix

VOCABULARY = 31


def llama(**changes: Any) -> nn.Module:
    settings = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(**{**settings, "vocab_size": VOCABULARY, "initializer_range": 0.3, **changes})
    torch.manual_seed(0)
    return LlamaForCausalLM(config).train()


def batch() -> dict[str, Tensor]:
    """Four rows of nine tokens, one padded on each side, four tokens of prompt each."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(1, VOCABULARY, (4, 9), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    mask[3, :2] = 0
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :4] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def counted(rows: dict[str, Tensor]) -> Tensor:
    """(B, T) bool: rows whose next token carries loss."""
    return nn.functional.pad(rows["labels"][:, 1:] != -100, (0, 1))


def watch(model: nn.Module) -> dict[int, list[Tensor]]:
    """Layer -> what its down projection got in every call from now on."""
    seen: dict[int, list[Tensor]] = {}

    def reader(layer: int) -> Callable[..., None]:
        return lambda module, args: seen.setdefault(layer, []).append(args[0])

    for site in locate(model):
        site.module.register_forward_pre_hook(reader(site.layer))
    return seen


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def keys_of(shape: Sequence[int], seed: int = 0) -> Tensor:
    """A key for every row of a tensor (..., M) of this shape."""
    count = int(torch.Size(shape[:-1]).numel())
    return mix(torch.arange(count) + 1000 * seed)
