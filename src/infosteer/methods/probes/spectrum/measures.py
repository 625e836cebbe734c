"""What samples cover, and how far one distribution is from another: numbers and texts, no model."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Hashable, Sequence

from infosteer.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Coverage:
    """What the samples of one prompt cover.

    Attributes:
        valid: share of the samples that are valid.
        distinct: distinct valid samples over valid ones; 0 where none is valid.
        number: distinct valid samples, the prompt's yield.
        uniqueness: probability that two of the valid samples differ; NaN for fewer than two.
    """

    valid: float
    distinct: float
    number: int
    uniqueness: float


def coverage(samples: Sequence[Hashable], valid: Sequence[bool]) -> Coverage:
    """Coverage of the valid output space by the samples of one prompt.

    Raises:
        ConfigError: no sample, or verdicts of another number.

    Source: arXiv 2510.06084, section 5 (100 samples at temperature 1).
    """
    if not samples or len(samples) != len(valid):
        raise ConfigError("each sample has one verdict", where="coverage", got=f"{len(samples)} and {len(valid)}")
    kept = [sample for sample, good in zip(samples, valid, strict=True) if good]
    return Coverage(
        valid=len(kept) / len(samples),
        distinct=len(set(kept)) / len(kept) if kept else 0.0,
        number=len(set(kept)),
        uniqueness=pairwise_uniqueness(kept),
    )


def pairwise_uniqueness(samples: Sequence[Hashable]) -> float:
    """``1 - sum_i n_i (n_i - 1) / (n (n - 1))``, n_i copies of sample i among n: one minus the collision probability.

    Unbiased for draws that are independent; NaN for fewer than two.
    """
    n = len(samples)
    if n < 2:
        return math.nan
    return 1 - sum(count * (count - 1) for count in Counter(samples).values()) / (n * (n - 1))


def divergence(p: Sequence[float], q: Sequence[float]) -> float:
    """Jensen-Shannon divergence in nats: ``(KL(p | m) + KL(q | m)) / 2``, m = (p + q) / 2; from 0 to ln 2.

    Args:
        p, q: weights over the same answers, each divided by its sum.

    Raises:
        ConfigError: other numbers of answers, or weights that are no distribution.

    Source: arXiv 2510.06084, section 6 (distributional alignment).
    """
    for name, weights in (("p", p), ("q", q)):
        if not all(math.isfinite(w) and w >= 0 for w in weights) or sum(weights) <= 0:
            raise ConfigError("these are no weights of a distribution", where=name, got=list(weights)[:20])
    if len(p) != len(q):
        raise ConfigError("two distributions over other answers", where="p, q", got=f"{len(p)} and {len(q)}")
    total = 0.0
    for a, b in zip((w / sum(p) for w in p), (w / sum(q) for w in q), strict=True):
        middle = (a + b) / 2
        total += sum(x * math.log(x / middle) / 2 for x in (a, b) if x > 0 and middle > 0)
    return max(total, 0.0)
