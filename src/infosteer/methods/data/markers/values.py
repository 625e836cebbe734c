"""Values of markers that are counted or ranked: lengths of an answer, quality within a language."""

from __future__ import annotations

import re
import statistics
from collections import defaultdict
from collections.abc import Sequence

# Scripts written without spaces count one token a character; elsewhere a word or a mark is one.
_TOKEN = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\u0e00-\u0eff]|[^\W\u3040-\u30ff\u3400-\u9fff]+|[^\w\s]")
_SENTENCE_END = re.compile(r"[.!?\u061f\u0964]+[\"')\]\u00bb\u201d]*(?=\s|$)|[\u3002\uff01\uff1f]+[\u300d\u300f]*")
_BLANK = re.compile(r"\n[^\S\n]*\n")
CONCISE, LONG = 300, 1000  # tokens


def count_tokens(text: str) -> int:
    """Words and punctuation marks; characters where a script has no spaces between words."""
    return len(_TOKEN.findall(text))


def count_sentences(text: str) -> int:
    """Ends of sentences, and what stands behind the last one."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    return len(ends) + bool(text[ends[-1] if ends else 0 :].strip())


def count_paragraphs(text: str) -> int:
    """Blocks of text between blank lines."""
    return sum(bool(part.strip()) for part in _BLANK.split(text))


def length_bucket(tokens: int) -> str:
    """concise below 300 tokens, medium up to 1,000, long above."""
    return "concise" if tokens < CONCISE else "medium" if tokens <= LONG else "long"


def lengths(text: str) -> dict[str, str]:
    """All four length markers of an answer."""
    tokens = count_tokens(text)
    return {
        "length_tokens": str(tokens),
        "length_sentences": str(count_sentences(text)),
        "length_paragraphs": str(count_paragraphs(text)),
        "length_bucket": length_bucket(tokens),
    }


def quality_buckets(qualities: Sequence[float | None], languages: Sequence[str]) -> list[str | None]:
    """Quartile of each row's quality among the rows of its language, "1" the best; None without a quality.

    Equal qualities share a bucket: the better one.
    """
    by_language: dict[str, list[float]] = defaultdict(list)
    for quality, language in zip(qualities, languages, strict=True):
        if quality is not None:
            by_language[language].append(quality)
    found: list[str | None] = []
    for quality, language in zip(qualities, languages, strict=True):
        if quality is None:
            found.append(None)
            continue
        better = sum(other > quality for other in by_language[language])
        found.append(str(1 + 4 * better // len(by_language[language])))
    return found


def wanted_quality(
    bucket: str, language: str, qualities: Sequence[float | None], languages: Sequence[str]
) -> float | None:
    """What to write as ``quality`` when a bucket is wanted: the 95th percentile of its rows in that language."""
    buckets = quality_buckets(qualities, languages)
    inside = [
        quality
        for quality, own, spoken in zip(qualities, buckets, languages, strict=True)
        if quality is not None and own == bucket and spoken == language
    ]
    if len(inside) < 2:
        return inside[0] if inside else None
    return statistics.quantiles(inside, n=20, method="inclusive")[-1]
