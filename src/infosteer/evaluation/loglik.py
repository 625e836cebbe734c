"""Log-likelihoods of given texts: options, answers, documents.

A request is a token sequence and the predictions wanted of it; requests of unequal length are padded on the left, so
that the wanted predictions stand together at the end and only their logits are computed (an LM head over 150,000 words
at every position of a batch would take gigabytes).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from infosteer.evaluation.model_state import (
    context_length,
    device_of,
    encode,
    evaluating,
    forward_parameters,
    left_padded,
    pad_id,
    prefix_id,
    prompt_text,
    vocabulary_size,
)

LOGITS_AT_ONCE = 2**26  # elements of the logits of one batch: 256 MB in fp32
WINDOW = 1024  # longest piece of a document read at once, in tokens

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """Predictions wanted of one sequence.

    Attributes:
        ids: the tokens fed (T,).
        queries: pairs (p, token): the log-probability of ``token`` after the first p of ``ids``, 1 <= p <= T.
    """

    ids: tuple[int, ...]
    queries: tuple[tuple[int, int], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class OptionScores:
    """Log-likelihoods of one row's options.

    Attributes:
        total: sum over each option's tokens (O,), nats.
        tokens: how many tokens that were (O,).
        size: each option's length in UTF-8 bytes (O,).
        too_long: prompt and option do not fit the model's context; the arrays are NaN.
    """

    total: Array
    tokens: Array
    size: Array
    too_long: bool

    @property
    def per_byte(self) -> Array:
        """Log-likelihood per byte: does not favour short options, and does not depend on the tokenizer."""
        return self.total / self.size


def score(
    model: Any,
    requests: Sequence[Request],
    *,
    pad: int = 0,
    batch_size: int = 64,
    done: Callable[[list[int]], None] | None = None,
) -> list[Array]:
    """Log-probabilities in nats of each request's queries, in fp32 from the model's logits.

    Batches are made of requests of similar length, and smaller than ``batch_size`` where their logits would not fit;
    ``done`` is called with the numbers of the requests just scored.
    """
    names = forward_parameters(model)
    V, device = vocabulary_size(model), device_of(model)
    results: list[Array] = [np.zeros(0)] * len(requests)
    order = sorted((i for i in range(len(requests)) if requests[i].queries), key=lambda i: (-len(requests[i].ids), i))
    with evaluating(model):
        for batch in _batches(order, requests, batch_size, V, "logits_to_keep" in names):
            inputs = left_padded([requests[i].ids for i in batch], pad, device)
            if "position_ids" not in names:  # such models derive positions from the mask, or use relative ones
                del inputs["position_ids"]
            keep = max(_tail(requests[i]) for i in batch)
            options = {"logits_to_keep": keep} if "logits_to_keep" in names else {}
            logits = model(**inputs, use_cache=False, **options).logits
            for b, i in enumerate(batch):
                results[i] = _gather(logits[b], requests[i])
            if done is not None:
                done(batch)
    return results


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


def _tail(request: Request) -> int:
    """How many positions from the end the request's predictions reach."""
    return len(request.ids) - min(p for p, _ in request.queries) + 1


def _batches(
    order: Sequence[int], requests: Sequence[Request], batch_size: int, V: int, cut: bool
) -> Iterator[list[int]]:
    batch: list[int] = []
    kept = 0
    for i in order:
        wanted = max(kept, _tail(requests[i]) if cut else len(requests[i].ids))
        if batch and (len(batch) == batch_size or (len(batch) + 1) * wanted * V > LOGITS_AT_ONCE):
            yield batch
            batch, wanted = [], _tail(requests[i]) if cut else len(requests[i].ids)
        batch.append(i)
        kept = wanted
    if batch:
        yield batch


def _gather(logits: torch.Tensor, request: Request) -> Array:
    """``log softmax`` at the queries of one row; logits are (K, V), the last K positions."""
    positions = sorted({p for p, _ in request.queries})
    at = {p: n for n, p in enumerate(positions)}
    offset = logits.shape[0] - len(request.ids) - 1  # prefix length p predicts from index p - 1 of the T fed
    chosen = logits[torch.tensor([p + offset for p in positions], device=logits.device)].float()
    log_probs = chosen - chosen.logsumexp(dim=-1, keepdim=True)
    rows = torch.tensor([at[p] for p, _ in request.queries], device=logits.device)
    tokens = torch.tensor([token for _, token in request.queries], device=logits.device)
    return log_probs[rows, tokens].double().cpu().numpy()


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
    merges into the option's first token thus counts to the option, for every option of the row alike. Where the options
    differ in their last token only, one pass over the prompt serves them all.
    """
    leads = leads if leads is not None else [""] * len(prompts)
    limit = context_length(model)
    plans = [_plan(tokenizer, *row, limit) for row in zip(prompts, leads, options, strict=True)]
    flat = [request for plan in plans for request in plan.requests]
    done = _by_owner([row for row, plan in enumerate(plans) for _ in plan.requests], progress)
    found = iter(score(model, flat, pad=pad_id(tokenizer), batch_size=batch_size, done=done))
    results = []
    for plan, texts in zip(plans, options, strict=True):
        size = np.array([max(1, len(text.encode())) for text in texts], dtype=np.float64)
        if not plan.requests:
            blank = np.full(len(texts), math.nan)
            results.append(OptionScores(total=blank, tokens=blank, size=size, too_long=True))
            continue
        values = [next(found) for _ in plan.requests]
        parts = [values[r][list(queries)] for r, queries in plan.picks]
        results.append(
            OptionScores(
                total=np.array([part.sum() for part in parts]),
                tokens=np.array([len(part) for part in parts], dtype=np.float64),
                size=size,
                too_long=False,
            )
        )
    return results


@dataclass(frozen=True, kw_only=True, slots=True)
class _Plan:
    """Requests of one row, and for each option the request and the queries that make up its tokens."""

    requests: list[Request]
    picks: list[tuple[int, list[int]]]


def _shared(rows: Sequence[Sequence[int]]) -> int:
    """Length of the longest common prefix."""
    count = 0
    for column in zip(*rows, strict=False):
        if len(set(column)) > 1:
            break
        count += 1
    return count


def _plan(tokenizer: Any, prompt: Any, lead: str, options: Sequence[str], limit: int | None) -> _Plan:
    context = prompt_text(tokenizer, prompt) + lead
    special = isinstance(prompt, str)
    base, *wholes = encode(tokenizer, [context, *(context + option for option in options)], special=special)
    start = _shared([base, *wholes])
    if start == 0:  # nothing before the first token: predict it from the token that opens a text
        opening = prefix_id(tokenizer)
        if opening is None:
            start = 1
        else:
            start, wholes = 1, [[opening, *whole] for whole in wholes]
    if limit is not None and max(map(len, wholes)) - 1 > limit:
        return _Plan(requests=[], picks=[])
    common = _shared(wholes)
    if all(len(whole) <= common + 1 for whole in wholes) and common >= start:
        queries = [(p, wholes[0][p]) for p in range(start, common)]
        picks = []
        for whole in wholes:
            mine = list(range(common - start))
            if len(whole) > common:
                mine.append(len(queries))
                queries.append((common, whole[common]))
            picks.append((0, mine))
        return _Plan(requests=[Request(ids=tuple(wholes[0][:common]), queries=tuple(queries))], picks=picks)
    requests = [
        Request(ids=tuple(whole[:-1]), queries=tuple((p, whole[p]) for p in range(start, len(whole))))
        for whole in wholes
    ]
    return _Plan(requests=requests, picks=[(r, list(range(len(q.queries)))) for r, q in enumerate(requests)])


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
    requests, owner = [], []
    for number, ids in enumerate(encode(tokenizer, texts)):
        if opening is not None and ids[:1] != [opening]:
            ids = [opening, *ids]
        for begin in range(0, len(ids) - 1, window):
            piece = ids[begin : begin + window + 1]
            requests.append(Request(ids=tuple(piece[:-1]), queries=tuple((p, piece[p]) for p in range(1, len(piece)))))
            owner.append(number)
    nats, tokens = np.zeros(len(texts)), np.zeros(len(texts))
    found = score(model, requests, pad=pad_id(tokenizer), batch_size=batch_size, done=_by_owner(owner, progress))
    for number, values in zip(owner, found, strict=True):
        nats[number] -= values.sum()
        tokens[number] += len(values)
    return nats, tokens, np.array([len(text.encode()) for text in texts], dtype=np.float64)
