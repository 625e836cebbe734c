"""The seam of data: rows are made before there is a trainer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest
from tests.methods.steered import llama

import infosteer
from infosteer.core.data import DataContext, DataMethod, Row
from infosteer.core.session import Session
from infosteer.errors import AttachError, ConfigError


@dataclasses.dataclass(kw_only=True)
class Twice(DataMethod):
    def transform(self, rows: Sequence[Row], context: DataContext) -> list[Row]:
        return [*rows, *rows[: round(context.strength * len(rows))]]


def test_data_methods_act_before_the_trainer_and_are_refused_after() -> None:
    rows = [{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d"}]
    assert infosteer.transform_rows(rows, [Twice()]) == rows * 2
    assert infosteer.transform_rows(rows, [Twice(strength=0.5)]) == [*rows, rows[0]]
    assert infosteer.transform_rows(rows, [Twice(strength=0)]) == rows
    with pytest.raises(ConfigError, match="made once"):
        infosteer.transform_rows(rows, [Twice(strength={"points": [[0, 0.5], [10, 1.0]]})])
    with pytest.raises(AttachError, match="transform_rows"):
        infosteer.steer(llama(), [Twice()])
    assert isinstance(infosteer.steer(llama(), [Twice(strength=0)]), Session)
