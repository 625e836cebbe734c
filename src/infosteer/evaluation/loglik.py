"""Log-likelihoods of given texts: the options of a question, its answer, whole documents."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from infosteer.evaluation.model_state import context_length, encode, pad_id, prefix_id, prompt_text
from infosteer.evaluation.predictions import Array, Predictions, Request, predict

WINDOW = 1024  # longest piece of a document read at once, in tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class OptionScores:
    """Log-likelihoods of one row's options.

    Attributes:
        total: sum over each option's tokens (O,), nats.
        tokens: how many tokens that were (O,).
        size: each option's length in UTF-8 bytes (O,).
        too_long: prompt and option do not fit the model's context; the other arrays are NaN.
    """

    total: Array
    tokens: Array
    size: Array
    too_long: bool

    @property
    def per_byte(self) -> Array:
        """Log-likelihood per byte: does not favour short options, and does not depend on the tokenizer."""
        return self.total / self.size


def score_options(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Any],
    options: Sequence[Sequence[str]],
    *,
    leads: Sequence[str] | None = None,
    batch_size: int = 64,
    progress: Callable[[int], None] | None = None,
) -> list[OptionScores]:
    """Log-likelihood of each of a row's options after its prompt and ``lead``.

    Prompt and option are encoded together, as they were in training; an option's tokens are those after the longest
    prefix that the encoded prompt shares with all of the row's encoded texts. A space at the end of the prompt that
    merges into the option's first token thus counts to the option, for every option of the row alike. What the options
    share is run once.

    Args:
        progress: called with the number of rows just finished.
    """
    leads = leads if leads is not None else [""] * len(prompts)
    limit = context_length(model)
    plans = [_plan(tokenizer, *row, limit) for row in zip(prompts, leads, options, strict=True)]
    owners = [row for row, plan in enumerate(plans) if plan is not None]
    if progress is not None and len(owners) < len(plans):
        progress(len(plans) - len(owners))
    requests = [plan.request for plan in plans if plan is not None]
    found = predict(model, requests, pad=pad_id(tokenizer), batch_size=batch_size, done=_by_owner(owners, progress))
    by_row = dict(zip(owners, found, strict=True))
    return [
        _assembled(plan, by_row.get(row), texts) for row, (plan, texts) in enumerate(zip(plans, options, strict=True))
    ]


def _by_owner(owners: Sequence[int], progress: Callable[[int], None] | None) -> Callable[[list[int]], None] | None:
    """Turns news of finished requests into counts of finished owners (rows, documents)."""
    if progress is None:
        return None
    left = Counter(owners)

    def done(batch: list[int]) -> None:
        finished = 0
        for request in batch:
            left[owners[request]] -= 1
            finished += left[owners[request]] == 0
        if finished:
            progress(finished)

    return done


@dataclass(frozen=True, kw_only=True, slots=True)
class _Plan:
    """A row as one request: ``shared`` queries belong to every option, then one to each option that goes on.

    ``heads[o]`` is the query of option o's first token after the shared ones, ``branch[o]`` its branch; None where the
    option has no such part.
    """

    request: Request
    shared: int
    heads: list[int | None]
    branch: list[int | None]


def _shared(rows: Sequence[Sequence[int]]) -> int:
    """Length of the longest common prefix."""
    count = 0
    for column in zip(*rows, strict=False):
        if len(set(column)) > 1:
            break
        count += 1
    return count


def _plan(tokenizer: Any, prompt: Any, lead: str, options: Sequence[str], limit: int | None) -> _Plan | None:
    """How to score one row, or None when it does not fit the context."""
    context = prompt_text(tokenizer, prompt) + lead
    special = isinstance(prompt, str)
    base, *wholes = encode(tokenizer, [context, *(context + option for option in options)], special=special)
    start, common = _shared([base, *wholes]), _shared(wholes)
    if start == 0:  # nothing before the first token: predict it from the token that opens a text
        opening = prefix_id(tokenizer)
        opening = tokenizer.pad_token_id if opening is None else opening
        wholes = [[opening or 0, *whole] for whole in wholes]
        start, common = 1, common + 1
    if limit is not None and max(map(len, wholes)) - 1 > limit:
        return None
    trunk = wholes[0][:common]
    queries = [(p, trunk[p]) for p in range(start, common)]
    heads: list[int | None] = []
    branch: list[int | None] = []
    branches: list[tuple[int, ...]] = []
    for whole in wholes:
        rest = tuple(whole[common:])
        heads.append(len(queries) if rest else None)
        branch.append(len(branches) if len(rest) > 1 else None)
        if rest:
            queries.append((common, rest[0]))
        if len(rest) > 1:
            branches.append(rest)
    request = Request(ids=tuple(trunk), queries=tuple(queries), branches=tuple(branches))
    return _Plan(request=request, shared=common - start, heads=heads, branch=branch)


def _assembled(plan: _Plan | None, found: Predictions | None, texts: Sequence[str]) -> OptionScores:
    size = np.array([max(1, len(text.encode())) for text in texts], dtype=np.float64)
    if plan is None or found is None:
        blank = np.full(len(texts), math.nan)
        return OptionScores(total=blank, tokens=blank, size=size, too_long=True)
    total, tokens = [], []
    for head, branch in zip(plan.heads, plan.branch, strict=True):
        parts = [found.trunk[: plan.shared]]
        if head is not None:
            parts.append(found.trunk[head : head + 1])
        if branch is not None:
            parts.append(found.branches[branch])
        total.append(sum(float(part.sum()) for part in parts))
        tokens.append(float(sum(map(len, parts))))
    return OptionScores(total=np.array(total), tokens=np.array(tokens), size=size, too_long=False)


def score_texts(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    batch_size: int = 64,
    progress: Callable[[int], None] | None = None,
) -> tuple[Array, Array, Array]:
    """Negative log-likelihood of whole documents -> (nats, tokens, UTF-8 bytes), each (documents,).

    A document is predicted from its opening token on (begin of text, or else end of text; without either its first
    token is not scored), in windows of up to ``WINDOW`` tokens, each of which sees the last token of the one before.
    """
    window = min(WINDOW, context_length(model) or WINDOW)
    opening = prefix_id(tokenizer)
    requests, owners = [], []
    for number, ids in enumerate(encode(tokenizer, texts)):
        if opening is not None and ids[:1] != [opening]:
            ids = [opening, *ids]
        for begin in range(0, len(ids) - 1, window):
            piece = ids[begin : begin + window + 1]
            queries = tuple((p, piece[p]) for p in range(1, len(piece)))
            requests.append(Request(ids=tuple(piece[:-1]), queries=queries))
            owners.append(number)
    nats, tokens = np.zeros(len(texts)), np.zeros(len(texts))
    found = predict(model, requests, pad=pad_id(tokenizer), batch_size=batch_size, done=_by_owner(owners, progress))
    for number, values in zip(owners, found, strict=True):
        nats[number] -= values.trunk.sum()
        tokens[number] += len(values.trunk)
    return nats, tokens, np.array([len(text.encode()) for text in texts], dtype=np.float64)
