"""Tiny models of several layouts and a tokenizer for them. Not a test module."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "models"))

from tiny_models import TEXT, VOCAB, tiny

from infosteer.models import locate

# Plain and gated, Conv1D, flattened rows, fused halves, capped logits, layers of unequal width, scaled logits or
# hidden states before the head, a biased head, positions without embeddings.
FAMILIES = (
    "llama", "gpt2", "opt", "phi3", "gemma2", "gemma3n_text", "gpt_neox", "minicpm3", "granite", "cohere", "phi",
    "bloom",
)  # fmt: skip


OTHERS = tuple(family for family in TEXT if family not in FAMILIES and not family.endswith("vl_text"))  # have a head


def make_model(family: str) -> nn.Module:
    """A tiny random model; where a cap on logits is usual, one low enough to bite."""
    return tiny(family, **({"final_logit_softcapping": 2.0} if family == "gemma2" else {}))


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A word is a token: ``w5`` is 5, up to ``w55``; anything else is 3."""
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, **{f"w{i}": i for i in range(5, 56)}}
    tokenizer = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>", bos_token="<s>", unk_token="<unk>"
    )


def words(*ids: int) -> str:
    return " ".join(f"w{i}" for i in ids)


def alone(model: nn.Module, ids: list[int]) -> tuple[list[Tensor], Tensor]:
    """Key coefficients (T, M) by layer and logits (T, V) of one text without padding, taken by hooks of our own."""
    found: dict[int, Tensor] = {}

    def keep(layer: int) -> Any:
        return lambda _, args: found.__setitem__(layer, args[0].detach().double().reshape(len(ids), -1))

    hooks = [site.module.register_forward_pre_hook(keep(site.layer)) for site in locate(model)]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].double()
    for hook in hooks:
        hook.remove()
    return [found[layer] for layer in sorted(found)], logits


def entropy(weights: Tensor) -> Tensor:
    p = weights / weights.sum(-1, keepdim=True)
    return -torch.where(p > 0, p * p.log(), 0.0).sum(-1)


__all__ = ["FAMILIES", "OTHERS", "VOCAB", "alone", "entropy", "make_model", "make_tokenizer", "words"]
