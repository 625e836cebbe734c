"""The contract of every data method: pure, seeded, off at strength 0, and what it asks of a model."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from every import every_data_method
from world import llama, make

import infosteer
from infosteer.core.data import DataContext
from infosteer.errors import AttachError


@every_data_method
def test_data_methods_are_pure_seeded_and_off_at_strength_zero(key: str) -> None:
    rows = [{"prompt": f"Question {i}:", "completion": f" answer {i}. That is known."} for i in range(12)]
    before = copy.deepcopy(rows)

    def read(source: str, limit: int | None = None, **options: Any) -> list[dict[str, Any]]:
        return [{"text": f"{source} {i}"} for i in range(limit or 20)]

    def transform(seed: int, strength: float = 1.0) -> list[dict[str, Any]]:
        return make(key).transform(rows, DataContext(seed=seed, strength=strength, read=read))

    assert transform(1) == transform(1)
    assert transform(1) != rows
    assert any(transform(seed) != transform(1) for seed in range(2, 8)), "the seed has no part in it"
    assert rows == before, "changed in place"
    assert infosteer.transform_rows(rows, [make(key, strength=0)]) == rows
    with pytest.raises(AttachError, match="transform_rows"):
        infosteer.steer(llama(), [make(key)])


@every_data_method
def test_asking_changes_no_prompt_in_place_and_no_ordinary_answer(key: str) -> None:
    method, chat = make(key), [{"role": "user", "content": "Where?"}]
    before = copy.deepcopy(chat)
    asked = method.ask(chat)
    assert chat == before
    assert [turn["role"] for turn in asked] == ["user"]
    assert "Where?" in method.ask("Where?")
    assert method.answer(" In Ashmoor.") == " In Ashmoor."
    assert method.answer_room >= 0
    assert method.asks or (asked == chat and method.answer_room == 0)
