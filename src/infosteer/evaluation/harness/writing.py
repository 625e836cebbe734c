"""lm-eval's requests for text: its settings for generation in this package's words, and their decoding."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from infosteer.errors import ConfigError
from infosteer.evaluation.decode import Noise, decode_ids
from infosteer.evaluation.harness.engine import encode_each
from infosteer.evaluation.model_state import prefix_id
from infosteer.evaluation.sampling import Draws

# What a task may say about how text is written; lm-eval's names. Anything else would change what "greedy" means.
LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # the first given counts
MAX_TOKENS = 256  # new tokens where a task names no limit, as in lm-eval


@dataclass(frozen=True, kw_only=True, slots=True)
class Style:
    """How one request's text is written.

    Attributes:
        max_tokens: most new tokens.
        stops: texts that end it.
        temperature: 0 takes the likeliest token; else tokens are drawn from ``softmax(logits / temperature)``.
        top_k, top_p: draw only among the k likeliest tokens, or the likeliest that hold this probability together.
    """

    max_tokens: int
    stops: tuple[str, ...]
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None


def style_of(settings: Mapping[str, Any]) -> Style:
    """The style that a task's ``generation_kwargs`` ask for.

    Raises:
        ConfigError: settings that this engine does not have.
    """
    given = {key: value for key, value in settings.items() if value is not None}
    until = given.pop("until", [])
    found = [given.pop(name) for name in LIMITS if name in given]
    temperature = float(given.pop("temperature", 0.0))
    sampled = given.pop("do_sample", temperature > 0)
    top_k, top_p = given.pop("top_k", None), given.pop("top_p", None)
    neutral = {"num_beams": 1, "repetition_penalty": 1.0}
    if left := {key: value for key, value in given.items() if neutral.get(key) != value}:
        raise ConfigError(
            "the task asks for a way of writing that this engine does not have",
            where="generation_kwargs",
            got=", ".join(f"{key}={value!r}" for key, value in left.items()),
            expected="until, max_gen_toks, do_sample, temperature, top_k, top_p",
            fix="run it with lm-eval's own model `hf`",
        )
    return Style(
        max_tokens=int(found[0]) if found else MAX_TOKENS,
        stops=tuple(stop for stop in ([until] if isinstance(until, str) else until) if stop),
        temperature=(temperature or 1.0) if sampled else 0.0,
        top_k=top_k if sampled else None,
        top_p=top_p if sampled else None,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """One continuation: its text, whether it ended by itself, and whether its context was cut from the left to fit."""

    text: str
    finished: bool
    cut: bool


def write(
    model: Any,
    tokenizer: Any,
    requests: Sequence[tuple[str, Style]],
    *,
    limit: int,
    batch_size: int,
    seed: int,
    advance: Callable[[int], None] | None = None,
) -> list[Written]:
    """Continuations of (context, style) in their order.

    A context that leaves less than its style's ``max_tokens`` of the ``limit`` tokens is cut from the left, as lm-eval
    does it.
    Draws depend on seed, context and how often the same context came before, not on what stands beside them.

    Raises:
        ConfigError: a style whose ``max_tokens`` leave no room for a context.
    """
    end, first = tokenizer.eos_token, prefix_id(tokenizer)
    opening = 0 if first is None else first  # where there is no context at all
    ids = encode_each(tokenizer, [context for context, _ in requests], tokenizer.bos_token)
    before = Counter[str]()
    keys = []
    for context, _ in requests:
        before[context] += 1
        keys.append(hashlib.sha256(f"{seed}\n{before[context]}\n{context}".encode()).digest())
    results: dict[int, Written] = {}
    alike: dict[Style, list[int]] = {}
    for i, (_, style) in enumerate(requests):
        alike.setdefault(replace(style, stops=()), []).append(i)
    for style, chosen in alike.items():
        room = limit - style.max_tokens
        if room < 1:
            raise ConfigError(
                "the task asks for as many new tokens as the model's whole context",
                where="generation_kwargs.max_gen_toks",
                got=style.max_tokens,
                expected=f"less than {limit}",
            )
        whole = [ids[requests[i][0]] or [opening] for i in chosen]
        decoded = decode_ids(
            model,
            tokenizer,
            [row[-room:] for row in whole],
            max_new_tokens=style.max_tokens,
            stops=[requests[i][1].stops for i in chosen],
            batch_size=batch_size,
            noise=_noise(style, [keys[i] for i in chosen]),
            confidence=False,
            progress=advance,
        )
        for i, row, one in zip(chosen, whole, decoded, strict=True):
            text = one.text.split(end)[0] if end else one.text
            results[i] = Written(text=text, finished=one.finished, cut=len(row) > room)
    return [results[i] for i in range(len(requests))]


def _noise(style: Style, keys: Sequence[bytes]) -> Noise | None:
    if not style.temperature:
        return None
    return lambda rows: Draws([keys[row] for row in rows], style.temperature, top_k=style.top_k, top_p=style.top_p)
