"""What a set of samples is like: their rewards, how much they vary, and how near they are to other texts.

Legend: texts are sequences of words or tokens; rewards are high for good texts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence

from infosteer.errors import ConfigError

Words = Sequence[Hashable]


def share_below(rewards: Sequence[float], threshold: float) -> float:
    """Share of the samples whose reward is below the threshold; at it counts as good."""
    _some(rewards)
    return sum(reward < threshold for reward in rewards) / len(rewards)


def expected_worst(rewards: Sequence[float], of: int = 25) -> float:
    """Expected least reward among ``of`` samples drawn without replacement from those given.

    Formula: ``sum_i r_(i) C(n - i, of - 1) / C(n, of)``, r_(1) <= ... <= r_(n). No draw is made, so nothing is random.

    Raises:
        ConfigError: fewer samples than ``of``.
    """
    n = len(rewards)
    if not 1 <= of <= n:
        raise ConfigError("cannot draw so many samples", where="of", got=of, expected=f"from 1 to {n}")
    ordered = sorted(rewards)
    return sum(r * math.comb(n - i, of - 1) for i, r in enumerate(ordered, start=1)) / math.comb(n, of)


def distinct_ngrams(texts: Sequence[Words], n: int = 2) -> float:
    """Distinct n-grams of all texts over their number; 0 where there are none."""
    grams = [gram for text in texts for gram in _grams(text, n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def bleu(text: Words, references: Sequence[Words], longest: int = 4) -> float:
    """BLEU of a text against references, in [0, 1].

    Formula: ``min(1, exp(1 - r / c)) (prod_n (m_n + k) / (t_n + k))^(1/N)``; c the text's length, r that of the
    reference nearest in length (the shorter one of two), t_n the text's n-grams, m_n those that a reference holds as
    often; k = 0 for n = 1, else 1 (the smoothing of Lin and Och, 2004).
    """
    if not text or not references:
        return 0.0
    logs = 0.0
    for n in range(1, longest + 1):
        own = Counter(_grams(text, n))
        held: Counter[tuple[Hashable, ...]] = Counter()
        for reference in references:
            held |= Counter(_grams(reference, n))
        matched, smooth = sum((own & held).values()), int(n > 1)
        if matched + smooth == 0:
            return 0.0
        logs += math.log((matched + smooth) / (sum(own.values()) + smooth))
    near = min((abs(len(reference) - len(text)), len(reference)) for reference in references)[1]
    return min(1.0, math.exp(1 - near / len(text))) * math.exp(logs / longest)


def self_bleu(texts: Sequence[Words], longest: int = 4) -> float:
    """Mean BLEU of each text against all others; high for samples that are alike.

    Raises:
        ConfigError: fewer than two texts.
    """
    if len(texts) < 2:
        raise ConfigError("self-BLEU compares texts with each other", got=f"{len(texts)} texts", expected="two or more")
    return sum(bleu(text, [*texts[:i], *texts[i + 1 :]], longest) for i, text in enumerate(texts)) / len(texts)


def _grams(text: Words, n: int) -> list[tuple[Hashable, ...]]:
    return [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]


def _some(rewards: Sequence[float]) -> None:
    if not rewards:
        raise ConfigError("there are no samples", where="rewards")
