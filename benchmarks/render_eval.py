"""Puts the committed evaluation's table into docs/evaluation.md: ``python benchmarks/render_eval.py [--check]``.

The only source is ``docs/evidence/eval-base/results.json``, written by the command that the page begins with.
``--check`` changes nothing and exits with 1 when the page says something else. A test compares them too.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infosteer.experiments.suite.table import LEGEND, markdown, other_lines

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "evaluation.md"
RESULTS = ROOT / "docs" / "evidence" / "eval-base" / "results.json"
PLACE = re.compile(r"(?<=<!-- eval-base:begin -->\n).*?(?=<!-- eval-base:end -->)", re.DOTALL)


def render(text: str, results: Mapping[str, Any] | None) -> str:
    """The page with its table filled, or emptied where there are no results."""
    made = "" if results is None else f"{tables(results)}\n"
    return PLACE.sub(lambda _: made, text)


def tables(results: Mapping[str, Any]) -> str:
    """Every arm's table, what it has no column for, the legend and the settings."""
    parts = []
    for arm in dict.fromkeys(task["arm"] for task in results["tasks"]):
        parts += [markdown(results, arm), *(f"{line}.\n" for line in other_lines(results, arm))]
    settings, packages = results["evaluation"], results["environment"]["packages"]
    told = ", ".join(
        f"{words} {settings[key]}"
        for key, words in (("engine", "engine"), ("dtype", "number type"), ("batch_size", "batch size"),
                           ("device", "device"), ("shots", "shots"), ("seed", "seed"))
    )  # fmt: skip
    versions = ", ".join(f"{name} {packages[name]}" for name in ("torch", "transformers"))
    return "\n".join([*parts, f"{LEGEND}.\n", f"Settings: {told}; {versions}."])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    before = PAGE.read_text(encoding="utf-8")
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else None
    after = render(before, results)
    if check:
        return int(before != after)
    PAGE.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
