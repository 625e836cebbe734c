"""The ladder of the reasoning base: pass@k by depth, story and direction, sampled from the weights in the package.

    python benchmarks/reasoning_ladder.py [--problems 300] [--samples 16] [--temperature 0.7] [--output FILE]

Every axis of the lab is measured on problems of the evaluation split. Intervals resample
problems. Without --output the table is printed and nothing is written; the committed result is
docs/evidence/reasoning-ladder/results.json, and --render puts its numbers into docs/lab.md.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from infosteer.evaluation import analyse
from infosteer.evaluation.sampling import evaluate_pass
from infosteer.evaluation.sets import load_set
from infosteer.experiments.environment import environment
from infosteer.lab.reasoning.rows import AXES
from infosteer.training.loading import load_model, load_tokenizer

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "evidence" / "reasoning-ladder" / "results.json"
PAGE = ROOT / "docs" / "lab.md"
PLACE = re.compile(r"(?<=<!-- ladder:begin -->\n).*?(?=<!-- ladder:end -->)", re.DOTALL)
TARGETS = {"id": (0.7, 1.0), "edge": (0.02, 0.4), "hard": (0.0, 0.02)}  # pass@16, as the lab was planned


def table(results: Mapping[str, Any]) -> str:
    """Every axis with pass@k in %, intervals of 95 %, and what was planned for pass@16."""
    rows = {row["metric"]: row for row in results["summary"]}
    axes = list(results["settings"])
    ks = [name.partition("/")[2] for name in rows if name.startswith(f"{axes[0]}/")]
    lines = ["| axis | " + " | ".join(ks) + " | planned |", "|---" * (len(ks) + 2) + "|"]
    for axis in axes:
        cells = [
            "{:.1f} ({:.1f} to {:.1f})".format(*(100 * rows[f"{axis}/{k}"][part] for part in ("mean", "low", "high")))
            for k in ks
        ]
        low, high = results["targets"].get(f"{axis}/pass@16", (0, 1))
        planned = "" if f"{axis}/pass@16" not in results["targets"] else f"{100 * low:g} to {100 * high:g}"
        lines.append(f"| `lab:reasoning/{axis}` | {' | '.join(cells)} | {planned} |")
    return "\n".join(lines) + "\n"


def render() -> None:
    """Put the committed numbers into the page."""
    results = json.loads(RESULTS.read_text())
    PAGE.write_text(PLACE.sub(lambda _: table(results), PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="embedded:reasoning")
    parser.add_argument("--problems", type=int, default=300)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])  # the weights' own, or exact
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--axes", nargs="+", default=list(AXES), choices=list(AXES))
    parser.add_argument("--output", type=Path)
    parser.add_argument("--render", action="store_true")
    options = parser.parse_args()
    if options.render:
        render()
        return

    model, tokenizer = load_model(options.model, dtype=options.dtype).eval(), load_tokenizer(options.model)
    ks = [k for k in (1, 4, 16, 64, 128) if k <= options.samples]
    examples: dict[str, list[float]] = {}
    settings: dict[str, Any] = {}
    started = time.perf_counter()
    for axis in options.axes:
        found = evaluate_pass(
            model,
            tokenizer,
            load_set(axis, f"lab:reasoning/{axis}", limit=options.problems),
            ks=ks,
            samples=options.samples,
            temperature=options.temperature,
            seed=options.seed,
            batch_size=options.batch_size,
        )
        examples |= {f"{axis}/{name}": values for name, values in found.per_example.items()}
        settings[axis] = found.settings
        print(f"{axis:<12}", *(f"{name} {100 * value:5.1f} %  " for name, value in found.measures.items()), flush=True)
        if options.output is not None:  # after every axis: a kill costs the one it was at
            seconds = round(time.perf_counter() - started)
            write(options.output, options.seed, examples, settings, seconds)


def write(path: Path, seed: int, examples: dict[str, list[float]], settings: dict[str, Any], seconds: int) -> None:
    """The results so far, in the form of every committed study."""
    means = {name: sum(values) / len(values) for name, values in examples.items()}
    result = {
        "schema": 1,
        "environment": environment(),
        "arms": [{"arm": "base", "seed": seed, "metrics": means}],
        **analyse({"base": {seed: examples}}),
        "settings": settings,
        "targets": {f"{axis}/pass@16": list(span) for axis, span in TARGETS.items()},
        "seconds": seconds,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(min(2, torch.get_num_threads()))
    main()
