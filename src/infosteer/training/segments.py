"""Rows of segments: texts one after the other, each of which says whether it carries loss.

A row with a prompt and a completion learns its end. Data methods that put several answers into one sequence give
``{"segments": [{"text": ..., "loss": true or false, "role": ...}, ...]}`` instead (``role``, optional, names text that
comes from the data; the rest is a frame around it). Each segment is tokenised alone, so that no token stands astride
the border of what is learnt; no end token is added.

Shape letters: T time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from infosteer.core.marks import TokenRow
from infosteer.errors import ConfigError, DataError


def segment_tokens(row: Mapping[str, Any], tokenizer: Any) -> tuple[list[int], list[bool]]:
    """Token ids (T,), and whether each carries loss (T,); first the token that opens a text, if the tokenizer has one.

    Raises:
        DataError: no segment, one that is not as above, or the opening token inside of one.
    """
    ids, learnt = _opening(tokenizer), [False] * len(_opening(tokenizer))
    for number, segment in enumerate(_segments(row), start=1):
        found = list(tokenizer(segment["text"], add_special_tokens=False)["input_ids"])
        if tokenizer.bos_token_id is not None and tokenizer.bos_token_id in found:
            raise DataError(
                "The token that opens a text stands inside of one.",
                where=f"segment {number}",
                got=segment["text"][:80],
                expected=f"text without {tokenizer.bos_token}",
            )
        ids += found
        learnt += [segment["loss"]] * len(found)
    return ids, learnt


def segment_token_row(row: Mapping[str, Any], tokenizer: Any) -> TokenRow:
    """The row as methods that mark tokens see it; ``completion`` is the first token that carries loss.

    Raises:
        DataError: as :func:`segment_tokens`.
        ConfigError: a tokenizer that does not say which characters its tokens stand for.
    """
    if not tokenizer.is_fast:
        raise ConfigError(
            "A method marks tokens by the characters they stand for, which this tokenizer does not tell.",
            where="model",
            got=type(tokenizer).__name__,
            expected="a fast tokenizer",
        )
    ids, learnt = segment_tokens(row, tokenizer)
    spans, parts, text = [(0, 0)] * len(_opening(tokenizer)), [], ""
    for segment in _segments(row):
        encoded = tokenizer(segment["text"], add_special_tokens=False, return_offsets_mapping=True)
        spans += [(len(text) + int(a), len(text) + int(b)) for a, b in encoded["offset_mapping"]]
        if segment.get("role"):
            parts.append((str(segment["role"]), len(text), len(text) + len(segment["text"])))
        text += segment["text"]
    first = learnt.index(True) if True in learnt else len(ids)
    return TokenRow(row=row, text=text, ids=ids, spans=spans, parts=parts, completion=first)


def _opening(tokenizer: Any) -> list[int]:
    bos = tokenizer.bos_token_id
    return [bos] if bos is not None and list(tokenizer("")["input_ids"])[:1] == [bos] else []


def _segments(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    segments: Any = row["segments"]
    fits = isinstance(segments, list) and all(
        isinstance(one, Mapping) and isinstance(one.get("text"), str) and isinstance(one.get("loss"), bool)
        for one in segments
    )
    if not fits or not segments:
        raise DataError(
            "A row of segments is a list of texts that say whether they carry loss.",
            where="segments",
            got=str(segments)[:200],
            expected='[{"text": "...", "loss": true}, ...]',
        )
    return segments
