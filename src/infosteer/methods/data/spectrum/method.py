"""Rows to sequences of several answers of one task, so that a model learns to answer as the ones before it."""

from __future__ import annotations

import dataclasses
import logging
import random
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from infosteer.core.config import setting
from infosteer.core.data import DataContext, DataMethod, Row
from infosteer.errors import ConfigError, DataError
from infosteer.methods.data.spectrum.turns import FORMATS, LOSSES, Pair, prompt_text, sequence

logger = logging.getLogger(__name__)

ROLES = ("own", "chat")


@dataclasses.dataclass(kw_only=True)
class SpectrumSequences(DataMethod):
    """Puts the rows of each task into sequences of (input, output) pairs in random order, the loss on the outputs.

    Formula: ``L = -sum_{j >= j0} sum_{t in y_j} ln p(y_jt | z, x_1, y_1, ..., x_j, y_j<t)``; j0 = 1 with the
    description z, 2 where it was dropped (probability ``drop_description``) or there is none.

    Symbols: x_j input (a row's prompt), y_j output (its completion, or its text) with the delimiter that ends it.
    Strength s from 0 to 1 is the share of the rows that go into sequences; the others stay as they are.

    Raises:
        ConfigError: a setting out of its range, or a strength above 1.
        DataError: rows of messages, delimiters within texts, or nothing that could carry loss.

    Source: arXiv 2510.06084, sections 3 and 4, and its code.
    """

    asks: ClassVar[bool] = True

    description: str = setting("", "what the rows are, where they do not say it themselves (about: {description: ...})")
    drop_description: float = setting(0.2, "probability that a sequence goes without its description", low=0, high=1)
    format: str = setting("chatml", "how turns are delimited", choices=tuple(FORMATS))
    roles: str = setting("own", "own: description, input, output; chat: system, user, assistant", choices=ROLES)
    loss: str = setting("outputs", "what is learnt: outputs, all tokens, the first or the last output", choices=LOSSES)
    characters: int = setting(3000, "length of a sequence in characters, delimiters apart", low=16)
    pairs: int = setting(0, "most pairs in a sequence; 0 for as many as fit", low=0)
    balance: bool = setting(False, "every task gets as many learnt characters, short ones by being repeated")
    embeddings_from: str = setting(
        "", "model to copy the delimiters' embeddings from, such as the base's instruct model"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("description", "embeddings_from"):
            if not isinstance(getattr(self, name), str):
                raise ConfigError("expected text", where=f"data/spectrum.{name}", got=getattr(self, name))
        for name in ("characters", "pairs"):
            if type(getattr(self, name)) is not int:
                raise ConfigError("expected a whole number", where=f"data/spectrum.{name}", got=getattr(self, name))
        if self.format == "colon" and (self.roles == "chat" or self.embeddings_from):
            raise ConfigError("the colon format has no delimiters", where="data/spectrum.format", got=self.format)

    @property
    def new_tokens(self) -> tuple[str, ...]:
        return FORMATS[self.format].tokens

    @property
    def end_tokens(self) -> tuple[str, ...]:
        return (FORMATS[self.format].end,) if self.new_tokens else ()

    @property
    def token_source(self) -> str | None:
        return self.embeddings_from or None

    def ask(self, prompt: Any) -> Any:
        if not isinstance(prompt, str):
            return prompt
        return prompt_text(self.description, (), prompt, format=self.format, roles=self.roles)

    def answer(self, text: str) -> str:
        return text.partition(FORMATS[self.format].end)[0]

    @property
    def answer_room(self) -> int:
        return 2

    def transform(self, rows: Sequence[Row], context: DataContext) -> list[Row]:
        if context.strength > 1:
            raise ConfigError(
                "at strength 1 every row is in a sequence",
                where="data/spectrum.strength",
                got=context.strength,
                expected="a number from 0 to 1",
            )
        draw = random.Random(f"spectrum/{context.seed}")
        chosen = set(draw.sample(range(len(rows)), round(context.strength * len(rows))))
        tasks: dict[str, list[Row]] = {}
        for number in sorted(chosen):
            about = rows[number].get("about") or {}
            tasks.setdefault(str(about.get("task", about.get("description", ""))), []).append(rows[number])
        made = self._sequences(list(tasks.values()), draw)
        if not made:
            raise DataError(
                "No sequence has anything to learn.",
                where="data/spectrum",
                got=f"{len(chosen)} rows of {len(tasks)} tasks",
                expected="two rows of one task, or a description",
            )
        mixed = [*(dict(row) for number, row in enumerate(rows) if number not in chosen), *made]
        draw.shuffle(mixed)
        return mixed

    def _sequences(self, tasks: Sequence[Sequence[Row]], draw: random.Random) -> list[Row]:
        found = [[_pair(row) for row in rows] for rows in tasks]
        size = sum(len(pair.output) for pairs in found for pair in pairs)
        made: list[Row] = []
        alone = 0
        for rows, pairs in zip(tasks, found, strict=True):
            said = {str(about["description"]) for row in rows if (about := row.get("about") or {}).get("description")}
            description = min(said, default=self.description)
            budget = size / len(found) if self.balance else sum(len(pair.output) for pair in pairs)
            for group in self._groups(pairs, budget, draw):
                shown = "" if draw.random() < self.drop_description else description
                if len(group) == 1 and not shown:
                    alone += 1
                    continue
                segments = sequence(shown, group, format=self.format, roles=self.roles, loss=self.loss)
                made.append({"segments": segments})
        if alone:
            logger.info("%d sequences of one pair without a description are left out: nothing to learn", alone)
        return made

    def _groups(self, pairs: Sequence[Pair], budget: float, draw: random.Random) -> Iterator[list[Pair]]:
        """Sequences of random pairs, each pair once a round, until their outputs have the budget's characters."""
        group: list[Pair] = []
        room, reached = self.characters, 0.0
        while True:
            for pair in draw.sample(pairs, len(pairs)):
                if group and reached >= budget:
                    yield group
                    return
                size = len(pair.input) + len(pair.output)
                if group and (size > room or len(group) == self.pairs):
                    yield group
                    group, room = [], self.characters
                group.append(pair)
                room -= size
                reached += len(pair.output)


def _pair(row: Row) -> Pair:
    """A row as input and output.

    Raises:
        DataError: a row of messages or segments.
    """
    output = row.get("completion", row.get("text"))
    given = row.get("prompt", "")
    if not isinstance(output, str) or not isinstance(given, str) or not output:
        raise DataError(
            "A sequence is made of texts.",
            where="data/spectrum",
            got=f"a row with {', '.join(row)}",
            expected="prompt and completion, or text",
        )
    return Pair(input=given, output=output)
