"""The shipped compositions, trained in full: what their parts give alone, and together.

    python benchmarks/compositions.py                            # both, all seeds; goes on where it stopped
    python benchmarks/compositions.py read-only-sequences --seeds 71
    python benchmarks/compositions.py --render                   # trains nothing, fills the page; --check compares only

Runs the recipes as ``infosteer run`` does, in ``runs/compositions/<name>``, and copies their results to
``docs/evidence/compositions/<name>``. The tables go into ``docs/methods.md``, between ``<!-- compositions:begin -->``
and ``<!-- compositions:end -->``.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
EVIDENCE = ROOT / "docs" / "evidence" / "compositions"
PAGE = ROOT / "docs" / "methods.md"
PLACE = re.compile(r"(?<=<!-- compositions:begin -->\n).*?(?=<!-- compositions:end -->)", re.DOTALL)
NAMES = ("lean-even-marked", "read-only-sequences")
SHOWN = {  # metric -> its words, the factor to show it with, digits
    "new_people/exact_match": ("new people, right %", 100.0, 1),
    "new_form/exact_match": ("new form, right %", 100.0, 1),
    "new_attribute/exact_match": ("new attribute, right %", 100.0, 1),
    "biographies/nll": ("loss on biographies, nats a token", 1.0, 3),
}


def table(name: str, results: Mapping[str, Any]) -> str:
    """One composition: an arm a row; behind a semicolon the difference from plain, with its interval."""
    means = {(row["arm"], row["metric"]): row for row in results["summary"]}
    pairs = {(row["arm"], row["metric"]): row for row in results["comparisons"] if row["baseline"] == "plain"}
    lines = [
        f"| {name} | " + " | ".join(words for words, _, _ in SHOWN.values()) + " |",
        "|---" * (len(SHOWN) + 1) + "|",
    ]
    for arm in dict.fromkeys(row["arm"] for row in results["summary"]):
        cells = []
        for metric, (_, factor, digits) in SHOWN.items():
            mean, pair = means[arm, metric]["mean"], pairs.get((arm, metric))
            cell = f"{mean * factor:.{digits}f}"
            if pair is not None:
                gain, low, high = (pair[key] * factor for key in ("difference", "low", "high"))
                cell += f"; {gain:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})"
            cells.append(cell)
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    seeds = sorted({row["seed"] for row in results["arms"]})
    over = "seeds and questions" if len(seeds) > 1 else "questions only, since there is one seed"
    word, facts = "Seeds" if len(seeds) > 1 else "Seed", results["environment"]
    caption = (
        f"{word} {', '.join(map(str, seeds))}; differences from plain with 95 % intervals over {over}. "
        f"torch {facts['packages']['torch']}, transformers {facts['packages']['transformers']}."
    )
    return "\n".join([*lines, "", caption, ""])


def render(text: str) -> str:
    """The page with the tables of all compositions that were run."""
    found = {name: EVIDENCE / name / "results.json" for name in NAMES}
    tables = [table(n, json.loads(p.read_text(encoding="utf-8"))) for n, p in found.items() if p.is_file()]
    return PLACE.sub(lambda _: "\n".join(tables), text)


def train(name: str, seeds: list[int] | None) -> None:
    """One composition, in full."""
    from infosteer.experiments.run import run

    folder = ROOT / "runs" / "compositions" / name
    run(name, folder, overrides=[f"seeds={seeds}"] if seeds else [])
    (EVIDENCE / name).mkdir(parents=True, exist_ok=True)
    shutil.copyfile(folder / "results.json", EVIDENCE / name / "results.json")


def main() -> int:
    """Trains and fills the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which [default: {' '.join(NAMES)}]")
    parser.add_argument("--seeds", type=int, nargs="+", help="instead of the recipe's own")
    parser.add_argument("--render", action="store_true", help="train nothing, fill the page")
    parser.add_argument("--check", action="store_true", help="exit with 1 if the page is out of date")
    options = parser.parse_args()
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"no composition is called {sorted(unknown)[0]}")
    for name in () if options.render or options.check else options.names or NAMES:
        train(name, options.seeds)
    text = PAGE.read_text(encoding="utf-8")
    wanted = render(text)
    if wanted != text and not options.check:
        PAGE.write_text(wanted, encoding="utf-8")
    return int(options.check and wanted != text)


if __name__ == "__main__":
    sys.exit(main())
