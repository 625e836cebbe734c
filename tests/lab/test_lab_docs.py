"""The examples in docs/lab.md are what the generator gives."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from infosteer.lab import KEYS, load
from infosteer.lab.facts import ATTRIBUTES, PEOPLE, TEST_PEOPLE, biography_at, make_world

DOCS = (Path(__file__).parents[2] / "docs" / "lab.md").read_text()


def shown(row: dict) -> str:
    if "text" in row:
        return f"`{row['text'].split('. ')[0]}. ...`"
    text = row["prompt"].replace("\n", "⏎")
    return f"`{text}` → `{row.get('answer', row.get('completion', '')).strip()}`"


@pytest.mark.parametrize("key", KEYS)
def test_examples(key: str) -> None:
    found = re.search(rf"<!-- example: {key} -->(.*?) \|\n", DOCS)
    assert found, key
    assert found[1] == shown(load(key)[0])


def test_biography_and_sizes() -> None:
    world = make_world()
    assert re.search(r"<!-- example: biography -->(.*)\n", DOCS)[1] == biography_at(world, 0, 1)
    assert f"{len(world.people):,} people with {len(ATTRIBUTES)} attributes" in DOCS
    assert f"of {PEOPLE - TEST_PEOPLE} by default" in DOCS
    assert f"{TEST_PEOPLE} other people" in DOCS
