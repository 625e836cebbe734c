"""One model in one text, for ``benchmarks/flux_claim.py``: flux by class of token, rank correlations and their null."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from infosteer.inspection.correlates import partial_correlation, ranks, shuffled
from infosteer.inspection.word_classes import CONTENT, FUNCTION, OTHER, PUNCTUATION

CONTRASTS = {"rest": (FUNCTION, PUNCTUATION), "function": (FUNCTION,)}  # content words against these
# Alignment and contrast -> correlations with 'content word', named by what is taken out; the first two get a null.
KINDS = {
    ("read", "rest"): ("rank", "partial", "partial_base", "partial_pieces"),
    ("read", "function"): ("rank", "partial"),
    ("written", "rest"): ("rank", "partial"),
}


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """A text's T tokens: classes, units, whether they begin and end one, log frequencies, surprisal under the base."""

    classes: np.ndarray
    units: np.ndarray
    begins: np.ndarray
    ends: np.ndarray
    frequency: np.ndarray
    base_surprisal: np.ndarray


def measures(tokens: Tokens, flux: np.ndarray, surprisal: np.ndarray) -> Iterator[tuple[str, float]]:
    """What one model does in one text; NaN where the text has too few tokens of a class."""
    place = np.arange(len(flux), dtype=np.float64)
    for alignment, values in (("read", flux), ("written", np.concatenate([[np.nan], flux[:-1]]))):
        known = ~np.isnan(values) & ~np.isnan(surprisal) & (tokens.classes != OTHER)
        by_class = {kind: _mean(values[known & (tokens.classes == kind)]) for kind in (CONTENT, FUNCTION, PUNCTUATION)}
        rest = _mean(values[known & (tokens.classes != CONTENT)])
        for kind, mean in by_class.items():
            yield f"{alignment}_{kind}", mean
        for kind, mean in ((FUNCTION, by_class[FUNCTION]), (PUNCTUATION, by_class[PUNCTUATION]), ("rest", rest)):
            yield f"{alignment}_content_minus_{kind}", by_class[CONTENT] - mean
        if alignment == "read":
            others = {
                "surprisal": surprisal,
                "base_surprisal": tokens.base_surprisal,
                "frequency": tokens.frequency,
                "position": place,
            }
            for name, other in others.items():
                yield f"read_rank_{name}", float(partial_correlation(ranks(values[known]), ranks(other[known])))
        for contrast, kinds in _kinds(alignment):
            kept = known & contrast_mask(tokens, contrast)
            label = (tokens.classes[kept] == CONTENT).astype(float)
            taken_out = covariate_sets(tokens, surprisal, place, kept)
            for kind in kinds:
                value = partial_correlation(label, ranks(values[kept]), taken_out[kind])
                yield f"{alignment}_{kind}_{contrast}", float(value)


def _kinds(alignment: str) -> list[tuple[str, tuple[str, ...]]]:
    return [(contrast, kinds) for (where, contrast), kinds in KINDS.items() if where == alignment]


def contrast_mask(tokens: Tokens, contrast: str) -> np.ndarray:
    """Content words and what they are held against."""
    return np.isin(tokens.classes, (CONTENT, *CONTRASTS[contrast]))


def covariate_sets(
    tokens: Tokens, surprisal: np.ndarray, place: np.ndarray, kept: np.ndarray
) -> dict[str, list[np.ndarray]]:
    """What is taken out: nothing; surprisal, frequency and place; the same with the base's surprisal; the first three
    and whether the token begins or ends a word, since content words are the ones that are cut into many tokens."""
    shared = [ranks(tokens.frequency[kept]), ranks(place[kept])]
    own = ranks(surprisal[kept])
    return {
        "rank": [],
        "partial": [own, *shared],
        "partial_base": [ranks(tokens.base_surprisal[kept]), *shared],
        "partial_pieces": [own, *shared, tokens.begins[kept], tokens.ends[kept]],
    }


def null_measures(
    tokens: Tokens, flux: np.ndarray, surprisal: np.ndarray, seed: int, count: int
) -> dict[str, np.ndarray]:
    """The correlations with content words (count,) when the words of the text have exchanged their classes.

    One seed, one set of shuffles: models are compared on the same ones.
    """
    place = np.arange(len(flux), dtype=np.float64)
    found = {}
    for alignment, values in (("read", flux), ("written", np.concatenate([[np.nan], flux[:-1]]))):
        for contrast, kinds in _kinds(alignment):
            kept = ~np.isnan(values) & ~np.isnan(surprisal) & contrast_mask(tokens, contrast)
            labels = shuffled(tokens.classes[kept] == CONTENT, tokens.units[kept], count, seed=seed)
            taken_out = covariate_sets(tokens, surprisal, place, kept)
            for kind in kinds[:2]:
                null = partial_correlation(labels, ranks(values[kept]), taken_out[kind])
                found[f"{alignment}_{kind}_{contrast}"] = null
    return found


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else math.nan
