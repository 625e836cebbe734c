"""Markers in the prompt and before the completion of training rows, dropped at random from the prompt alone."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from infosteer.core.config import setting, suggestion
from infosteer.core.data import DataContext, DataMethod, Row
from infosteer.errors import ConfigError, DataError
from infosteer.methods.data.markers.lists import add_list, read_list, write_list
from infosteer.methods.data.markers.taxonomy import LENGTHS, checked, extended
from infosteer.methods.data.markers.values import lengths, quality_buckets


@dataclasses.dataclass(kw_only=True)
class Markers(DataMethod):
    """Puts what is known of a row into its prompt and before its completion, and drops it from the prompt at random.

    Formula: ``x' = x + drop(m)``, ``y' = m + y``, m the row's list of markers; ``drop(m)`` is empty with probability
    ``drop_all``, else each marker stays with probability ``1 - drop_each``. Of n rows ``round(s n)`` are marked, s
    strength. The loss is that of the completion, list included.

    Raises:
        ConfigError: a category or value that the taxonomy does not have.
        DataError: rows without prompt and completion, or about which nothing is known.

    Source: arXiv 2506.14702.
    """

    asks: ClassVar[bool] = True

    drop_all: float = setting(0.5, "probability that a row's prompt shows no marker at all", low=0, high=1)
    drop_each: float = setting(0.5, "probability that a marker is dropped from a prompt that shows some", low=0, high=1)
    exact: bool = setting(False, "drop exactly that share of a prompt's markers, not each one by itself")
    shuffle: bool = setting(True, "markers stand in random order in prompts; completions keep the taxonomy's order")
    count: Sequence[str] = dataclasses.field(
        default=LENGTHS, metadata={"help": "lengths to count in each completion: length_tokens, length_bucket, ..."}
    )
    values: Mapping[str, Any] = dataclasses.field(
        default_factory=dict, metadata={"help": "markers of all rows that do not say otherwise, e.g. {lang: English}"}
    )
    taxonomy: Mapping[str, Sequence[str]] = dataclasses.field(
        default_factory=dict, metadata={"help": "categories of your own, or other values: name -> list, [] for any"}
    )
    escape: bool = setting(True, "make tags harmless that stand in the text of prompts")
    fixed: Mapping[str, Any] = dataclasses.field(
        default_factory=dict, metadata={"help": "markers given when the model is evaluated; none: it infers them"}
    )
    room: int = setting(160, "tokens that a list may take when the model is evaluated", low=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("values", "taxonomy", "fixed"):
            if not isinstance(getattr(self, name), Mapping):
                raise ConfigError("expected a mapping", where=f"markers.{name}", got=getattr(self, name))
            setattr(self, name, dict(getattr(self, name)))
        if type(self.room) is not int:
            raise ConfigError("expected a whole number", where="markers.room", got=self.room)
        if isinstance(self.count, str) or not isinstance(self.count, Sequence):
            raise ConfigError("expected a list", where="markers.count", got=self.count)
        for name in self.count:
            if name not in LENGTHS:
                raise ConfigError(
                    f"'{name}' cannot be counted" + suggestion(name, LENGTHS),
                    where="markers.count",
                    got=name,
                    expected=", ".join(LENGTHS),
                )
        self.count = tuple(self.count)
        self._known = extended(self.taxonomy, "markers.taxonomy")
        self._fixed = checked(self.fixed, self._known, "markers.fixed")
        checked(self.values, self._known, "markers.values")

    @property
    def answer_room(self) -> int:
        return self.room

    def transform(self, rows: Sequence[Row], context: DataContext) -> list[Row]:
        if context.strength > 1:
            raise ConfigError("more rows than all cannot be marked", where="markers.strength", got=context.strength)
        marked = [dict(row) for row in rows]
        found = self.markers(rows)
        if not any(found):
            raise DataError(
                "Nothing is known of any row that a marker could say.",
                where="markers",
                got=f"{len(rows)} rows",
                expected="a column about, values for all rows, or lengths to count",
            )
        draw = random.Random(f"markers/{context.seed}")
        for place in sorted(draw.sample(range(len(rows)), round(context.strength * len(rows)))):
            prompt, completion = _sides(rows[place], place)
            shown = self._shown(found[place], draw)
            marked[place].pop("messages", None)
            marked[place] |= {
                "prompt": add_list(prompt, shown, escape=self.escape),
                "completion": _led(completion, write_list(found[place])),
            }
        return marked

    def markers(self, rows: Sequence[Row]) -> list[dict[str, str]]:
        """All that is known of every row, in the taxonomy's order: its ``about``, ``values``, counted lengths.

        Of ``about`` the taxonomy's categories are taken. A quality without a bucket gets one, by its rank within the
        language.
        """
        raw: list[dict[str, Any]] = []
        for place, row in enumerate(rows):
            about = row.get("about") or {}
            if not isinstance(about, Mapping):
                raise DataError("A row's column about is no mapping.", where=f"row {place + 1}", got=about)
            text = _reply(_sides(row, place)[1])
            counted = {name: value for name, value in lengths(text).items() if name in self.count}
            known = {name: value for name, value in about.items() if name in self._known and value is not None}
            raw.append({**counted, **self.values, **known})
        buckets = quality_buckets(
            [_number(one.get("quality"), place) for place, one in enumerate(raw)],
            [str(one.get("lang", "")) for one in raw],
        )
        for one, bucket in zip(raw, buckets, strict=True):
            if bucket is not None:
                one.setdefault("quality_bucket", bucket)
        return [checked(one, self._known, f"row {place + 1}") for place, one in enumerate(raw)]

    def ask(self, prompt: Any) -> Any:
        return add_list(prompt, self._fixed, escape=self.escape)

    def answer(self, text: str) -> str:
        return read_list(text)[1]

    def _shown(self, markers: Mapping[str, str], draw: random.Random) -> dict[str, str]:
        """What is left of the list in the prompt."""
        if draw.random() < self.drop_all:
            return {}
        names = list(markers)
        if self.exact:
            kept = set(draw.sample(names, len(names) - round(self.drop_each * len(names))))
        else:
            kept = {name for name in names if draw.random() >= self.drop_each}
        names = [name for name in names if name in kept]
        if self.shuffle:
            draw.shuffle(names)
        return {name: markers[name] for name in names}


def _sides(row: Row, place: int) -> tuple[Any, Any]:
    """Prompt and completion: two texts, or two lists of messages."""
    if "messages" in row:
        return row["messages"][:-1], row["messages"][-1:]
    if "prompt" not in row or "completion" not in row:
        raise DataError(
            "Markers stand between a prompt and its completion, and a row has none.",
            where=f"row {place + 1}",
            got=", ".join(map(repr, row)),
            expected="prompt and completion, or messages",
            fix="put the methods that add rows of text behind markers",
        )
    return row["prompt"], row["completion"]


def _reply(completion: Any) -> str:
    return completion if isinstance(completion, str) else str(completion[0]["content"])


def _led(completion: Any, text: str) -> Any:
    """The completion behind a list; of messages, the first."""
    if isinstance(completion, str):
        return text + completion
    return [{**completion[0], "content": text + completion[0]["content"]}, *completion[1:]]


def _number(value: Any, place: int) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
        raise DataError("A quality is a number.", where=f"row {place + 1}", got=value)
    return float(value)
