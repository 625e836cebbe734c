"""The page about architectures says what the table says."""

from __future__ import annotations

from pathlib import Path

from tiny_models import WRAPPERS

from infosteer.models import LAYOUTS

PAGE = Path(__file__).parents[2] / "docs" / "architectures.md"


def table() -> str:
    lines = ["| `model_type` | layers | down | keys | gates |", "|---|---|---|---|---|"]
    for name, row in sorted(LAYOUTS.items()):
        gates = "none" if row.gates is None else f"`{row.gates}`" + (" (fused)" if row.fused else "")
        lines.append(f"| {name} | `{row.layers}` | `{row.down}` | `{row.keys}` | {gates} |")
    return "\n".join(lines)


def test_the_page_holds_the_table() -> None:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("|")]
    assert "\n".join(rows) == table(), f"put this table into {PAGE.name}:\n{table()}"


def test_the_page_says_where_the_gate_is() -> None:
    assert all(row.gate_first for row in LAYOUTS.values() if row.fused), "the page says that the gate comes first"


def test_the_page_lists_the_wrappers() -> None:
    assert f"Tested: {', '.join(sorted(WRAPPERS))};" in PAGE.read_text().replace("\n  ", " ")
