"""Rows with good and bad segments, and what ``data/phf`` makes of rows."""

from __future__ import annotations

from typing import Any

from infosteer.core.data import DataContext
from infosteer.methods.data.phf import HumanPreferences

WORDS = ("bad", "worse")
ROWS = [
    {"text": "A good day. A bad day! A day."},
    {"text": "Worse and bad. All fine."},
    {"text": "Nothing here. Nor here."},
]


def made(rows: list[dict[str, Any]], seed: int = 1, strength: float = 1.0, **settings: Any) -> list[dict[str, Any]]:
    context = DataContext(seed=seed, strength=strength, read=lambda *_, **__: [])
    return HumanPreferences(words=WORDS, **settings).transform(rows, context)
