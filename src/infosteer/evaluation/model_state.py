"""What evaluation asks of a model and tokenizer, and the promise to leave both as they were."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from infosteer.errors import ConfigError


def unwrapped(model: Any) -> Any:
    """The model whose ``forward`` has the real signature: inside data-parallel, compiled and PEFT wrappers."""
    while True:
        if isinstance(getattr(model, "module", None), torch.nn.Module):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), torch.nn.Module):
            model = model._orig_mod
        elif callable(getattr(model, "get_base_model", None)):
            model = model.get_base_model()
        else:
            return model


def forward_parameters(model: Any) -> frozenset[str]:
    """Names of the arguments that the model's forward takes."""
    return frozenset(inspect.signature(unwrapped(model).forward).parameters)


def context_length(model: Any) -> int | None:
    """Longest sequence the model takes, in tokens; None when its config states none."""
    return longest_input(unwrapped(model).config)


def longest_input(config: Any) -> int | None:
    """Longest sequence of models with this config, in tokens; None when it states none."""
    config = config.get_text_config()
    for name in ("max_position_embeddings", "n_positions", "max_seq_len"):
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def vocabulary_size(model: Any) -> int:
    """Number of logits a position has."""
    return int(unwrapped(model).config.get_text_config().vocab_size)


def device_of(model: Any) -> torch.device:
    """Where the model's inputs go."""
    return next(iter(model.parameters())).device


def prefix_id(tokenizer: Any) -> int | None:
    """The token that stands before a text that has nothing before it: begin of text, or else end of text."""
    return tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id


def pad_id(tokenizer: Any) -> int:
    """A token to fill up with; it is masked, so any will do."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0


def prompt_text(tokenizer: Any, prompt: Any) -> str:
    """The text the model is given for a prompt: itself, or chat messages put through the chat template."""
    if isinstance(prompt, str):
        return prompt
    if not tokenizer.chat_template:
        raise ConfigError(
            "the rows hold chat messages, and the tokenizer has no chat template",
            fix="use rows with prompt and completion, or a model with a chat template",
        )
    return str(tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True))


def encode(tokenizer: Any, texts: Sequence[str], *, special: bool = True) -> list[list[int]]:
    """Token ids of each text as a model continues it: with the tokenizer's opening tokens, without a closing one.

    ``special=False`` for texts out of a chat template, which writes its own.
    """
    if not texts:
        return []
    rows = tokenizer(list(texts), add_special_tokens=special, verbose=False)["input_ids"]
    end = tokenizer.eos_token_id
    closes = special and end is not None and list(tokenizer("", verbose=False)["input_ids"])[-1:] == [end]
    if closes and end != tokenizer.bos_token_id:
        rows = [ids[:-1] if ids[-1:] == [end] else ids for ids in rows]
    return [list(ids) for ids in rows]


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Evaluation mode without gradients; every module's training flag comes back as it was, also after an error.

    ``no_grad`` and not inference mode: tensors that a module caches meanwhile must stay usable in training.
    """
    training = [module for module in model.modules() if module.training]
    if training:
        model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def left_padded(rows: Sequence[Sequence[int]], pad: int, device: torch.device) -> dict[str, torch.Tensor]:
    """Token ids, mask and positions (B, T) of rows of unequal length, the padding on the left."""
    T = max(map(len, rows))
    ids = torch.full((len(rows), T), pad, dtype=torch.long)
    mask = torch.zeros((len(rows), T), dtype=torch.long)
    for b, row in enumerate(rows):
        ids[b, T - len(row) :] = torch.tensor(row, dtype=torch.long)
        mask[b, T - len(row) :] = 1
    positions = (mask.cumsum(dim=1) - 1).clamp_min(0)
    inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
    return {name: tensor.to(device) for name, tensor in inputs.items()}
