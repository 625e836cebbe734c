"""Puts the measured throughput into docs/harness.md: ``python benchmarks/render_evaluation.py [--check]``.

The only source is docs/evidence/eval-throughput/results.json, which benchmarks/evaluation.py writes. ``--check``
changes nothing and fails where the page says something else.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "harness.md"
RESULTS = ROOT / "docs" / "evidence" / "eval-throughput" / "results.json"
PLACE = re.compile(r"(?<=<!-- throughput:begin -->\n).*?(?=<!-- throughput:end -->)", re.DOTALL)


def table(results: Mapping[str, Any]) -> str:
    """A row for each task, and how it was measured."""
    lines = [
        "| | examples | ours, a second | lm-eval, a second | ratio | quartiles | ratio of CPU time | equal answers |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, found in results["tasks"].items():
        speed = found["examples_per_second"]
        low, high = found["wall"]["ratio_quartiles"]
        cells = [
            f"{name} ({found['source']})",
            str(found["examples"]),
            f"{speed['ours']:.1f}",
            f"{speed['lm-eval']:.1f}",
            f"**{found['wall']['ratio_median']:.2f}**",
            f"{low:.2f} to {high:.2f}",
            f"{found['cpu']['ratio_median']:.2f}",
            f"{found['agreement']:.0%}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    versions = results["environment"]
    caption = (
        f"Model `{results['model']}` in {results['dtype']}, batches of {results['batch_size']}, {results['threads']} "
        f"thread, {results['rounds']} rounds; torch {versions['torch']}, transformers {versions['transformers']}, "
        f"lm-eval {versions['lm_eval']}. Made by `{results['command']}`."
    )
    return "\n".join([*lines, "", caption, ""])


def render(text: str, results: Mapping[str, Any]) -> str:
    """The page with its table filled."""
    return PLACE.sub(lambda _: table(results), text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    text = PAGE.read_text(encoding="utf-8")
    new = render(text, json.loads(RESULTS.read_text(encoding="utf-8")))
    if options.check:
        return int(new != text)
    PAGE.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
