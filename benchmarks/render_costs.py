"""The tables of ``docs/costs.md`` from committed measurements: ``python benchmarks/render_costs.py [--check]``.

A generated part stands between ``<!-- costs: NAME -->`` and ``<!-- costs: end -->``; its numbers are read from
``docs/evidence/<NAME>/results.json``, or from a file that has several tables. A test runs ``--check``.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
EVIDENCE = ROOT / "docs" / "evidence"
PAGE = ROOT / "docs" / "costs.md"
PART = re.compile(r"<!-- costs: (?P<name>[\w-]+) -->\n.*?<!-- costs: end -->", re.DOTALL)
Measured = dict[str, Any]


def arms(measured: Measured) -> str:
    """Time and memory of every arm against the plain step."""
    lines = ["| | step time, median ratio | quartiles | best over best | peak memory |", "|---|---|---|---|---|"]
    for arm, time in measured["time"].items():
        if arm == "plain":
            continue
        low, high = (f"{value - 1:+.1%}" for value in time["ratio_quartiles"])
        memory = f"{measured['memory'][arm]['ratio'] - 1:+.2%}" if arm in measured["memory"] else "-"
        best = f"{time['ratio_of_best'] - 1:+.1%}"
        lines.append(f"| {arm} | {time['ratio_median'] - 1:+.1%} | {low} to {high} | {best} | {memory} |")
    told = f"torch {measured['environment']['torch']}, back end: {measured['environment']['back end']}"
    return "\n".join([*lines, "", f"`{measured['command']}`, {told}."])


def sizes(measured: Measured) -> str:
    """Milliseconds that steering adds, by one size at a time."""
    lines = []
    for name, rows in measured["varied"].items():
        names = [arm for arm in next(iter(rows.values())) if arm != "plain"]
        lines += [f"| {name} | plain step, ms | " + " | ".join(f"{arm}, ms more" for arm in names) + " |"]
        lines += ["|---|---|" + "---|" * len(names)]
        for value, row in rows.items():
            lines.append(f"| {value} | {row['plain']:.0f} | " + " | ".join(f"{row[arm]:+.1f}" for arm in names) + " |")
    return "\n".join([*lines, "", f"`{measured['command']}`"])


def processes(measured: Measured) -> str:
    """Ratios by the number of processes."""
    found = measured["processes"]
    lines = ["| | " + " | ".join(f"{world} process(es)" for world in found) + " |", "|---|" + "---|" * len(found)]
    names = [arm for arm in next(iter(found.values())) if arm != "plain"]
    for arm in names:
        cells = []
        for row in found.values():
            low, high = (f"{value - 1:+.1%}" for value in row[arm]["ratio_quartiles"])
            cells.append(f"{row[arm]['ratio_median'] - 1:+.1%} ({low} to {high})")
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", f"Quartiles in brackets; torch {measured['torch']}."])


def fractions(measured: Measured) -> str:
    """Milliseconds of the edit alone, by fraction and by way."""
    rows, shape = measured["fractions"], measured["shape"]
    ways = list(next(iter(rows.values())))
    lines = ["| fraction | " + " | ".join(f"{way}, ms" for way in ways) + " |", "|---|" + "---|" * len(ways)]
    for fraction, row in rows.items():
        lines.append(f"| {fraction} | " + " | ".join(f"{row[way]:.1f}" for way in ways) + " |")
    told = f"{shape['rows']} rows of {shape['width']}, {shape['dtype']}, {shape['threads']} threads"
    return "\n".join([*lines, "", f"{told}; torch {measured['torch']}."])


def shapes(measured: Measured) -> str:
    """Milliseconds of edit, penalty and both alone, by the number of rows and by their width."""
    settings = measured["shape"]
    parts = []
    for head, found in (("rows", measured["by_rows"]), ("width", measured["by_width"])):
        ways = list(next(iter(found.values())))
        lines = [f"| {head} | " + " | ".join(f"{way}, ms" for way in ways) + " |", "|---|" + "---|" * len(ways)]
        lines += [f"| {name} | " + " | ".join(f"{row[way]:.1f}" for way in ways) + " |" for name, row in found.items()]
        parts.append("\n".join(lines))
    told = f"Width {settings['width']} above, {settings['rows']} rows below; {settings['dtype']}"
    return "\n\n".join([*parts, f"{told}, {settings['threads']} threads; torch {measured['torch']}."])


def phases(measured: Measured) -> str:
    """Where a run's time goes."""
    seconds = measured["seconds"]
    total = sum(seconds.values())
    lines = ["| phase | seconds | share |", "|---|---|---|"]
    for phase, value in sorted(seconds.items(), key=lambda item: -item[1]):
        lines.append(f"| {phase} | {value:.1f} | {value / total:.1%} |")
    return "\n".join(
        [*lines, "", f"`{measured['command']}`, torch {measured['torch']}, threads: {measured['threads']}"]
    )


TABLES: dict[str, Callable[[Measured], str]] = {
    "overhead": arms,
    "overhead-torch": arms,
    "ops": fractions,
    "ops-shapes": shapes,
    "rivals": arms,
    "compiled": arms,
    "tokens": sizes,
    "layers": sizes,
    "processes": processes,
    "compact-loss": arms,
    "run-profile": phases,
}
FOLDERS = {"ops-shapes": "ops"}


def render(text: str) -> str:
    """The page with every part written again."""

    def part(match: re.Match[str]) -> str:
        name = match["name"]
        folder = EVIDENCE / FOLDERS.get(name, name)
        measured = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        return f"<!-- costs: {name} -->\n{TABLES[name](measured)}\n<!-- costs: end -->"

    return PART.sub(part, text)


def main() -> int:
    text = PAGE.read_text(encoding="utf-8")
    new = render(text)
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(new, encoding="utf-8")
        return 0
    if new != text:
        print("docs/costs.md says something else than the measurements: python benchmarks/render_costs.py")
        return 1
    print("docs/costs.md agrees with the measurements")
    return 0


if __name__ == "__main__":
    sys.exit(main())
