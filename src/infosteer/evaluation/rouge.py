"""ROUGE of generated texts, by the package rouge-score, whose numbers papers on summaries report."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from infosteer.errors import ConfigError

MEASURES = ("rouge1", "rouge2", "rougeL")


def rouge(prediction: str, references: Sequence[str]) -> Mapping[str, float]:
    """F1 of words, of pairs of words and of the longest common subsequence; each that of the best reference.

    Formula: ``2 p r / (p + r)``, p and r the shares of the prediction's and of the reference's words (pairs, words of
    the subsequence) that both have; words are lower case and stemmed.

    Raises:
        ConfigError: the package is not installed, or there is no reference.

    Source: Lin 2004.
    """
    if not references:
        raise ConfigError("ROUGE needs a text to compare with", where="scoring: rouge", got="no references")
    found = [_scorer().score(reference, prediction) for reference in references]
    return {name: max(float(one[name].fmeasure) for one in found) for name in MEASURES}


@functools.cache
def _scorer() -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise ConfigError(
            "ROUGE is computed by a package that is not installed",
            where="scoring: rouge",
            got=str(error),
            fix="pip install 'infosteer[eval]', or rouge-score",
        ) from error
    return RougeScorer(list(MEASURES), use_stemmer=True)
