"""Special tokens that data methods put into rows: known to the tokenizer, with embeddings to begin from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from infosteer.core.contract import Method
from infosteer.core.surfaces import DataMethod
from infosteer.errors import ConfigError


def add_new_tokens(tokenizer: Any, methods: Sequence[Method]) -> list[int]:
    """Lets the tokenizer know the methods' special tokens; the numbers of those that it did not know."""
    wanted = [name for m in methods if isinstance(m, DataMethod) and not m.off for name in m.new_tokens]
    known = tokenizer.get_vocab()
    new = [name for name in dict.fromkeys(wanted) if name not in known]
    if new:
        tokenizer.add_tokens(new, special_tokens=True)
    return [int(tokenizer.convert_tokens_to_ids(name)) for name in new]


def embed_new_tokens(model: Any, tokenizer: Any, ids: Sequence[int]) -> None:
    """Makes room for the tokens with these numbers; each begins as the mean of the others, in embedding and head.

    A bias of the head is treated alike.
    """
    import torch

    if not ids:
        return
    first = min(ids)
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    head = model.get_output_embeddings()
    tables = [model.get_input_embeddings().weight]
    if head is not None:
        tables += [head.weight, *([head.bias] if getattr(head, "bias", None) is not None else [])]
    with torch.no_grad():
        for table in tables:  # tied ones come twice, with the same result
            table[list(ids)] = table[:first].float().mean(0).to(table.dtype)


def refuse_frozen(ids: Sequence[int], peft: Any) -> None:
    """Refuses new tokens where only an adapter is trained: their embeddings would stay what they began as.

    Raises:
        ConfigError: new tokens, and settings of an adapter.
    """
    if ids and peft is not None:
        raise ConfigError(
            "A data method brings new tokens, whose embeddings an adapter would never train.",
            where="train.peft",
            fix="train all weights, or a model whose tokenizer has the tokens already",
        )
