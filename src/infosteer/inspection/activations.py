"""Hidden states of many texts at one place: what every layer holds at a token counted from the end.

Texts of the same number of tokens share a batch, so that nothing is padded: no family's masks, positions or recurrent
states play a part, and a text's states do not depend on what stands beside it.

Legend: L layers, N texts, T time, D hidden.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from infosteer.errors import DataError
from infosteer.evaluation.model_state import context_length, device_of, encode, evaluating, prompt_text
from infosteer.models import decoder_blocks, main_stream, select_layers, visiting_blocks

BATCH = 64


def token_rows(tokenizer: Any, texts: Sequence[Any], *, least: int = 1) -> list[list[int]]:
    """Token ids of texts, or of lists of chat messages put through the chat template.

    Raises:
        DataError: no texts, things that are none, or a text of fewer tokens than ``least``.
    """
    if isinstance(texts, str) or not len(texts):
        raise DataError("There are no texts to read.", got=f"{type(texts).__name__} of length {len(texts)}")
    for number, text in enumerate(texts):
        if not isinstance(text, str | list) or not text:
            raise DataError("This is no text.", where=f"text {number}", got=repr(text)[:80], expected="non-empty text")
    chats = {isinstance(text, list) for text in texts}
    if len(chats) > 1:
        raise DataError("Texts and chat messages are mixed.", expected="one kind")
    rows = encode(tokenizer, [prompt_text(tokenizer, text) for text in texts], special=chats == {False})
    for number, row in enumerate(rows):
        if len(row) < least:
            raise DataError(
                "A text has too few tokens for the place that is read.",
                where=f"text {number}: {str(texts[number])[:60]!r}",
                got=f"{len(row)} tokens",
                expected=f"at least {least}",
            )
    return rows


def same_length_batches(model: Any, rows: Sequence[Sequence[int]], size: int = BATCH) -> Iterator[list[int]]:
    """Numbers of rows of one length, at most ``size`` at a time, short rows first.

    Raises:
        DataError: a row that is longer than the model's context.
    """
    limit = context_length(model)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    if limit is not None and order and len(rows[order[-1]]) > limit:
        raise DataError(
            "A text is longer than the model's context.",
            where=f"text {order[-1]}",
            got=f"{len(rows[order[-1]])} tokens",
            expected=f"at most {limit}",
            fix="shorten the text or leave it out",
        )
    for _, group in itertools.groupby(order, key=lambda i: len(rows[i])):
        numbers = list(group)
        yield from (numbers[start : start + size] for start in range(0, len(numbers), size))


def collect_states(
    model: Any,
    tokenizer: Any,
    texts: Sequence[Any],
    *,
    layers: str | Sequence[int] = "all",
    position: int = -1,
    batch_size: int = BATCH,
) -> dict[int, Tensor]:
    """Hidden states that layers put out at one token of every text.

    Args:
        model: a causal language model of a family in the table.
        tokenizer: its tokenizer.
        texts: strings, or lists of chat messages.
        layers: as everywhere: ``all``, ``early``, ``0-3``, a list.
        position: the token, counted from the end: -1 is the last.
        batch_size: texts in one forward.

    Returns:
        layer -> (N, D) float32 on the CPU, in the order of the texts.

    Raises:
        DataError: texts that are empty, too short for the position, or too long for the model.
        ArchitectureError: a family that is not in the table.
    """
    if position >= 0:
        raise DataError("The token is counted from the end.", where="position", got=position, expected="-1, -2, ...")
    chosen = select_layers(layers, len(decoder_blocks(model)))
    rows = token_rows(tokenizer, texts, least=-position)
    kept: dict[int, list[Tensor]] = {layer: [] for layer in chosen}
    order: list[int] = []

    def see(layer: int, states: Tensor) -> None:
        kept[layer].append(main_stream(model, states)[:, position].float().cpu())

    with evaluating(model), visiting_blocks(model, see, chosen):
        for batch in same_length_batches(model, rows, batch_size):
            model(input_ids=torch.tensor([rows[i] for i in batch], device=device_of(model)), use_cache=False)
            order += batch
    back = torch.tensor(order).argsort()
    return {layer: torch.cat(parts)[back] for layer, parts in kept.items()}
