"""Log-probabilities of chosen tokens, from as few forward positions and logits as will do.

A request is a trunk of tokens, the predictions wanted along it, and branches that continue it. Trunks of unequal length
are padded on the left, so that the wanted predictions stand together at the end and only their logits are computed (an
LM head over 150,000 words at every position of a batch would take gigabytes). Branches, the options of one question,
reuse the trunk's keys and values where the model's cache allows, and are run as whole sequences where it does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from infosteer.evaluation.model_state import device_of, evaluating, forward_parameters, left_padded, vocabulary_size

LOGITS_AT_ONCE = 2**26  # elements of the logits of one batch: 256 MB in fp32
ROWS_AT_ONCE = 2**24  # elements of the logits that are copied and normalised at a time

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Place = tuple[int, int, int]  # row of a batch, position in its logits, token


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """Predictions wanted of one trunk and its branches.

    Attributes:
        ids: the tokens of the trunk (T,).
        queries: pairs (p, token): the log-probability of ``token`` after the first p tokens, 1 <= p <= T.
        branches: each a continuation of the trunk, of which every token after the first is predicted (the first one is
            a query of the trunk, at p = T).
    """

    ids: tuple[int, ...]
    queries: tuple[tuple[int, int], ...]
    branches: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Predictions:
    """Log-probabilities in nats: of a request's queries, and of each branch's tokens after its first.

    ``likeliest`` and ``branches_likeliest`` say of the same tokens whether greedy decoding would take them (of equally
    likely ones it takes the first).
    """

    trunk: Array
    branches: list[Array]
    likeliest: Flags
    branches_likeliest: list[Flags]


def predict(
    model: Any,
    requests: Sequence[Request],
    *,
    pad: int = 0,
    batch_size: int = 64,
    done: Callable[[list[int]], None] | None = None,
) -> list[Predictions]:
    """The wanted log-probabilities of every request, in fp32 from the model's logits.

    Batches are made of requests of similar length, and smaller than ``batch_size`` where their branches or logits would
    be too many; ``done`` is called with the numbers of the requests just finished.
    """
    names = forward_parameters(model)
    nothing = (np.zeros(0), np.zeros(0, dtype=np.bool_))
    results = [_prediction(nothing, [])] * len(requests)
    asked = [i for i, request in enumerate(requests) if request.queries or request.branches]
    order = sorted(asked, key=lambda i: (-len(requests[i].ids), i))
    with evaluating(model):
        for batch in _batches(order, requests, batch_size, vocabulary_size(model), "logits_to_keep" in names):
            chosen = [requests[i] for i in batch]
            for i, found in zip(batch, _predict_batch(model, chosen, pad, batch_size, names), strict=True):
                results[i] = found
            if done is not None:
                done(batch)
    return results


def _prediction(trunk: tuple[Array, Flags], branches: Sequence[tuple[Array, Flags]]) -> Predictions:
    return Predictions(
        trunk=trunk[0],
        branches=[values for values, _ in branches],
        likeliest=trunk[1],
        branches_likeliest=[flags for _, flags in branches],
    )


def _predict_batch(
    model: Any, requests: Sequence[Request], pad: int, batch_size: int, names: frozenset[str]
) -> list[Predictions]:
    inputs = left_padded([request.ids for request in requests], pad, device_of(model))
    if "position_ids" not in names:  # such models derive positions from the mask, or use relative ones
        del inputs["position_ids"]
    options = {"logits_to_keep": max(map(_tail, requests))} if "logits_to_keep" in names else {}
    branched = any(request.branches for request in requests)
    learnt_prompt = getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False)
    cached = branched and "past_key_values" in names and not learnt_prompt
    out = model(**inputs, use_cache=cached, **options)
    trunks = _at_queries(out.logits, requests)
    if not branched:
        return [_prediction(trunk, []) for trunk in trunks]
    cache = out.past_key_values if cached else None
    # Only plain layers are reused: sliding windows and recurrent states cannot be shared so simply.
    if isinstance(cache, DynamicCache) and all(type(layer) is DynamicLayer for layer in cache.layers):
        found = _with_cache(model, cache, inputs["attention_mask"], requests, pad, "position_ids" in names)
    else:
        flat = predict(
            model, [whole for request in requests for whole in _wholes(request)], pad=pad, batch_size=batch_size
        )
        found = [(one.trunk, one.likeliest) for one in flat]
    branches = iter(found)
    return [
        _prediction(trunk, [next(branches) for _ in request.branches])
        for trunk, request in zip(trunks, requests, strict=True)
    ]


def _wholes(request: Request) -> Iterator[Request]:
    """The branches of a request as sequences of their own."""
    T = len(request.ids)
    for branch in request.branches:
        queries = tuple((T + j, branch[j]) for j in range(1, len(branch)))
        yield Request(ids=request.ids + branch[:-1], queries=queries)


def _with_cache(
    model: Any, cache: DynamicCache, mask: torch.Tensor, requests: Sequence[Request], pad: int, positions: bool
) -> list[tuple[Array, Flags]]:
    """All branches of a batch in one forward after the trunks' keys and values; branches are padded on the right."""
    rows = [(b, branch) for b, request in enumerate(requests) for branch in request.branches]
    device = mask.device
    index = torch.tensor([b for b, _ in rows], device=device)
    n = max(1, max(len(branch) for _, branch in rows) - 1)
    ids = torch.tensor([[*branch[:-1], *[pad] * (n - len(branch) + 1)] for _, branch in rows], device=device)
    own = torch.tensor([[1] * (len(branch) - 1) + [0] * (n - len(branch) + 1) for _, branch in rows], device=device)
    lengths = mask[index].sum(dim=1, keepdim=True)
    places = {"position_ids": lengths + torch.arange(n, device=device)} if positions else {}
    cache.batch_select_indices(index)
    logits = model(
        input_ids=ids,
        attention_mask=torch.cat([mask[index], own], dim=1),
        past_key_values=cache,
        use_cache=True,
        **places,
    ).logits
    return _log_probs(
        logits, [[(r, j - 1, branch[j]) for j in range(1, len(branch))] for r, (_, branch) in enumerate(rows)]
    )


def _tail(request: Request) -> int:
    """How many positions from the end of the trunk its predictions reach."""
    return len(request.ids) - min((p for p, _ in request.queries), default=len(request.ids)) + 1


def _batches(
    order: Sequence[int], requests: Sequence[Request], batch_size: int, V: int, cut: bool
) -> Iterator[list[int]]:
    batch: list[int] = []
    kept = branches = longest = 0
    for i in order:
        request = requests[i]
        tail = _tail(request) if cut else len(request.ids)
        sizes = [len(branch) for branch in request.branches]
        if batch and (
            len(batch) == batch_size
            or branches + len(sizes) > batch_size
            or (len(batch) + 1) * max(kept, tail) * V > LOGITS_AT_ONCE
            or (branches + len(sizes)) * max(longest, *sizes, 0) * V > LOGITS_AT_ONCE
        ):
            yield batch
            batch, kept, branches, longest = [], 0, 0, 0
        batch.append(i)
        kept, branches, longest = max(kept, tail), branches + len(sizes), max(longest, *sizes, 0)
    if batch:
        yield batch


def _at_queries(logits: torch.Tensor, requests: Sequence[Request]) -> list[tuple[Array, Flags]]:
    """The queries of each trunk of a batch; logits are (B, K, V), those of the last K positions."""
    places = []
    for b, request in enumerate(requests):
        offset = logits.shape[1] - len(request.ids) - 1  # the first p tokens predict from index p - 1 of the T fed
        places.append([(b, p + offset, token) for p, token in request.queries])
    return _log_probs(logits, places)


def _log_probs(logits: torch.Tensor, places: Sequence[Sequence[Place]]) -> list[tuple[Array, Flags]]:
    """``log softmax`` of logits (B, K, V) at each list's places, and whether it is the largest there.

    Each position is normalised once, however many of its tokens are asked for.
    """
    at = {position: n for n, position in enumerate(dict.fromkeys((b, k) for row in places for b, k, _ in row))}
    if not at:
        return [(np.zeros(0), np.zeros(0, dtype=np.bool_)) for _ in places]
    b, k = torch.tensor(list(at), device=logits.device).T
    totals, best = [], []
    step = max(1, ROWS_AT_ONCE // logits.shape[-1])
    for n in range(0, len(at), step):
        chosen = logits[b[n : n + step], k[n : n + step]].float()
        totals.append(chosen.logsumexp(dim=-1))
        best.append(chosen.argmax(dim=-1))
    rows = torch.tensor([at[i, j] for row in places for i, j, _ in row], device=logits.device)
    tokens = torch.tensor([token for row in places for *_, token in row], device=logits.device)
    values = (logits[b[rows], k[rows], tokens].float() - torch.cat(totals)[rows]).double().cpu().numpy()
    flags = (torch.cat(best)[rows] == tokens).cpu().numpy()
    ends = np.cumsum([len(row) for row in places])[:-1]
    return list(zip(np.split(values, ends), np.split(flags, ends), strict=True))
