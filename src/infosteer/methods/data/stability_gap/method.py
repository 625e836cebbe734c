"""A small, good part of the training rows, read several times, among what the model was pretrained on."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from infosteer.core.config import is_finite, setting
from infosteer.core.data import DataContext, DataMethod, Row
from infosteer.errors import ConfigError, DataError
from infosteer.methods.data.stability_gap.pick import Rounds, distinct, diverse, text_of, within
from infosteer.methods.data.stability_gap.scorers import KneserNey, words


@dataclasses.dataclass(kw_only=True)
class StabilityGap(DataMethod):
    """Several epochs of a subset of the rows, its size a share of all, mixed with replay at given rates.

    Formula: ``S = share X`` words of the X that are left after duplicates and short documents; of every epoch
    ``(1 - r) S`` are of the domain and ``r_i S`` of source i, ``r = sum r_i``; r_i rate times strength.

    Raises:
        ConfigError: rates that leave no room for the domain, or no reference where one is needed.
        DataError: no document is left, or a source is empty.

    Source: arXiv 2406.14833, strategies 1 to 3.
    """

    ordered: ClassVar[bool] = True

    share: float = setting(0.1, "size of the subset in words, as a share of all rows", low=0, high=1)
    epochs: int = setting(4, "how often a subset's worth of words is read", low=1)
    select: str = setting(
        "best",
        "what makes up the subset: best (lowest perplexity under the reference), diverse (best, without near "
        "repetitions), quality (highest about.quality, without near repetitions), random",
        choices=("best", "diverse", "quality", "random"),
    )
    reference: str = setting("", "source of trusted texts of the domain that perplexity is taken by")
    mixture: Mapping[str, float] = dataclasses.field(
        default_factory=dict, metadata={"help": "source -> share of every epoch: what the model was pretrained on"}
    )
    options: Mapping[str, Any] = dataclasses.field(
        default_factory=dict, metadata={"help": "source -> settings, e.g. {'lab:facts/texts': {people: pool}}"}
    )
    resample: str = setting(
        "dynamic", "dynamic draws the domain's rows anew for each epoch; fixed once", choices=("dynamic", "fixed")
    )
    order: int = setting(3, "words of the n-grams that perplexity is taken by", low=1, high=6)
    shortest: int = setting(5, "rows of fewer words are left out", low=0)
    likeness: float = setting(0.9, "share of words in common above which a text repeats another", low=0, high=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("epochs", "order", "shortest"):
            if type(getattr(self, name)) is not int:
                raise ConfigError("expected a whole number", where=f"stability_gap.{name}", got=getattr(self, name))
        if not isinstance(self.reference, str):
            raise ConfigError("a source is named by text", where="stability_gap.reference", got=self.reference)
        for name in ("mixture", "options"):
            if not isinstance(getattr(self, name), Mapping):
                raise ConfigError("expected a mapping", where=f"stability_gap.{name}", got=getattr(self, name))
            setattr(self, name, dict(getattr(self, name)))
        for source, rate in self.mixture.items():
            if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not (is_finite(rate) and rate >= 0):
                raise ConfigError("a rate is a number of at least 0", where=f"stability_gap.mixture.{source}", got=rate)
        for source, settings in self.options.items():
            if not isinstance(settings, Mapping):
                raise ConfigError("settings are a mapping", where=f"stability_gap.options.{source}", got=settings)
        if self.share == 0:
            raise ConfigError("a subset of nothing cannot be read", where="stability_gap.share", got=0)
        if self.select in ("best", "diverse") and not self.reference:
            raise ConfigError(
                "perplexity needs texts to take it by",
                where="stability_gap.reference",
                got="nothing",
                fix="name a source of trusted texts of the domain, or set select: random",
            )

    def transform(self, rows: Sequence[Row], context: DataContext) -> list[Row]:
        rates = {source: rate * context.strength for source, rate in self.mixture.items()}
        replayed = sum(rates.values())
        if replayed >= 1:
            raise ConfigError(
                "the mixture leaves no room for the training rows",
                where="stability_gap.mixture",
                got=replayed,
                expected="rates times strength below 1 together",
            )
        draw = random.Random(f"stability gap/{context.seed}")
        pool = self.subset(rows, context, draw)
        sizes = [len(words(text_of(row))) for row in pool]
        budget = float(sum(sizes))
        sources = {source: Rounds(self._read(source, context), draw) for source in rates}
        read: list[Row] = []
        places: list[int] = []
        for epoch in range(self.epochs):
            if epoch == 0 or self.resample == "dynamic":
                places = within(sizes, draw.sample(range(len(pool)), len(pool)), (1 - replayed) * budget)
            part = [dict(pool[place]) for place in places]
            for source, rate in rates.items():
                part += sources[source].take(rate * budget)
            draw.shuffle(part)
            read += part
        return read

    def subset(self, rows: Sequence[Row], context: DataContext, draw: random.Random) -> list[Row]:
        """The rows that epochs are drawn from, the best first."""
        texts = [text_of(row) for row in rows]
        order = distinct(texts, self.shortest)
        if not order:
            raise DataError(
                "No row is left to read.",
                where="stability_gap",
                got=f"{len(rows)} rows",
                expected=f"texts of at least {self.shortest} words",
            )
        sizes = [len(words(text)) for text in texts]
        budget = self.share * sum(sizes[place] for place in order)
        if self.select == "random":
            draw.shuffle(order)
        elif self.select == "quality":
            qualities = {place: _quality(rows[place], place) for place in order}
            order.sort(key=lambda place: -qualities[place])
        else:
            scorer = KneserNey([text_of(row) for row in self._read(self.reference, context)], order=self.order)
            scores = dict(zip(order, scorer([texts[place] for place in order]), strict=True))
            order.sort(key=scores.__getitem__)
        if self.select in ("diverse", "quality"):
            order = diverse(texts, order, self.likeness)
        return [rows[place] for place in within(sizes, order, budget) or order[:1]]

    def _read(self, source: str, context: DataContext) -> list[Row]:
        drawn = {"seed": context.seed} if source.startswith("lab:") else {}
        found = context.read(source, **{**drawn, **self.options.get(source, {})})
        if not found:
            raise DataError("There is no row to read.", where=source)
        return found


def _quality(row: Row, place: int) -> float:
    value = (row.get("about") or {}).get("quality")
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not is_finite(value):
        raise DataError(
            "Rows are to be ranked by quality, and one has none.",
            where=f"row {place + 1}",
            got=value,
            expected="a number in its column about, under quality",
        )
    return float(value)
