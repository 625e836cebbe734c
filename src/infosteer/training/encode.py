"""Rows to token ids and labels: one function for training and for the preview of ``infosteer validate``.

The same rules as TRL's SFTTrainer (a test compares them): the prompt is tokenised alone and with the completion, and
the completion begins where the two part; an end token closes a plain completion; rows are cut on the right.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from infosteer.errors import ConfigError, DataError

IGNORED = -100


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoded:
    """Token ids and labels of all rows that carry loss, and how many rows were cut or left without any label."""

    rows: list[dict[str, list[int]]]
    truncated: int
    dropped: int


def encode_row(row: Mapping[str, Any], tokenizer: Any, *, completion_only_loss: bool = True) -> dict[str, list[int]]:
    """Token ids (T,) and labels (T,) of one row; label -100 carries no loss.

    Args:
        row: ``prompt`` and ``completion`` (both text, or both lists of chat messages), ``messages``, or ``text``. Of
            messages the last reply is the completion; plain text is all completion.
    """
    if "text" in row:
        prompt, completion = "", row["text"]
    elif "messages" in row:
        prompt, completion = row["messages"][:-1], row["messages"][-1:]
    else:
        prompt, completion = row["prompt"], row["completion"]
    if isinstance(prompt, str):
        if not completion.endswith(tokenizer.eos_token):
            completion = completion + tokenizer.eos_token
        prompt_ids = list(tokenizer(prompt)["input_ids"]) if prompt else []
        ids = list(tokenizer(prompt + completion)["input_ids"])
    else:
        if not tokenizer.chat_template:
            raise ConfigError(
                "The tokenizer has no chat template, so messages cannot be written out.",
                where="data.format",
                got="messages",
                fix="use rows with prompt and completion, or a model with a chat template",
            )
        prompt_ids = _chat_ids(tokenizer, prompt, add_generation_prompt=True) if prompt else []
        ids = _chat_ids(tokenizer, [*prompt, *completion])
    start = 0
    if completion_only_loss:
        for ours, both in zip(prompt_ids, ids, strict=False):
            if ours != both:
                break
            start += 1
    return {"input_ids": ids, "labels": [IGNORED] * start + ids[start:]}


def encode_rows(
    rows: Iterable[Mapping[str, Any]],
    tokenizer: Any,
    *,
    completion_only_loss: bool = True,
    max_length: int | None = None,
) -> Encoded:
    """All rows, cut to ``max_length`` tokens; rows left without a label are dropped and counted.

    Raises: DataError when no row is left.
    """
    kept: list[dict[str, list[int]]] = []
    truncated = dropped = 0
    for row in rows:
        encoded = encode_row(row, tokenizer, completion_only_loss=completion_only_loss)
        if max_length is not None and len(encoded["input_ids"]) > max_length:
            truncated += 1
            encoded = {key: values[:max_length] for key, values in encoded.items()}
        # the first position is never predicted, so a label there alone carries no loss
        if any(label != IGNORED for label in encoded["labels"][1:]):
            kept.append(encoded)
        else:
            dropped += 1
    if not kept:
        raise DataError(
            "No training row carries a label.",
            where="data.train",
            got=f"{dropped} rows, all empty or cut before their answer",
            fix="raise train.max_length" if truncated else "check the data",
        )
    return Encoded(rows=kept, truncated=truncated, dropped=dropped)


def _chat_ids(tokenizer: Any, messages: list[dict[str, str]], **options: Any) -> list[int]:
    return list(tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, **options)["input_ids"])
