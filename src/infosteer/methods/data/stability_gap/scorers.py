"""Perplexity of documents per token: by a count model of a reference text, by KenLM, or by a language model."""

from __future__ import annotations

import importlib
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from infosteer.errors import ConfigError, DataError

Scorer = Callable[[Sequence[str]], list[float]]
_WORD = re.compile(r"\w+|[^\w\s]")
_BEGIN, _END = "<s>", "</s>"


def words(text: str) -> list[str]:
    """Lower-case words and punctuation marks."""
    return _WORD.findall(text.lower())


class KneserNey:
    """Interpolated Kneser-Ney n-gram model of a reference text; called with documents it gives their perplexities.

    Formula: ``p(w | h) = max(c(hw) - d, 0) / c(h.) + d N(h.) / c(h.) p(w | h')``, c counts at the highest order and
    numbers of different words to the left below it, N(h.) the number of different words behind h, h' the history
    without its first word; the lowest order backs off to 1 / (V + 1), which a word never seen gets, too.

    Source: Kneser and Ney 1995; Chen and Goodman 1999.
    """

    def __init__(self, texts: Sequence[str], *, order: int = 3, discount: float = 0.75) -> None:
        """
        Args:
            order: words of an n-gram.
            discount: d, between 0 and 1.

        Raises:
            DataError: a reference without words.
        """
        self.order, self.discount = order, discount
        grams: list[Counter[tuple[str, ...]]] = [Counter() for _ in range(order)]
        vocabulary = {_END}
        for text in texts:
            found = words(text)
            vocabulary.update(found)
            padded = [_BEGIN] * (order - 1) + found + [_END]
            grams[-1].update(tuple(padded[i : i + order]) for i in range(len(found) + 1))
        if len(vocabulary) < 2:
            raise DataError("The reference has no words.", where="stability_gap.reference", got=f"{len(texts)} texts")
        for n in range(order - 1, 0, -1):  # lower orders count different words to the left
            grams[n - 1].update(gram[1:] for gram in grams[n])
        self._counts = grams
        self._totals: list[Counter[tuple[str, ...]]] = [Counter() for _ in range(order)]
        self._kinds: list[Counter[tuple[str, ...]]] = [Counter() for _ in range(order)]
        for n, counts in enumerate(grams):
            for gram, count in counts.items():
                self._totals[n][gram[:-1]] += count
                self._kinds[n][gram[:-1]] += 1
        self._floor = 1.0 / (len(vocabulary) + 1)

    def probability(self, word: str, history: Sequence[str]) -> float:
        """p(word | history), of which the last ``order - 1`` words count."""
        found = self._floor
        for n in range(self.order):
            before = tuple(history[len(history) - n :]) if n else ()
            total = self._totals[n][before]
            if total:
                own = max(self._counts[n][(*before, word)] - self.discount, 0.0)
                found = (own + self.discount * self._kinds[n][before] * found) / total
        return found

    def __call__(self, texts: Sequence[str]) -> list[float]:
        """Perplexity per word, the end of the document counted as one."""
        found = []
        for text in texts:
            padded = [_BEGIN] * (self.order - 1) + words(text) + [_END]
            start = self.order - 1
            nats = -sum(math.log(self.probability(padded[i], padded[:i][-start:] if start else ()))
                        for i in range(start, len(padded)))  # fmt: skip
            found.append(math.exp(nats / (len(padded) - start)))
        return found


def load_kenlm(path: str | Path) -> Scorer:
    """A KenLM model (an ARPA or binary file) as a scorer.

    Raises:
        ConfigError: the package kenlm is not installed, or the file cannot be read.
    """
    try:
        kenlm: Any = importlib.import_module("kenlm")
    except ImportError:
        raise ConfigError(
            "KenLM is not installed",
            where="stability_gap",
            fix="pip install kenlm (it needs a C++ compiler), or use KneserNey, which needs nothing",
        ) from None
    try:
        model = kenlm.Model(str(path))
    except OSError as error:
        raise ConfigError("KenLM cannot read the file", where=path, got=str(error)) from None
    return lambda texts: [float(model.perplexity(" ".join(words(text)))) for text in texts]


class ModelScorer:
    """A causal language model as a scorer: perplexity per token of its own."""

    def __init__(self, model: Any, tokenizer: Any, *, max_length: int = 512) -> None:
        self.model, self.tokenizer, self.max_length = model, tokenizer, max_length

    def __call__(self, texts: Sequence[str]) -> list[float]:
        """Perplexities; of a text of fewer than two tokens infinite. One text at a time: padding plays no part."""
        found, training = [], self.model.training
        self.model.eval()
        try:
            for text in texts:
                ids = torch.tensor([self.tokenizer(text)["input_ids"][: self.max_length]])
                if ids.shape[1] < 2:
                    found.append(math.inf)
                    continue
                ids = ids.to(next(self.model.parameters()).device)
                with torch.no_grad():
                    logits = self.model(input_ids=ids, use_cache=False).logits[0, :-1].float()
                found.append(math.exp(float(torch.nn.functional.cross_entropy(logits, ids[0, 1:]))))
        finally:
            self.model.train(training)
        return found
