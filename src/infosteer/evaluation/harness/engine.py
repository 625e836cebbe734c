"""lm-eval's requests through this package's engine: shared trunks for likelihoods, rows that end alone for text.

What a request means - where the context ends in tokens, what is cut when it is too long, in which window a token of a
document is read - follows lm-evaluation-harness, so that scores agree with its own; how it is computed is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from infosteer.errors import DataError
from infosteer.evaluation.model_state import encode, pad_id
from infosteer.evaluation.predictions import Request, predict

Advance = Callable[[int], None]
Pair = tuple[list[int], list[int]]  # tokens of the context and of what follows it, neither empty
WORTH = 4  # requests share a trunk of at least one WORTH-th of their tokens


def encode_each(tokenizer: Any, texts: Sequence[str], opening: str | None) -> dict[str, list[int]]:
    """Token ids of every distinct text; one that writes the opening token ``opening`` itself gets no second one."""
    ids: dict[str, list[int]] = {}
    distinct = list(dict.fromkeys(texts))
    for written in (False, True):
        chosen = [text for text in distinct if bool(opening and text.startswith(opening)) == written]
        ids.update(zip(chosen, encode(tokenizer, chosen, special=not written), strict=True))
    return ids


def encode_pairs(tokenizer: Any, texts: Sequence[tuple[str, str]], prefix: int) -> list[Pair]:
    """Tokens of (context, continuation) pairs, cut where lm-eval cuts them.

    Spaces at the end of the context go to the continuation; both are encoded together, and the continuation is what
    follows as many tokens as the context alone has. The token ``prefix`` stands in for a context that is empty.

    Raises:
        DataError: a continuation without tokens.
    """
    moved = []
    for context, continuation in texts:
        bare = context.rstrip() if context else ""
        moved.append((bare, context[len(bare) :] + continuation) if context else ("", continuation))
    opening = tokenizer.decode(prefix)
    spoken = [(context, context + rest) for context, rest in moved if context]
    ids = encode_each(tokenizer, [text for pair in spoken for text in pair], opening)
    alone = list(dict.fromkeys(rest for context, rest in moved if not context))
    bare_ids = dict(zip(alone, encode(tokenizer, alone, special=False), strict=True))
    pairs = []
    for context, rest in moved:
        if context:
            first = ids[context]
            pairs.append((first, ids[context + rest][len(first) :]))
        else:
            tokens = bare_ids[rest]
            pairs.append((tokens[:1], tokens[1:]) if tokens[:1] == [prefix] else ([prefix], tokens))
    for (context, continuation), (_, tokens) in zip(texts, pairs, strict=True):
        if not tokens:
            raise DataError(
                "a text to be scored has no token of its own",
                got=f"{continuation!r} after {context[-60:]!r}",
                expected="an option or answer that is not empty",
            )
    return pairs


@dataclass(frozen=True, kw_only=True, slots=True)
class _Whole:
    """One pair as the model reads it: cut from the left to what fits."""

    ids: list[int]
    scored: int  # how many tokens at its end are predicted


def score_pairs(
    model: Any,
    tokenizer: Any,
    pairs: Sequence[Pair],
    *,
    limit: int,
    batch_size: int,
    advance: Advance | None = None,
) -> list[tuple[float, bool]]:
    """Log-likelihood of each continuation in nats, and whether greedy decoding would write it.

    Pairs that stand next to each other and begin alike - the options of one question, questions after the same worked
    examples - run their common beginning once.

    Args:
        limit: the model reads at most this many tokens; of a longer pair it reads the last ones.

    Raises:
        DataError: a continuation that does not fit by itself.
    """
    wholes = []
    for context, rest in pairs:
        if len(rest) > limit:
            raise DataError(
                "a text to be scored does not fit the model's context",
                got=f"{len(rest)} tokens",
                expected=f"at most {limit} tokens",
            )
        wholes.append(_Whole(ids=(context + rest)[-(limit + 1) :], scored=len(rest)))
    groups = _groups([whole.ids for whole in wholes], batch_size)
    requests = [_request([wholes[i] for i in group], common) for group, common in groups]

    def done(batch: list[int]) -> None:
        if advance is not None:
            advance(sum(len(groups[number][0]) for number in batch))

    found = predict(model, requests, pad=pad_id(tokenizer), batch_size=batch_size, done=done)
    results = [(0.0, False)] * len(pairs)
    for (group, common), request, one in zip(groups, requests, found, strict=True):
        at = {query: n for n, query in enumerate(request.queries)}
        branches = iter(zip(one.branches, one.branches_likeliest, strict=True))
        for i in group:
            ids, first = wholes[i].ids, len(wholes[i].ids) - wholes[i].scored
            places = [at[p, ids[p]] for p in range(first, common + 1)]
            total, greedy = float(one.trunk[places].sum()), bool(one.likeliest[places].all())
            if len(ids) - common > 1:
                values, likeliest = next(branches)
                total += float(values[-wholes[i].scored :].sum())
                greedy = greedy and bool(likeliest[-wholes[i].scored :].all())
            results[i] = (total, greedy)
    return results


def _groups(rows: Sequence[Sequence[int]], most: int) -> list[tuple[list[int], int]]:
    """Neighbours that share a trunk -> (their numbers, tokens of the trunk), every row in one group.

    A group of g rows with a trunk of c tokens takes one more, down to a trunk of c', where that saves tokens: the row
    need not run c' of its own, and g - 1 rows run c - c' more. The last token of a row predicts nothing, so it is never
    in the trunk.
    """
    groups: list[tuple[list[int], int]] = []
    for i, row in enumerate(rows):
        if groups:
            members, common = groups[-1]
            shared = _shared(rows[members[0]], row, min(common, len(row) - 1))
            saves = len(members) * shared > (len(members) - 1) * common
            if len(members) < most and saves and WORTH * shared >= len(row):
                groups[-1] = ([*members, i], shared)
                continue
        groups.append(([i], len(row) - 1))
    return groups


def _shared(left: Sequence[int], right: Sequence[int], most: int) -> int:
    if left[:most] == right[:most]:
        return most
    return next(n for n in range(most) if left[n] != right[n])


def _request(wholes: Sequence[_Whole], common: int) -> Request:
    queries: dict[tuple[int, int], None] = {}
    branches = []
    for whole in wholes:
        for p in range(len(whole.ids) - whole.scored, common + 1):
            queries[p, whole.ids[p]] = None
        if len(whole.ids) - common > 1:
            branches.append(tuple(whole.ids[common:]))
    trunk = tuple(wholes[0].ids[:common])
    return Request(ids=trunk, queries=tuple(queries), branches=tuple(branches))
