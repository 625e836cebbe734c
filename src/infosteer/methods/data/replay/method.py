"""Replay of another source's rows, such as pretraining text, while fine-tuning."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from infosteer.core.config import setting
from infosteer.core.data import DataContext, DataMethod, Row
from infosteer.errors import ConfigError, DataError

UNITS = ("rows", "characters", "labels")


@dataclasses.dataclass(kw_only=True)
class Replay(DataMethod):
    """Adds rows of ``source`` until they are a share r of the whole, and shuffles all rows.

    Formula: ``round(r / (1 - r) n)`` rows to n training rows, or rows with ``r / (1 - r)`` times their characters, or
    times those of their characters that carry loss; r = s ``share``, s strength.

    Raises:
        ConfigError: a share of 1 or more of the whole, options that are no mapping, or a source without a name.
        DataError: the source cannot be read.
    """

    reads_segments: ClassVar[bool] = True

    source: str = setting("lab:facts/texts", "where the rows come from: a file, a folder, a hub id, or a lab key")
    share: float = setting(0.3, "share of the whole that is replay; below 1", low=0, high=1)
    unit: str = setting("rows", "the whole that the share is of; labels: characters that carry loss", choices=UNITS)
    options: Mapping[str, Any] = dataclasses.field(
        default_factory=dict, metadata={"help": "settings of the source, e.g. {people: pool} for lab:facts/texts"}
    )
    limit: int = setting(0, "read at most so many rows of the source; 0 for all", low=0)
    full_text: bool = setting(True, "rows with prompt and completion carry loss on the prompt too")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.options, Mapping):
            raise ConfigError("options are a mapping", where="replay.options", got=self.options)
        self.options = dict(self.options)
        if not isinstance(self.source, str) or not self.source:
            raise ConfigError("a source is named by text", where="replay.source", got=self.source)
        if type(self.limit) is not int:
            raise ConfigError("expected a whole number", where="replay.limit", got=self.limit)

    @property
    def idle(self) -> bool:
        return self.share == 0

    def transform(self, rows: Sequence[Row], context: DataContext) -> list[Row]:
        added = context.added_for_each(self.share, "replay.share")
        drawn = {"seed": context.seed} if self.source.startswith("lab:") else {}
        source = context.read(self.source, limit=self.limit or None, **{**drawn, **self.options})
        if not source:
            raise DataError("There is no row to replay.", where=self.source)
        pairs = all(isinstance(row.get("prompt"), str) for row in rows)
        found = [_as_text(row, pairs) if self.full_text or "text" in row else dict(row) for row in source]
        draw = random.Random(f"replay/{context.seed}")
        wanted = added * sum(_size(row, self.unit) for row in rows)
        mixed = [*(dict(row) for row in rows), *_taken(found, wanted, self.unit, draw)]
        draw.shuffle(mixed)
        return mixed


def _taken(rows: Sequence[Row], wanted: float, unit: str, draw: random.Random) -> Iterator[Row]:
    """Rows in rounds of random order, until their number or their characters are as wanted, to the nearest row."""
    reached = 0.0
    while True:
        for row in draw.sample(rows, len(rows)):
            size = max(_size(row, unit), 1)
            if reached + size / 2 > wanted:
                return
            reached += size
            yield dict(row)


def _as_text(row: Row, pairs: bool) -> Row:
    """A row whose every token carries loss: text, or a completion to nothing among rows with prompts."""
    if "text" in row:
        text = row["text"]
    elif isinstance(row.get("prompt"), str):
        text = row["prompt"] + row["completion"]
    else:
        return dict(row)  # messages: their own rule says what carries loss
    return {"prompt": "", "completion": text} if pairs else {"text": text}


def _size(row: Row, unit: str) -> int:
    """What a row counts for: 1, its characters, or those of its text, completion or last reply."""
    if unit == "rows":
        return 1
    if "segments" in row:
        return sum(len(part["text"]) for part in row["segments"] if part["loss"] or unit != "labels")
    parts = [row[name] for name in ("text", "prompt", "completion", "messages") if name in row]
    if unit == "labels":
        parts = [part if isinstance(part, str) else part[-1:] for part in parts[-1:]]
    return sum(len(part) if isinstance(part, str) else sum(len(turn["content"]) for turn in part) for part in parts)
