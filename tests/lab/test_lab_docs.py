"""The examples in docs/lab.md are what the generator gives."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from infosteer.lab import KEYS, load
from infosteer.lab.facts import ATTRIBUTES, PEOPLE, TEST_PEOPLE, biography_at, make_world
from infosteer.lab.reasoning import parse_solution

DOCS = (Path(__file__).parents[2] / "docs" / "lab.md").read_text()


def first(key: str) -> dict:
    """The row that the page shows: of word problems, which are long, a short one."""
    if key.startswith("reasoning"):
        return min(load(key, limit=100), key=lambda row: len(row["prompt"]))
    return load(key)[0]


def story(row: dict) -> str:
    return row["prompt"].removeprefix("<question> ").removesuffix(" </question> <solution>")


def shown(row: dict) -> str:
    if row.get("prompt", "").startswith("<question>"):
        gold = parse_solution(row.get("answer", row.get("completion")))
        return f"`{story(row)}` → `{gold.answer}`"
    if "text" in row:
        return f"`{row['text'].split('. ')[0]}. ...`"
    text = row["prompt"].replace("\n", "⏎")
    return f"`{text}` → `{row.get('answer', row.get('completion', '')).strip()}`"


@pytest.mark.parametrize("key", KEYS)
def test_examples(key: str) -> None:
    found = re.search(rf"<!-- example: {key} -->(.*?) \|\n", DOCS)
    assert found, key
    assert found[1] == shown(first(key))


def test_the_worked_solution() -> None:
    row = first("reasoning")
    solution = row["completion"].split(" </solution>")[0].strip()
    found = re.search(r"<!-- example: problem -->(.*) \*\*Solution:\*\* (.*)\n", DOCS)
    assert found.groups() == (story(row), solution)


def test_biography_and_sizes() -> None:
    world = make_world()
    assert re.search(r"<!-- example: biography -->(.*)\n", DOCS)[1] == biography_at(world, 0, 1)
    assert f"{len(world.people):,} people with {len(ATTRIBUTES)} attributes" in DOCS
    assert f"of {PEOPLE - TEST_PEOPLE} by default" in DOCS
    assert f"{TEST_PEOPLE} other people" in DOCS
