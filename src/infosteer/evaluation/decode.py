"""Decoding in batches, the same for every batch size, model and generation config: greedy, or with seeded noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteriaList

from infosteer.errors import ConfigError
from infosteer.evaluation.caches import is_plain, keeps_plain
from infosteer.evaluation.model_state import (
    context_length,
    device_of,
    encode,
    evaluating,
    left_padded,
    pad_id,
    prompt_text,
    unwrapped,
)
from infosteer.evaluation.stopping import StopTexts

Progress = Callable[[int], None]
Noise = Callable[[Sequence[int]], LogitsProcessor]  # of the prompts with these numbers, in this order


@dataclass(frozen=True, kw_only=True, slots=True)
class Decoded:
    """One continuation.

    Attributes:
        text: what the model wrote, up to the first stop string.
        tokens: how many tokens that took.
        finished: whether it ended by itself (end token or stop string) and not at ``max_new_tokens``.
        too_long: the prompt left no room in the model's context, so nothing was decoded.
        confidence: probability of writing just this: the product of its tokens' probabilities, its end included. NaN
            where nothing was decoded, and where noise chose the tokens.
    """

    text: str
    tokens: int
    finished: bool
    too_long: bool
    confidence: float = field(default=math.nan, compare=False)


def decode(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Any],
    *,
    max_new_tokens: int,
    stops: Sequence[Sequence[str]] | None = None,
    batch_size: int = 64,
    noise: Noise | None = None,
    progress: Progress | None = None,
) -> list[Decoded]:
    """Greedy continuations of ``prompts`` (texts or lists of chat messages), in their order.

    Prompts are sorted by length, so that batches hold little padding, and padded by hand on the left, so that the
    tokenizer's own settings play no part. A prompt near the end of the context is decoded as far as there is room, in
    batches of prompts with the same room, so that what stands beside it changes nothing.

    Args:
        stops: for each prompt, texts that end its continuation; they are cut off.
        noise: gives each batch what changes its logits before the largest is taken (see ``sampling``).
        progress: called with the number of prompts just finished.
    """
    chats = [not isinstance(prompt, str) for prompt in prompts]
    texts = [prompt_text(tokenizer, prompt) for prompt in prompts]
    ids: list[list[int]] = [[]] * len(prompts)
    for chat in (False, True):
        chosen = [i for i, is_chat in enumerate(chats) if is_chat == chat]
        for i, row in zip(chosen, encode(tokenizer, [texts[i] for i in chosen], special=not chat), strict=True):
            ids[i] = row
    return decode_ids(
        model,
        tokenizer,
        ids,
        max_new_tokens=max_new_tokens,
        stops=stops,
        batch_size=batch_size,
        noise=noise,
        progress=progress,
    )


def decode_ids(
    model: Any,
    tokenizer: Any,
    ids: Sequence[list[int]],
    *,
    max_new_tokens: int,
    stops: Sequence[Sequence[str]] | None = None,
    batch_size: int = 64,
    noise: Noise | None = None,
    confidence: bool = True,
    progress: Progress | None = None,
) -> list[Decoded]:
    """As ``decode``, from prompts as token ids; an empty one is not decoded.

    Args:
        confidence: whether to work out each continuation's probability, which costs a pass over all logits.
    """
    if not callable(getattr(model, "generate", None)):
        raise ConfigError(
            "the model cannot generate text", got=type(model).__name__, expected="a causal language model"
        )
    stops = stops if stops is not None else [()] * len(ids)
    limit = context_length(model)
    room = [max_new_tokens if limit is None else min(max_new_tokens, limit - len(row)) for row in ids]
    results = [Decoded(text="", tokens=0, finished=False, too_long=True)] * len(ids)
    order = sorted((i for i in range(len(ids)) if room[i] > 0 and ids[i]), key=lambda i: (-room[i], -len(ids[i]), i))
    if progress is not None and len(order) < len(ids):
        progress(len(ids) - len(order))
    ends = end_ids(getattr(unwrapped(model), "generation_config", None), tokenizer)
    with evaluating(model), _generation_config(model) as base:
        for batch in _batches(order, room, batch_size):
            for i, one in zip(
                batch,
                _decode_batch(
                    model,
                    tokenizer,
                    [ids[i] for i in batch],
                    [stops[i] for i in batch],
                    room=room[batch[0]],
                    ends=ends,
                    base=base,
                    noise=None if noise is None else noise(batch),
                    confidence=confidence and noise is None,
                ),
                strict=True,
            ):
                results[i] = one
            if progress is not None:
                progress(len(batch))
    return results


def _batches(order: Sequence[int], room: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    batch: list[int] = []
    for i in order:
        if batch and (len(batch) == batch_size or room[i] != room[batch[0]]):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _decode_batch(
    model: Any,
    tokenizer: Any,
    ids: Sequence[list[int]],
    stops: Sequence[Sequence[str]],
    *,
    room: int,
    ends: list[int],
    base: GenerationConfig,
    noise: LogitsProcessor | None,
    confidence: bool,
) -> list[Decoded]:
    """Continuations of one batch. When half of the rows have ended, the others soon go on without them."""
    inputs = left_padded(ids, pad_id(tokenizer), device_of(model))
    tokens, mask = inputs["input_ids"], inputs["attention_mask"]
    T = tokens.shape[1]
    config = GenerationConfig(
        do_sample=False,
        num_beams=1,
        use_cache=True,
        return_dict_in_generate=True,
        eos_token_id=ends or None,
        pad_token_id=pad_id(tokenizer),
        bos_token_id=base.bos_token_id,
        suppress_tokens=silent_ids(base, tokenizer) or None,
    )
    shrinks = noise is None and keeps_plain(model)  # draws belong to the rows that they were begun with
    rows, cache = list(range(len(ids))), None
    found: list[list[int]] = [[] for _ in ids]
    totals, ended = [0.0] * len(ids), [0] * len(ids)
    while rows:
        before = tokens.shape[1] - T
        config.max_new_tokens = room - before
        largest = _Largest()
        stopping = StopTexts(tokenizer, [stops[row] for row in rows], T, ends, enough=len(rows) // 2 if shrinks else 0)
        out = model.generate(
            input_ids=tokens,
            attention_mask=mask,
            generation_config=config,
            stopping_criteria=StoppingCriteriaList([stopping]),
            logits_processor=LogitsProcessorList([noise] if noise is not None else [largest] if confidence else []),
            **({} if cache is None else {"past_key_values": cache}),
        )
        tokens = out.sequences
        going = stopping.running if tokens.shape[1] - T < room else []
        for n, row in enumerate(rows):
            totals[row] += largest.total(n, stopping.ended[n] - before)
            found[row], ended[row] = tokens[n, T:].tolist(), stopping.ended[n]
        if not going:
            break
        kept = torch.tensor(going, device=tokens.device)
        mask = torch.nn.functional.pad(mask, (0, tokens.shape[1] - mask.shape[1]), value=1)[kept]
        tokens, rows = tokens[kept], [rows[n] for n in going]
        cache = out.past_key_values if is_plain(out.past_key_values) else None
        if cache is not None:
            cache.batch_select_indices(kept)
    return [
        _decoded(tokenizer, row, stops[n], ends, ended[n], math.exp(totals[n]) if confidence else math.nan)
        for n, row in enumerate(found)
    ]


def _decoded(
    tokenizer: Any, row: list[int], stops: Sequence[str], ends: list[int], written: int, confidence: float
) -> Decoded:
    """What a row of new tokens says, of which the first ``written`` are its own, an end token or stop text included."""
    end = next((t for t, token in enumerate(row) if token in ends), None)
    text = tokenizer.decode(row[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    cuts = [at for stop in stops if (at := text.find(stop)) >= 0]
    return Decoded(
        text=text[: min(cuts)] if cuts else text,
        tokens=written if end is None else end,
        finished=end is not None or bool(cuts),
        too_long=False,
        confidence=confidence,
    )


class _Largest(LogitsProcessor):
    """Changes nothing; keeps the log-probability of the token that greedy decoding takes at each step."""

    def __init__(self) -> None:
        self._steps: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        self._steps.append(scores.float().log_softmax(-1).amax(-1).cpu())
        return scores

    def total(self, b: int, steps: int) -> float:
        """Sum over the first steps of row b, in nats."""
        return float(sum(step[b] for step in self._steps[:steps]))


def end_ids(config: GenerationConfig | None, tokenizer: Any) -> list[int]:
    """End tokens of the tokenizer and of a generation config (instruction models name several there)."""
    own = getattr(config, "eos_token_id", None)
    found = own if isinstance(own, list) else [own]
    return sorted({int(token) for token in [*found, tokenizer.eos_token_id] if token is not None})


def silent_ids(config: GenerationConfig, tokenizer: Any) -> list[int]:
    """Special tokens that a generation config suppresses: control tokens, which a model reads and never writes.

    Ordinary tokens stay possible, whatever the config says, as greedy decoding is greedy.
    """
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return sorted(special & set(config.suppress_tokens or ()))


@contextmanager
def _generation_config(model: Any) -> Iterator[GenerationConfig]:
    """Put a blank generation config in place of the model's own, and give it back afterwards.

    ``generate`` fills every value that the given config leaves at None from the model's config, so a repetition
    penalty or a length limit saved with a model would otherwise act on "greedy" decoding unseen.
    """
    holders: list[tuple[Any, GenerationConfig]] = []
    for part in (model, unwrapped(model)):
        if "generation_config" in vars(part) and all(part is not known for known, _ in holders):
            holders.append((part, part.generation_config))
    blank = GenerationConfig()
    try:
        for part, _ in holders:
            part.generation_config = blank
        yield holders[-1][1] if holders else blank
    finally:
        for part, config in holders:
            part.generation_config = config
