"""How fast each training's loss fell, beside what it then knew: ``python benchmarks/evidence_descent.py FOLDER``.

FOLDER is that of the finished sweep ``evidence-confirm``, with the logs of its trials. Writes
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

OUTPUT = Path(__file__).resolve().parents[1] / "docs" / "evidence" / "descent" / "results.json"
METRIC = "new_people/exact_match"
HIGH, LOW = 1.0, 0.1  # nats: between them the answers of the training rows are learned


def crossing(curve: Sequence[tuple[int, float]], level: float) -> float | None:
    """The step at which a curve of (step, loss) first falls below a level, between two logs by the loss's logarithm."""
    before: tuple[int, float] | None = None
    for step, loss in curve:
        if loss < level:
            if before is None:
                return float(step)
            share = math.log(before[1] / level) / math.log(before[1] / loss)
            return before[0] + share * (step - before[0])
        before = (step, loss)
    return None


def descents(folder: Path) -> list[dict[str, Any]]:
    """Arm, seed, score and steps from HIGH to LOW (None where LOW was not reached) of every final trial."""
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
        found.append({"arm": trial.arm, "seed": int(trial.seed), "score": trial.value, "steps": steps})
    return sorted(found, key=lambda row: (row["arm"], row["seed"]))


def descent_table(results: dict[str, Any]) -> str:
    """Each arm's usual descent beside that of its worst seed."""
    heads = (
        "arm",
        "seeds",
        "steps of descent, median",
        "new people, median",
        "worst seed: new people",
        "its descent",
    )
    lines = [f"| {' | '.join(heads)} |"]
    lines.append("|---|" + "---|" * (len(heads) - 1))
    for arm in dict.fromkeys(row["arm"] for row in results["trials"]):
        rows = [row for row in results["trials"] if row["arm"] == arm]
        worst = min(rows, key=lambda row: row["score"])
        last = max(row["steps"] for row in rows if row["steps"] is not None)
        usual = median(math.inf if row["steps"] is None else row["steps"] for row in rows)
        own = f"{worst['steps']:.0f}" if worst["steps"] is not None else f"not ended (longest other: {last:.0f})"
        lines.append(
            f"| {arm} | {len(rows)} | {usual:.0f} | {100 * median(row['score'] for row in rows):.1f} | "
            f"{100 * worst['score']:.1f} (seed {worst['seed']}) | {own} |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    found = {"high": HIGH, "low": LOW, "metric": METRIC, "trials": descents(parser.parse_args().folder)}
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
