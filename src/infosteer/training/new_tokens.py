"""Special tokens that data methods put into rows: known to the tokenizer, with embeddings to begin from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from infosteer.core.contract import Method
from infosteer.core.data import DataMethod
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
    with torch.no_grad():
        for table in _tables(model):  # tied ones come twice, with the same result
            table[list(ids)] = table[:first].float().mean(0).to(table.dtype)


def copy_token_rows(model: Any, tokenizer: Any, methods: Sequence[Method]) -> None:
    """Copies the rows of the methods' special tokens, in embedding and head, from the models they name as their source.

    Raises:
        ConfigError: a source of another width, or with other token numbers.
    """
    import torch

    from infosteer.training.loading import load_model, load_tokenizer

    for method in methods:
        if not isinstance(method, DataMethod) or method.off or method.token_source is None:
            continue
        ours, theirs = tokenizer.get_vocab(), load_tokenizer(method.token_source).get_vocab()
        source, names = load_model(method.token_source), method.new_tokens
        tables, given = _tables(model), _tables(source)
        others = [name for name in ours if name not in names and name in theirs and ours[name] != theirs[name]]
        missing = [name for name in names if name not in theirs]
        widths = {table.shape[1:] for table in [*tables, *given] if table.dim() == 2}
        if others or missing or len(widths) > 1 or len(tables) != len(given):
            raise ConfigError(
                "Embeddings of special tokens can be copied from a model of the same tokens and size alone.",
                where=f"the token source {method.token_source}",
                got=f"lacks {', '.join(missing) or 'no token'}; {len(others)} tokens have other numbers",
                expected="the instruct model that was made of this base",
            )
        with torch.no_grad():
            for table, rows in zip(tables, given, strict=True):
                table[[ours[name] for name in names]] = rows[[theirs[name] for name in names]].to(table)


def end_at(model: Any, tokenizer: Any, methods: Sequence[Method]) -> None:
    """Lets answers end at the methods' own end tokens too; the saved generation settings say so."""
    names = [name for m in methods if isinstance(m, DataMethod) and not m.off for name in m.end_tokens]
    if names:
        own = model.generation_config.eos_token_id
        ends = [own] if isinstance(own, int) else [*(own or [tokenizer.eos_token_id])]
        ends += [int(tokenizer.convert_tokens_to_ids(name)) for name in names]
        model.generation_config.eos_token_id = list(dict.fromkeys(ends))


def silence(model: Any, tokenizer: Any, methods: Sequence[Method]) -> None:
    """Keeps answers free of the methods' silent tokens; the saved generation settings say so."""
    names = [name for m in methods if isinstance(m, DataMethod) and not m.off for name in m.silent_tokens]
    if names:
        ids = [int(tokenizer.convert_tokens_to_ids(name)) for name in names]
        model.generation_config.suppress_tokens = sorted({*(model.generation_config.suppress_tokens or []), *ids})


def _tables(model: Any) -> list[Any]:
    """Embedding and head (and its bias); tied ones come twice."""
    head = model.get_output_embeddings()
    tables = [model.get_input_embeddings().weight]
    if head is not None:
        tables += [head.weight, *([head.bias] if getattr(head, "bias", None) is not None else [])]
    return tables


def refuse_frozen(ids: Sequence[int], peft: Any, methods: Sequence[Method] = ()) -> None:
    """Refuses new tokens where only an adapter is trained: their embeddings would stay what they began as, or be lost
    when the adapter alone is saved.

    Raises:
        ConfigError: new tokens, or a source of their embeddings, and settings of an adapter.
    """
    copied = any(isinstance(m, DataMethod) and not m.off and m.token_source is not None for m in methods)
    if (ids or copied) and peft is not None:
        raise ConfigError(
            "A data method brings new tokens, whose embeddings an adapter would never train.",
            where="train.peft",
            fix="train all weights, or a model whose tokenizer has the tokens already",
        )
