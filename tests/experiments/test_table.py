"""Tables: every arm and shown measure, shares in percent, differences beside their means."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from infosteer.experiments.table import tables

RESULTS: dict[str, Any] = {
    "summary": [
        {"arm": arm, "metric": f"{name}/{measure}", "mean": 0.5, "low": 0.25, "high": 0.75, "n": 3}
        for arm in ("plain", "[b]odd")
        for name in ("a", "b", "c", "d", "e", "f")
        for measure in ("exact_match", "answer_nll", "option_accuracy_norm")
    ],
    "comparisons": [
        {
            "arm": "[b]odd",
            "baseline": "plain",
            "metric": "f/exact_match",
            "difference": 0.125,
            "low": -0.0125,
            "high": 0.25,
            "p_value": 0.0004,
        }
    ],
    "failures": [{"arm": "wild", "seed": 2, "error": "The loss is not finite."}],
    "notes": ["one seed"],
}


def test_tables_hold_what_the_results_say() -> None:
    console = Console(file=io.StringIO(), width=140)
    for part in tables(RESULTS):
        console.print(part)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "50.0 (25.0 to 75.0)" in text, "shares in percent"
    assert "0.500 (0.250 to 0.750)" in text, "nats as they are"
    assert "+12.5 (-1.2 to +25.0) p<0.001" in text
    assert text.count("[b]odd") == 4, "names are not markup; six sets make two tables for each of two measures"
    assert "wild, seed 2" in text
    assert "option_accuracy_norm" in text.splitlines()[-1], "what is not shown is named"


def test_results_without_any_finished_training() -> None:
    assert tables({"summary": [], "comparisons": [], "failures": [], "notes": []}) == []
