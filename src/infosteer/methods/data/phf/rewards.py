"""Rewards of segments: high is good. A scorer is any function of texts; the one given here counts listed words, those
in ``scorers`` do more."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from infosteer.core.data import Row
from infosteer.errors import ConfigError, DataError

SEGMENTS = ("sentence", "line", "row")
_SENTENCE = re.compile(r"\s*\S.*?[.!?]+[\"')\]]*(?=\s|$)|\s*\S.*|\s+$", re.DOTALL)
_LINE = re.compile(r"[^\n]*\n|[^\n]+$")
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")


class Reward(Protocol):
    """What scores segments."""

    def __call__(self, segments: Sequence[str]) -> list[float]:
        """One finite number for each segment, higher for a better one."""


class LexiconReward:
    """Minus the share of a segment's words that are listed, in [-1, 0]; case does not count.

    Args:
        words: the words, or the path of a text file with one on each line.

    Raises:
        ConfigError: no words.
        DataError: a file that cannot be read.
    """

    def __init__(self, words: Iterable[str] | str | Path) -> None:
        if isinstance(words, (str, Path)):
            try:
                words = Path(words).read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise DataError("The list of words cannot be read.", where=words, got=str(error)) from error
        self.words = frozenset(word.strip().lower() for word in words if word.strip())
        if not self.words:
            raise ConfigError(
                "A reward that counts listed words needs some.",
                where="data/phf.words",
                expected="a list of words, or the path of a file with one on each line",
            )

    def __call__(self, segments: Sequence[str]) -> list[float]:
        found = []
        for segment in segments:
            words = words_of(segment)
            found.append(-sum(word in self.words for word in words) / len(words) if words else 0.0)
        return found


def words_of(text: str) -> list[str]:
    """Lower-case words; marks are none."""
    return [word.lower() for word in _WORD.findall(text)]


def split(text: str, by: str) -> list[str]:
    """The segments of a text; put together they are the text, white space before a sentence being its own."""
    if by == "row":
        return [text] if text else []
    return _SENTENCE.findall(text) if by == "sentence" else _LINE.findall(text)


def learnt_text(row: Row) -> str:
    """The text of a row that is learnt: all of a text, a completion, or the last reply."""
    text: Any = row.get("text", row.get("completion", row.get("messages")))
    return text if isinstance(text, str) else str(text[-1]["content"])


def add_rewards(rows: Sequence[Row], reward: Reward, by: str = "sentence") -> list[Row]:
    """The rows with ``rewards``: [start, end, reward] for every segment of the learnt text, in its characters.

    Rows that hold ``rewards`` already keep them.

    Raises:
        DataError: a scorer that gives another number of rewards than segments, or one that is not finite.
    """
    found: list[Row] = []
    for row in rows:
        if "rewards" in row:
            found.append(dict(row))
            continue
        segments = split(learnt_text(row), by)
        values = [float(value) for value in reward(segments)] if segments else []
        if len(values) != len(segments) or any(value != value or abs(value) == float("inf") for value in values):
            raise DataError(
                "A reward is no finite number for each segment.",
                where="data/phf",
                got=f"{len(segments)} segments, rewards {values[:4]}",
            )
        places, start = [], 0
        for segment, value in zip(segments, values, strict=True):
            places.append([start, start + len(segment), value])
            start += len(segment)
        found.append({**row, "rewards": places})
    return found


def mean_reward(row: Row) -> float:
    """Mean over the segments; 0 for a row without any."""
    values = [value for _, _, value in row["rewards"]]
    return sum(values) / len(values) if values else 0.0
