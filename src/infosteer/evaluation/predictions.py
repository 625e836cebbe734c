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

from infosteer.evaluation.caches import is_plain, reuses
from infosteer.evaluation.model_state import device_of, evaluating, forward_parameters, left_padded, vocabulary_size

LOGITS_AT_ONCE = 2**26  # elements of the logits of one batch: 256 MB in fp32
NORMALISED_AT_ONCE = 2**24  # elements of them that are normalised at a time

Array = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Found = tuple[Array, Flags]
NOTHING: Found = (np.zeros(0), np.zeros(0, dtype=np.bool_))


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
    results = [_prediction(NOTHING, [])] * len(requests)
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


def _prediction(trunk: Found, branches: Sequence[Found]) -> Predictions:
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
    cached = branched and reuses(model)
    out = model(**inputs, use_cache=cached, **options)
    trunks = [_at_queries(logits, request) for logits, request in zip(out.logits, requests, strict=True)]
    if not branched:
        return [_prediction(trunk, []) for trunk in trunks]
    cache = out.past_key_values if cached else None
    if is_plain(cache):
        found = _with_cache(model, cache, inputs["attention_mask"], requests, pad, batch_size, "position_ids" in names)
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
    model: Any,
    cache: DynamicCache,
    mask: torch.Tensor,
    requests: Sequence[Request],
    pad: int,
    batch_size: int,
    positions: bool,
) -> list[Found]:
    """All branches after the trunks' keys and values, in batches of branches of similar length, padded on the right."""
    rows = [(b, branch) for b, request in enumerate(requests) for branch in request.branches]
    results = [NOTHING] * len(rows)
    order = sorted((r for r, (_, branch) in enumerate(rows) if len(branch) > 1), key=lambda r: -len(rows[r][1]))
    while order:
        most = LOGITS_AT_ONCE // (vocabulary_size(model) * len(rows[order[0]][1]))
        batch, order = order[: max(1, min(batch_size, most))], order[max(1, min(batch_size, most)) :]
        index = torch.tensor([rows[r][0] for r in batch], device=mask.device)
        branches = [rows[r][1] for r in batch]
        for r, found in zip(batch, _run_branches(model, cache, mask, index, branches, pad, positions), strict=True):
            results[r] = found
    return results


def _run_branches(
    model: Any,
    cache: DynamicCache,
    mask: torch.Tensor,
    index: torch.Tensor,
    branches: Sequence[tuple[int, ...]],
    pad: int,
    positions: bool,
) -> list[Found]:
    """Branches in one forward; ``index`` says after which row of the cache each comes."""
    n, device = max(map(len, branches)) - 1, mask.device
    ids = torch.tensor([[*branch[:-1], *[pad] * (n - len(branch) + 1)] for branch in branches], device=device)
    own = torch.tensor([[1] * (len(branch) - 1) + [0] * (n - len(branch) + 1) for branch in branches], device=device)
    before = mask[index]
    unused = int((before == 0).all(dim=0).sum())  # columns on the left that pad every row
    trunks = DynamicCache()
    for place, (keys, values, _) in enumerate(cache):
        trunks.update(keys[:, :, unused:].index_select(0, index), values[:, :, unused:].index_select(0, index), place)
    places = {"position_ids": before.sum(dim=1, keepdim=True) + torch.arange(n, device=device)} if positions else {}
    logits = model(
        input_ids=ids,
        attention_mask=torch.cat([before[:, unused:], own], dim=1),
        past_key_values=trunks,
        use_cache=True,
        **places,
    ).logits
    return [
        _log_probs(logits[r], [(j - 1, branch[j]) for j in range(1, len(branch))]) for r, branch in enumerate(branches)
    ]


def _tail(request: Request) -> int:
    """How many positions from the end of the trunk its predictions reach."""
    return len(request.ids) - min((p for p, _ in request.queries), default=len(request.ids)) + 1


def _batches(
    order: Sequence[int], requests: Sequence[Request], batch_size: int, V: int, cut: bool
) -> Iterator[list[int]]:
    """Requests that run together: at most ``batch_size``, half as many where the trunks' keys and values stay in memory
    beside those of their branches."""
    batch: list[int] = []
    kept, most = 0, batch_size
    for i in order:
        request = requests[i]
        tail = _tail(request) if cut else len(request.ids)
        room = max(1, batch_size // 2) if request.branches else most
        if batch and (len(batch) >= min(most, room) or (len(batch) + 1) * max(kept, tail) * V > LOGITS_AT_ONCE):
            yield batch
            batch, kept, most = [], 0, batch_size
        batch.append(i)
        kept, most = max(kept, tail), min(most, room)
    if batch:
        yield batch


def _at_queries(logits: torch.Tensor, request: Request) -> Found:
    """The queries of one trunk; logits are (K, V), those of its last K positions."""
    offset = logits.shape[0] - len(request.ids) - 1  # the first p tokens predict from index p - 1 of the T fed
    return _log_probs(logits, [(p + offset, token) for p, token in request.queries])


def _log_probs(logits: torch.Tensor, pairs: Sequence[tuple[int, int]]) -> Found:
    """``log softmax`` of logits (K, V) at pairs (index, token), and whether the token is the first of the largest."""
    if not pairs:
        return NOTHING
    first, last = min(k for k, _ in pairs), max(k for k, _ in pairs)
    device, step = logits.device, max(1, NORMALISED_AT_ONCE // logits.shape[1])
    values, likeliest = np.zeros(len(pairs)), np.zeros(len(pairs), dtype=np.bool_)
    for start in range(first, last + 1, step):
        here = [n for n, (k, _) in enumerate(pairs) if start <= k < start + step]
        part = logits[start : min(start + step, last + 1)].float()
        rows = torch.tensor([pairs[n][0] - start for n in here], device=device)
        tokens = torch.tensor([pairs[n][1] for n in here], device=device)
        values[here] = part.log_softmax(dim=-1)[rows, tokens].double().cpu().numpy()
        largest = part[rows, tokens] == part.amax(dim=-1)[rows]
        largest[largest.clone()] = part[rows[largest]].argmax(dim=-1) == tokens[largest]  # the first of equals
        likeliest[here] = largest.cpu().numpy()
    return values, likeliest
