"""Rows to token ids and labels: one function for training and for the preview of ``infosteer validate``.

The same rules as TRL's SFTTrainer (a test compares them): the prompt is tokenised alone and with the completion, and
the completion begins where the two part; an end token closes a plain completion; rows are cut on the right.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from infosteer.errors import ConfigError, DataError
from infosteer.training.segments import segment_token_row, segment_tokens

if TYPE_CHECKING:
    from infosteer.core.contract import Method
    from infosteer.core.marks import TokenRow

IGNORED = -100


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoded:
    """Token ids, labels and marks of all rows that carry loss, and how many rows were cut or left without any label."""

    rows: list[dict[str, list[Any]]]
    truncated: int
    dropped: int


def encode_row(row: Mapping[str, Any], tokenizer: Any, *, completion_only_loss: bool = True) -> dict[str, list[int]]:
    """Token ids (T,) and labels (T,) of one row; label -100 carries no loss.

    Args:
        row: ``prompt`` and ``completion`` (both text, or both lists of chat messages), ``messages``, ``text``, or
            ``segments`` (see :mod:`infosteer.training.segments`). Of messages the last reply is the completion; plain
            text is all completion.
    """
    if "segments" in row:
        ids, learnt = segment_tokens(row, tokenizer)
        kept = [one or not completion_only_loss for one in learnt]
        return {"input_ids": ids, "labels": [i if one else IGNORED for i, one in zip(ids, kept, strict=True)]}
    ids, start = _tokens(row, tokenizer)
    start = start if completion_only_loss else 0
    return {"input_ids": ids, "labels": [IGNORED] * start + ids[start:]}


def _sides(row: Mapping[str, Any]) -> tuple[Any, Any]:
    """Prompt and completion of a row: two texts, or two lists of messages."""
    if "text" in row:
        return "", row["text"]
    if "messages" in row:
        return row["messages"][:-1], row["messages"][-1:]
    return row["prompt"], row["completion"]


def _tokens(row: Mapping[str, Any], tokenizer: Any) -> tuple[list[int], int]:
    """Token ids (T,) of a row, and the first one of its completion."""
    prompt, completion = _sides(row)
    if isinstance(prompt, str):
        prompt_ids = list(tokenizer(prompt)["input_ids"]) if prompt else []
        ids = list(tokenizer(_closed(prompt + completion, tokenizer))["input_ids"])
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
    for ours, both in zip(prompt_ids, ids, strict=False):
        if ours != both:
            break
        start += 1
    return ids, start


def _closed(text: str, tokenizer: Any) -> str:
    return text if text.endswith(tokenizer.eos_token) else text + tokenizer.eos_token


def row_with_tokens(row: Mapping[str, Any], tokenizer: Any) -> TokenRow:
    """One row as methods that mark tokens see it: text, tokens, and the characters that each token stands for.

    Raises:
        ConfigError: a tokenizer or a chat template that does not tell.
    """
    from infosteer.training.token_rows import chat_parts, token_row

    if "segments" in row:
        return segment_token_row(row, tokenizer)
    prompt, completion = _sides(row)
    ids, start = _tokens(row, tokenizer)
    if isinstance(prompt, str):
        text = _closed(prompt + completion, tokenizer)
        middle, end = len(prompt), len(prompt + completion)
        parts = [("text", 0, end)] if "text" in row else [("prompt", 0, middle), ("completion", middle, end)]
    else:
        text, parts = chat_parts(
            [*prompt, *completion], lambda messages: tokenizer.apply_chat_template(messages, tokenize=False)
        )
    return token_row(row, text, parts, ids, start, tokenizer)


def encode_rows(
    rows: Iterable[Mapping[str, Any]],
    tokenizer: Any,
    *,
    completion_only_loss: bool = True,
    max_length: int | None = None,
    methods: Sequence[Method] = (),
) -> Encoded:
    """All rows, cut to ``max_length`` tokens; rows left without a label are dropped and counted.

    Those of ``methods`` that mark tokens add a column ``marks_<name>`` of one number a token.

    Raises:
        DataError: when no row is left, or when a method finds nothing to mark.
        ConfigError: marks are asked for, and the tokenizer does not say which characters its tokens stand for.
    """
    kept: list[dict[str, list[Any]]] = []
    truncated = dropped = 0
    rows = list(rows)
    marks = _marks(rows, tokenizer, methods) if methods else {}
    for number, row in enumerate(rows):
        encoded: dict[str, list[Any]] = dict(encode_row(row, tokenizer, completion_only_loss=completion_only_loss))
        encoded |= {column: values[number] for column, values in marks.items()}
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


def _marks(
    rows: Sequence[Mapping[str, Any]], tokenizer: Any, methods: Sequence[Method]
) -> dict[str, list[list[float]]]:
    """Column -> the marks of every row."""
    from infosteer.training.token_rows import marking_methods

    asking = marking_methods(methods)
    seen = [row_with_tokens(row, tokenizer) for row in rows] if asking else []
    return {name: method.marks(seen) for name, method in asking.items()}


def _chat_ids(tokenizer: Any, messages: list[dict[str, str]], **options: Any) -> list[int]:
    return list(tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, **options)["input_ids"])
