"""Preferences as data: score segments, and leave documents out, or say before each segment what it is."""

from __future__ import annotations

import dataclasses
import random
import statistics
from collections.abc import Sequence
from typing import Any, ClassVar

from infosteer.core.config import is_finite, setting
from infosteer.core.data import DataContext, DataMethod, Row
from infosteer.errors import ConfigError, DataError
from infosteer.methods.data.phf.rewards import SEGMENTS, LexiconReward, Reward, add_rewards, mean_reward
from infosteer.methods.data.phf.scorers import ClassifierReward, PersonalDataReward, StyleReward

OBJECTIVES = ("conditional", "filtering", "score")
SCORERS = ("words", "classifier", "personal_data", "style")
ALIGNED, MISALIGNED = "<|aligned|>", "<|misaligned|>"
ANSWER_SEGMENTS = 8  # an answer may have a control token before each of so many


@dataclasses.dataclass(kw_only=True)
class HumanPreferences(DataMethod):
    """Scores every segment, then trains on the better documents alone, or with a control token before every segment.

    Formula: conditional: ``c_i x_i`` for each segment x_i, c_i ``<|aligned|>`` where R_i >= threshold, else
    ``<|misaligned|>``; nothing with probability ``drop``, and with 1 - strength. Filtering: rows whose mean reward is
    at least the threshold, repeated until there are as many as before. Score: rewards alone, for ``losses/phf``.

    Symbols: R_i reward of segment i, high is good.

    Raises:
        ConfigError: a setting out of its range, or a strength above 1.
        DataError: a word list that cannot be read, or a filter that leaves nothing.

    Source: arXiv 2302.08582, section 2.
    """

    asks: ClassVar[bool] = True

    objective: str = setting("conditional", "what is made of the rewards", choices=OBJECTIVES)
    words: Any = dataclasses.field(
        default=(),
        metadata={"help": "words that a good segment does not hold, or a file of them; rows with rewards need none"},
    )
    scorer: str = setting(
        "words",
        "what rows without rewards are scored by: listed words, a classifier, patterns of personal data, pycodestyle",
        choices=SCORERS,
    )
    classifier: str = setting("", "folder or hub id of a sequence classifier, for scorer: classifier")
    bad_class: str = setting("", "its class of bad segments; empty takes the last one")
    segments: str = setting("sentence", "what gets a reward of its own", choices=SEGMENTS)
    threshold: float | None = dataclasses.field(
        default=0.0,
        metadata={"help": "least reward of what counts as aligned; null filters at the median of the documents"},
    )
    drop: float = setting(0.01, "conditional: share of segments without a control token", low=0, high=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.words, (list, tuple)):
            self.words = tuple(self.words)
        texts = self.words if isinstance(self.words, tuple) else (self.words,)
        if not all(isinstance(word, str) for word in texts):
            raise ConfigError("expected words, or the path of a file", where="data/phf.words", got=self.words)
        for name in ("classifier", "bad_class"):
            if not isinstance(getattr(self, name), str):
                raise ConfigError("expected text", where=f"data/phf.{name}", got=getattr(self, name))
        if (self.scorer == "classifier") != bool(self.classifier):
            raise ConfigError(
                "a classifier is named, and only where it is to score",
                where="data/phf.classifier",
                got=f"scorer: {self.scorer}, classifier: {self.classifier or 'none'}",
                fix="set both scorer: classifier and classifier: a folder or hub id",
            )
        if self.threshold is None and self.objective == "conditional":
            raise ConfigError("control tokens need a threshold", where="data/phf.threshold", got=None)
        number = isinstance(self.threshold, (int, float)) and not isinstance(self.threshold, bool)
        if self.threshold is not None and not (number and is_finite(self.threshold)):
            raise ConfigError("expected a number or null", where="data/phf.threshold", got=self.threshold)

    @property
    def new_tokens(self) -> tuple[str, ...]:
        return (ALIGNED, MISALIGNED) if self.objective == "conditional" else ()

    @property
    def silent_tokens(self) -> tuple[str, ...]:
        return self.new_tokens

    def ask(self, prompt: Any) -> Any:
        """The prompt, with the token of a good answer behind it; in chats no place for it is left open."""
        return prompt + ALIGNED if self.objective == "conditional" and isinstance(prompt, str) else prompt

    def answer(self, text: str) -> str:
        return text.replace(ALIGNED, "").replace(MISALIGNED, "")

    @property
    def answer_room(self) -> int:
        return ANSWER_SEGMENTS if self.objective == "conditional" else 0

    def transform(self, rows: Sequence[Row], context: DataContext) -> list[Row]:
        if context.strength > 1:
            raise ConfigError(
                "at strength 1 every segment has its token, or every bad row is out",
                where="data/phf.strength",
                got=context.strength,
                expected="a number from 0 to 1",
            )
        unscored = any("rewards" not in row for row in rows)
        scored = add_rewards(rows, self._reward() if unscored else _no_reward, self.segments)
        draw = random.Random(f"phf/{context.seed}")
        if self.objective == "conditional":
            return [self._conditional(row, context.strength, draw) for row in scored]
        if self.objective == "filtering":
            return self._filtered(scored, context.strength, draw)
        return scored

    def _reward(self) -> Reward:
        if self.scorer == "classifier":
            return ClassifierReward(self.classifier, label=self.bad_class or None)
        if self.scorer == "personal_data":
            return PersonalDataReward()
        return StyleReward() if self.scorer == "style" else LexiconReward(self.words)

    def _conditional(self, row: Row, strength: float, draw: random.Random) -> Row:
        """The row with control tokens in the text that is learnt; its rewards are used up."""
        assert self.threshold is not None
        kept = {name: value for name, value in row.items() if name != "rewards"}
        name = next(name for name in ("text", "completion", "messages") if name in row)
        learnt = row[name] if isinstance(row[name], str) else row[name][-1]["content"]
        parts, cursor = [], 0
        for start, end, reward in row["rewards"]:
            silent = draw.random() < self.drop or draw.random() >= strength
            token = "" if silent else ALIGNED if reward >= self.threshold else MISALIGNED
            parts += [learnt[cursor:start], token, learnt[start:end]]
            cursor = end
        text = "".join([*parts, learnt[cursor:]])
        kept[name] = text if isinstance(row[name], str) else [*row[name][:-1], {**row[name][-1], "content": text}]
        return kept

    def _filtered(self, rows: Sequence[Row], strength: float, draw: random.Random) -> list[Row]:
        """As many rows as before, from those that pass; at strength s a bad row is out with probability s."""
        means = [mean_reward(row) for row in rows]
        threshold = statistics.median(means) if self.threshold is None else self.threshold
        kept = [
            {name: value for name, value in row.items() if name != "rewards"}
            for row, mean in zip(rows, means, strict=True)
            if mean >= threshold or draw.random() >= strength
        ]
        if not kept:
            raise DataError(
                "No row is good enough to be trained on.",
                where="data/phf.threshold",
                got=f"rewards up to {max(means, default=0.0):.4g}, threshold {threshold:.4g}",
            )
        found: list[Row] = []
        while len(found) < len(rows):
            found += [dict(row) for row in draw.sample(kept, min(len(kept), len(rows) - len(found)))]
        return found


def _no_reward(segments: Sequence[str]) -> list[float]:
    raise AssertionError("every row holds its rewards")
