"""How fast each training's loss fell, beside what it then knew: ``python benchmarks/evidence_descent.py FOLDER``.

FOLDER is that of the finished sweep ``evidence-confirm`` where its trials were made: logs are not packed. Writes
``docs/evidence/descent/results.json``; ``python benchmarks/evidence.py`` shows it.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from evidence_dose import rank_correlation

OUTPUT = Path(__file__).resolve().parents[1] / "docs" / "evidence" / "descent" / "results.json"
METRIC = "new_people/exact_match"
HIGH, LOW = 1.0, 0.1  # nats: between them the answers of the training rows are learned


def crossing(curve: Sequence[tuple[int, float]], level: float) -> float | None:
    """The step at which a curve of (step, loss) first falls below a level, between two logs by the loss's logarithm."""
    before: tuple[int, float] | None = None
    for step, loss in curve:
        if loss < level:
            if before is None or loss <= 0:
                return float(step)
            share = math.log(before[1] / level) / math.log(before[1] / loss)
            return before[0] + share * (step - before[0])
        before = (step, loss)
    return None


def descents(folder: Path) -> list[dict[str, Any]]:
    """Of every final trial: arm, seed, score, steps from HIGH to LOW (None where LOW was not reached), last loss."""
    import pandas

    table = pandas.read_parquet(folder / "trials.parquet")
    table = table[(table["phase"] == "final") & (table["metric"] == METRIC)]
    found = []
    for trial in table.itertuples():
        log = (folder / "trials" / trial.trial / "metrics.jsonl").read_text(encoding="utf-8")
        events = [json.loads(line) for line in log.splitlines()]
        curve = [(event["step"], event["loss"]) for event in events if event["event"] == "train"]
        high, low = crossing(curve, HIGH), crossing(curve, LOW)
        steps = None if high is None or low is None else low - high
        row = {"arm": trial.arm, "seed": int(trial.seed), "score": trial.value, "steps": steps, "last": curve[-1][1]}
        found.append(row)
    return sorted(found, key=lambda row: (row["arm"], row["seed"]))


def descent_table(results: dict[str, Any]) -> str:
    """Each arm's usual descent, its two longest ones with what came of them, and how descents go with scores."""
    heads = ("arm", "seeds", "steps, median", "new people, median", "the two longest: steps, last loss, new people")
    lines = [f"| {' | '.join((*heads, 'rank correlation of steps and new people'))} |", "|---|" + "---|" * len(heads)]
    for arm in dict.fromkeys(row["arm"] for row in results["trials"]):
        rows = [row for row in results["trials"] if row["arm"] == arm]
        rows.sort(key=_length, reverse=True)
        longest = [f"{_steps(row['steps'])}, {row['last']:.2f}, {100 * row['score']:.1f}" for row in rows[:2]]
        usual, score = median(map(_length, rows)), median(row["score"] for row in rows)
        together = rank_correlation([_length(row) for row in rows], [row["score"] for row in rows])
        lines.append(
            f"| {arm} | {len(rows)} | {_steps(usual)} | {100 * score:.1f} | {'; '.join(longest)} | {together:+.2f} |"
        )
    return "\n".join([*lines, ""])


def _length(row: dict[str, Any]) -> float:
    return math.inf if row["steps"] is None else float(row["steps"])


def _steps(length: float | None) -> str:
    return "not ended" if length is None or length == math.inf else f"{length:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    found = {"high": HIGH, "low": LOW, "metric": METRIC, "trials": descents(parser.parse_args().folder)}
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
