"""Which token of a repeated row repeats which: a lag in tokens, found by the characters that tokens stand for."""

from __future__ import annotations

from infosteer.core.marks import TokenRow

UNLINKED = -1.0  # of a repeated row, but no repetition: prefix, first copy, end token, a token cut in another way
ORDINARY = 0.0


def lags(row: TokenRow) -> list[float]:
    """(T,) for every token of a row the number of tokens back to the one it repeats.

    A row that holds ``repeats: {start, length}`` repeats its characters [start, start + length) from there on. Token t
    is linked to token t - lag if it stands for the characters one length further on and both are the same token;
    ``UNLINKED`` if there is no such token. Tokens of other rows are ``ORDINARY``.
    """
    repeats = row.row.get("repeats")
    if not repeats:
        return [ORDINARY] * len(row.ids)
    length, first = int(repeats["length"]), int(repeats["start"]) + int(repeats["length"])
    places: dict[tuple[int, int, int], int] = {}  # token and its characters; one character may have several tokens
    found = []
    for place, (token, (start, end)) in enumerate(zip(row.ids, row.spans, strict=True)):
        source = places.get((token, start - length, end - length)) if start >= first and end > start else None
        found.append(UNLINKED if source is None else float(place - source))
        places[token, start, end] = place
    return found
