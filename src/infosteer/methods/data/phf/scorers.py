"""Rewards beyond a list of words: a classifier, examples of good and bad, patterns of personal data, Python's style.

All of them follow ``Reward``: the segments of one row in, one number each out, high is good.
"""

from __future__ import annotations

import bisect
import importlib
import itertools
import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from infosteer.errors import ConfigError, DataError
from infosteer.methods.data.phf.rewards import words_of

PERSONAL = {  # kind -> pattern
    "e-mail address": re.compile(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+\b"),
    "web address": re.compile(r"\bhttps?://\S+|\bwww\.[\w-]+\.\S+"),
    "handle": re.compile(r"(?<![\w.@])@[A-Za-z_]\w{2,}"),
    "IP address": re.compile(r"\b(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)\b"),
    "social security number": re.compile(r"\b(?!000|666|9\d\d)\d{3}-(?!00)\d\d-(?!0000)\d{4}\b"),
    "card number": re.compile(r"(?<![\d-])(?:\d[ -]?){12,18}\d(?![\d-])"),
    "phone number": re.compile(
        r"(?<![\w.-])(?<!\d )(?:\+\d{1,3}[ .-]?)?(?:\(\d{2,4}\)|\d{2,4})[ .-]\d{3,4}[ .-]?\d{3,4}(?![\w-])(?! \d)"
    ),
}


class ClassifierReward:
    """Minus the probability that a classifier gives a class, in [-1, 0]; of a model with one output, that output.

    Args:
        model: a transformers model for sequence classification, a folder, or a hub id (safetensors alone are read).
        label: name of the bad class; None takes the last one.
        tokenizer: needed with a model that is given as such.

    Raises:
        ConfigError: an unknown class, or a model without a tokenizer.
    """

    def __init__(
        self,
        model: Any,
        *,
        label: str | None = None,
        tokenizer: Any = None,
        batch_size: int = 32,
        max_length: int = 512,
    ) -> None:
        if isinstance(model, str):
            from transformers import AutoModelForSequenceClassification, AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(model) if tokenizer is None else tokenizer
            model = AutoModelForSequenceClassification.from_pretrained(model, use_safetensors=True)
        if tokenizer is None:
            raise ConfigError(
                "a classifier reads tokens", where="data/phf.classifier", fix="give its tokenizer as well"
            )
        names = {name: int(number) for name, number in model.config.label2id.items()}
        if label is not None and label not in names:
            raise ConfigError("no such class", where="data/phf.bad_class", got=label, expected=", ".join(names))
        self.model, self.tokenizer = model.eval(), tokenizer
        self.batch_size, self.max_length = batch_size, max_length
        self._single = model.config.num_labels == 1
        self._each = model.config.problem_type == "multi_label_classification"
        self._place = names[label] if label is not None else model.config.num_labels - 1

    def __call__(self, segments: Sequence[str]) -> list[float]:
        found: list[float] = []
        for start in range(0, len(segments), self.batch_size):
            inputs = self.tokenizer(
                list(segments[start : start + self.batch_size]), padding=True, truncation=True,
                max_length=self.max_length, return_tensors="pt",
            )  # fmt: skip
            with torch.no_grad():
                logits = self.model(**inputs.to(self.model.device)).logits.float()
            shares = logits if self._single else -(logits.sigmoid() if self._each else logits.softmax(-1))
            found += shares[:, self._place].tolist()
        return found


class ExamplesReward:
    """Minus the probability of being bad, learnt from examples: naive Bayes over words, in [-1, 0].

    Formula: ``P(bad | words) = sigmoid(ln(n_b / n_g) + sum_w ln p_b(w) / p_g(w))``, p with one count added to each word
    that either kind holds; other words say nothing. n_b, n_g numbers of examples.

    Raises:
        DataError: no words in one of the two kinds.
    """

    def __init__(self, good: Sequence[str], bad: Sequence[str]) -> None:
        counts = [Counter(word for text in texts for word in words_of(text)) for texts in (good, bad)]
        totals = [sum(count.values()) for count in counts]
        if not all(totals):
            raise DataError("Examples of both kinds hold words.", where="data/phf", got=f"{totals} words")
        known = set(counts[0]) | set(counts[1])
        self._prior = math.log(len(bad) / len(good))
        self._weights = {
            word: math.log((counts[1][word] + 1) / (totals[1] + len(known)))
            - math.log((counts[0][word] + 1) / (totals[0] + len(known)))
            for word in known
        }

    def __call__(self, segments: Sequence[str]) -> list[float]:
        scores = [self._prior + sum(self._weights.get(word, 0.0) for word in words_of(text)) for text in segments]
        return [-0.5 * (1 + math.tanh(score / 2)) for score in scores]  # a sigmoid that cannot overflow


class PersonalDataReward:
    """Minus the pieces of personal data for each character: addresses of mail and web, numbers of phones and cards ...

    Found by patterns; names of people and places need an entity recogniser, which is not here.
    """

    def __call__(self, segments: Sequence[str]) -> list[float]:
        return [-len(self.find(text)) / len(text) if text else 0.0 for text in segments]

    @staticmethod
    def find(text: str) -> list[tuple[str, str]]:
        """(kind, piece) of a text; what is a piece of one kind is none of a later one."""
        found, taken = [], [False] * len(text)
        for kind, pattern in PERSONAL.items():
            for match in pattern.finditer(text):
                card = kind == "card number"
                if any(taken[slice(*match.span())]) or (card and not _is_card(match[0])):
                    continue
                taken[slice(*match.span())] = [True] * len(match[0])
                found.append((kind, match[0]))
        return found


class StyleReward:
    """Minus the violations of PEP 8 for each character of a segment; the segments together are the file to be checked.

    Raises:
        ConfigError: the package pycodestyle is not installed.
    """

    def __init__(self) -> None:
        try:
            self._checker: Any = importlib.import_module("pycodestyle")
        except ImportError:
            raise ConfigError(
                "pycodestyle is not installed", where="data/phf.scorer", fix="pip install pycodestyle"
            ) from None

    def __call__(self, segments: Sequence[str]) -> list[float]:
        """A violation counts for the segment that its line belongs to, so segments had better be lines."""
        found: list[int] = []

        class Lines(self._checker.BaseReport):  # type: ignore[misc, name-defined]
            def error(self, line: int, offset: int, text: str, check: Any) -> Any:
                code = super().error(line, offset, text, check)
                if code:
                    found.append(line)
                return code

        options = self._checker.StyleGuide().options
        lines = "".join(segments).splitlines(keepends=True)
        self._checker.Checker(lines=lines, options=options, report=Lines(options)).check_all()
        ends = list(itertools.accumulate(segment.count("\n") for segment in segments))
        counts = Counter(min(bisect.bisect_right(ends, line - 1), len(segments) - 1) for line in found)
        return [-counts[n] / len(text) if text else 0.0 for n, text in enumerate(segments)]


def _is_card(text: str) -> bool:
    """Luhn's check sum of the digits."""
    digits = [int(letter) for letter in text if letter.isdigit()][::-1]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[1::2]]
    return (sum(digits[::2]) + sum(doubled)) % 10 == 0
