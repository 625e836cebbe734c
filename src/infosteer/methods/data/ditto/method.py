"""Pseudo-repetitions: rows in which one sentence of a training row stands again and again."""

from __future__ import annotations

import dataclasses
import itertools
import random
import re
from collections.abc import Iterator, Sequence
from typing import Any

from infosteer.core.config import setting
from infosteer.core.data import DataContext, DataMethod, Row
from infosteer.errors import ConfigError, DataError

FALLBACKS = ("skip", "span")
SPAN_WORDS = (10, 40)
# White space, then text up to a mark of an end that white space or nothing follows: "3.5" ends no sentence.
_SENTENCE = re.compile(r"\s*\S.*?[.!?]+[\"')\]]*(?=\s|$)|\s*\S.*", re.DOTALL)
_WORD = re.compile(r"\s*\S+")


def sentences(text: str) -> list[str]:
    """The sentences of a text, each with the white space before it; put together they are the text up to its end."""
    return _SENTENCE.findall(text)


def repeated_row(before: str, sentence: str, characters: int) -> Row | None:
    """``before`` and copies of ``sentence``, of at most ``characters`` characters, the last copy cut behind a word.

    The prompt ends with the first copy, so that the later ones carry the loss. None where two copies do not fit.
    """
    whole, left = divmod(characters - len(before), len(sentence))
    if whole < 2:
        return None
    last = sentence[:left]
    if not sentence[left].isspace():
        last = re.sub(r"\S+$", "", last)
    return {
        "prompt": before + sentence,
        "completion": sentence * (whole - 1) + last.rstrip(),
        "repeats": {"start": len(before), "length": len(sentence)},
    }


@dataclasses.dataclass(kw_only=True)
class PseudoRepetition(DataMethod):
    """Adds rows that repeat a sentence of a training row until they are a share r of the whole, and shuffles all rows.

    Formula: ``round(r / (1 - r) n)`` rows ``a s s s ...`` to n rows, s a sentence of a row, a the one before it; r = S
    ``share``, S strength. ``losses/ditto`` is what makes them useful: on their own they teach to repeat.

    Raises:
        ConfigError: a share of 1 or more.
        DataError: no row holds two sentences that fit.

    Source: arXiv 2206.02369, section 4.
    """

    share: float = setting(0.5, "share of the rows that are repetitions; below 1", low=0, high=1)
    characters: int = setting(400, "length of a repetition in characters", low=16)
    without_sentence: str = setting(
        "skip",
        "rows without two sentences: skip makes no repetition of them, span repeats 10 to 40 of their words",
        choices=FALLBACKS,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self.characters) is not int:
            raise ConfigError("expected a whole number", where="data/ditto.characters", got=self.characters)

    @property
    def idle(self) -> bool:
        return self.share == 0

    def transform(self, rows: Sequence[Row], context: DataContext) -> list[Row]:
        added = context.added_for_each(self.share, "data/ditto.share")
        draw = random.Random(f"ditto/{context.seed}")
        found = self._rows([_learnt(row) for row in rows], draw)
        mixed = [dict(row) for row in rows] + [next(found) for _ in range(round(added * len(rows)))]
        draw.shuffle(mixed)
        return mixed

    def _rows(self, texts: Sequence[str], draw: random.Random) -> Iterator[Row]:
        """Repetitions without end: rounds over the texts in random order, one random sentence of each."""
        while True:
            none = True
            for text in draw.sample(texts, len(texts)):
                pairs = self._pairs(text, draw)
                for before, sentence in draw.sample(pairs, len(pairs)):
                    row = repeated_row(before, sentence, self.characters)
                    if row is not None:
                        none = False
                        yield row
                        break
            if none:
                raise DataError(
                    "No row holds two sentences whose repetition fits.",
                    where="data/ditto",
                    got=f"{len(texts)} texts, of which the first is {next(iter(texts), '')[:60]!r}",
                    fix="raise characters, or set without_sentence: span",
                )

    def _pairs(self, text: str, draw: random.Random) -> list[tuple[str, str]]:
        """(what comes before, sentence), for every sentence with a predecessor; else for one random span of words."""
        found = sentences(text)
        if len(found) > 1 or self.without_sentence == "skip":
            return list(itertools.pairwise(found))
        words = _WORD.findall(text)
        if len(words) <= SPAN_WORDS[0]:
            return []
        size = draw.randint(SPAN_WORDS[0], min(SPAN_WORDS[1], len(words) - 1))
        start = draw.randint(1, len(words) - size)
        return [("".join(words[max(0, start - size) : start]), "".join(words[start : start + size]))]


def _learnt(row: Row) -> str:
    """The text of a row that is learnt: all of a text, a completion, or the last reply."""
    text: Any = row.get("text", row.get("completion", row.get("messages")))
    return text if isinstance(text, str) else str(text[-1]["content"])
