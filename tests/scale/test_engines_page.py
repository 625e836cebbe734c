"""The page of engines names tests and scripts that exist, a row each."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from checks import CHECKS

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "engines.md").read_text(encoding="utf-8")


def test_every_row_names_tests_that_exist() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("|")][2:]
    assert len(rows) >= 15
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert len(cells) == 4, row
        named = re.findall(r"`((?:tests|benchmarks)/[^`]+)`", cells[1])
        assert named, row
        assert cells[2], row
        for name in named:
            path, _, function = name.partition("::")
            tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
            found = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
            assert not function or function in found, name


def test_every_check_is_named() -> None:
    assert all(f"`{name}`" in PAGE for name in CHECKS)
