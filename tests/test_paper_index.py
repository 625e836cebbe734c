"""The paper index lists every digest once, with a state, and what it says is built is there."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

import infosteer

INDEX = Path(__file__).parents[1] / "docs" / "paper-index.md"
DIGESTS = Path(os.environ.get("INFOSTEER_DATA", "../shared/data")).parent / "papers"
LINK = re.compile(r"\(\.\./src/infosteer/methods/(\w+/\w+)/card\.md\)")


def listed() -> dict[str, str]:
    """Name -> state, in the index's order."""
    rows = [
        line.strip("|").split(" | ") for line in INDEX.read_text(encoding="utf-8").splitlines() if line.startswith("| ")
    ]
    found = [(row[0].strip(), row[-1].strip()) for row in rows if row[0].strip() != "name"]
    assert len(found) == len(dict(found)), "a paper stands in the index twice"
    return dict(found)


@pytest.mark.data
@pytest.mark.skipif(not DIGESTS.is_dir(), reason="no ../shared/papers")
def test_every_digest_is_listed() -> None:
    names = {path.stem for path in DIGESTS.glob("*.md")} - {"README"}
    assert names
    assert not names - set(listed()), "digests without a line in docs/paper-index.md"


def test_every_line_has_a_state_and_what_it_names_exists() -> None:
    known = set(infosteer.list_methods())
    for name, state in listed().items():
        assert state, name
        assert set(LINK.findall(state)) <= known, name
        assert state == "not yet" or "](" in state or "`" in state or ":" in state, f"{name}: where is it?"


def test_every_method_with_a_paper_is_in_the_index() -> None:
    text = INDEX.read_text(encoding="utf-8")
    for key in infosteer.list_methods():
        for number in re.findall(r"arXiv (\d{4}\.\d{5})", infosteer.method_info(key).paper):
            assert number in text, f"{key} is from arXiv {number}"
