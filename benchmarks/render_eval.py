"""Puts the committed evaluations into docs/evaluation.md: ``python benchmarks/render_eval.py [--check]``.

The only sources are ``docs/evidence/eval-base/results.json`` and ``docs/evidence/eval-bfloat16/results.json``, written
by the commands on that page. ``--check`` changes nothing and exits with 1 when the page says something else. A test
compares them too.
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
EVIDENCE = ROOT / "docs" / "evidence"


def read(name: str) -> dict[str, Any] | None:
    """The results of one committed evaluation, or None."""
    path = EVIDENCE / name / "results.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def render(text: str, base: Mapping[str, Any] | None, halved: Mapping[str, Any] | None) -> str:
    """The page with its places filled, or emptied where there are no results.

    Args:
        base: the fifteen tasks on the embedded base.
        halved: the evaluation in half precision, of which the effect of the batch size is told.
    """
    text = _fill(text, "eval-base", "" if base is None else f"{tables(base)}\n")
    return _fill(text, "eval-bfloat16", "" if halved is None else f"{batch_effect(halved)}\n")


def _fill(text: str, name: str, made: str) -> str:
    place = re.compile(rf"(?<=<!-- {name}:begin -->\n).*?(?=<!-- {name}:end -->)", re.DOTALL)
    return place.sub(lambda _: made, text)


def batch_effect(results: Mapping[str, Any]) -> str:
    """What the batch size alone changed, in words."""
    (effect,) = results["batch_effect"]
    (line,) = (line for line in other_lines(results, effect["arm"]) if line.startswith("changed between"))
    return f"Measured with the embedded base in {results['evaluation']['dtype']}: {line}."


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
    after = render(before, read("eval-base"), read("eval-bfloat16"))
    if check:
        return int(before != after)
    PAGE.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
