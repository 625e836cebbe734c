"""Data methods at work: rows to rows, before a trainer is built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from infosteer.core.data import DataContext, DataMethod, Row
from infosteer.core.effects import Methods, as_methods
from infosteer.core.registry import key_of
from infosteer.errors import ConfigError, DataError
from infosteer.training.rows import read_rows


def transform_rows(rows: Sequence[Mapping[str, Any]], methods: Methods, *, seed: int = 0) -> list[Row]:
    """What the data methods among ``methods`` make of the given rows, in recipe order; other methods do nothing.

    Args:
        rows: training rows, as TRL takes them; they are not changed.
        methods: as for ``infosteer.attach``.
        seed: the same seed gives the same rows.

    Raises:
        ConfigError: a data method whose strength is a schedule (rows are made once), or one that stands behind another
            whose rows it cannot read.
        DataError: a method left no row.
    """
    found = [dict(row) for row in rows]
    for method in as_methods(methods):
        if not isinstance(method, DataMethod) or method.off:
            continue
        if not isinstance(method.strength, float):
            raise ConfigError(
                "the strength of a data method cannot change while training: its rows are made once",
                where=key_of(type(method)),
                got=method.strength.to_config(),
                expected="a number",
            )
        if not method.reads_segments and any("segments" in row for row in found):
            raise ConfigError(
                "a data method takes rows of prompts, messages or text, and meets rows of segments",
                where=key_of(type(method)),
                fix="put it before the method that makes sequences of several answers",
            )
        found = method.transform(found, DataContext(seed=seed, strength=method.strength, read=_read))
        if not found:
            raise DataError("A data method left no training row.", where=key_of(type(method)))
    return found


def _read(source: str, limit: int | None = None, **options: Any) -> list[Row]:
    return list(read_rows(source, purpose="train", limit=limit, **options))
