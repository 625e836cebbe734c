"""trials.parquet: one line for each trial and metric, with everything that a plot or a model needs beside it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from infosteer.experiments.recipe import BASE_ARM, BASE_SEED
from infosteer.experiments.rundir import disk_errors
from infosteer.experiments.sweep.cells import label
from infosteer.experiments.sweep.choose import Candidate
from infosteer.experiments.sweep.plan import TUNE, Plan, Row

COLUMNS = {
    "trial": "text",
    "arm": "text",
    "name": "text",
    "seed": "whole",
    "phase": "text",
    "cell": "text",
    "chosen": "truth",
    "metric": "text",
    "value": "number",
    "status": "text",
    "seconds": "number",
    "steps": "whole",
    "loss": "number",
    "threads": "whole",
}


def write_trials(
    path: Path,
    plan: Plan,
    found: Sequence[tuple[Row, Mapping[str, Any]]],
    untrained: Mapping[str, Mapping[str, Any]],
    best: Mapping[str, Candidate] | None,
) -> None:
    """Rewrite the table; whoever reads it meanwhile sees the old or the new one.

    A metric is a measure of a set, or one of the session's monitors (``infosteer/...``) as it was last logged. A trial
    that failed has one line without metric and value. Beside ``COLUMNS`` there is a column for every key that
    varies: numbers where all its values are, else text; null where the arm has no such key.
    """
    import pyarrow
    import pyarrow.parquet

    kinds = {
        "text": pyarrow.string(),
        "whole": pyarrow.int64(),
        "number": pyarrow.float64(),
        "truth": pyarrow.bool_(),
    }
    lines = [*_base_lines(untrained), *_lines(found, best)]
    columns = {name: pyarrow.array([line.get(name) for line in lines], kinds[kind]) for name, kind in COLUMNS.items()}
    for key in plan.sweep.keys:
        values = [line["keys"].get(key) for line in lines]
        if all(value is None or (isinstance(value, int | float) and not isinstance(value, bool)) for value in values):
            columns[key] = pyarrow.array([None if v is None else float(v) for v in values], pyarrow.float64())
        else:
            texts = [value if isinstance(value, str) or value is None else json.dumps(value) for value in values]
            columns[key] = pyarrow.array(texts, pyarrow.string())
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_errors(path):
        pyarrow.parquet.write_table(pyarrow.table(columns), temporary)
        os.replace(temporary, path)


def _base_lines(untrained: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for key, outcome in untrained.items():
        ran = outcome["ran"]
        for metric, value in outcome.get("metrics", {None: None}).items():
            yield {
                "trial": key,
                "arm": BASE_ARM,
                "name": BASE_ARM,
                "seed": BASE_SEED,
                "phase": BASE_ARM,
                "cell": "",
                "metric": metric,
                "value": value,
                "status": outcome["status"],
                "seconds": ran["seconds"],
                "steps": 0,
                "threads": ran["threads"],
                "keys": {},
            }


def _lines(
    found: Sequence[tuple[Row, Mapping[str, Any]]], best: Mapping[str, Candidate] | None
) -> Iterator[dict[str, Any]]:
    for row, outcome in found:
        ran = outcome["ran"]
        held = (best or {}).get(row.arm)
        line = {
            "trial": row.trial.key,
            "arm": row.arm,
            "name": row.arm if row.phase == TUNE else row.name,
            "seed": row.seed,
            "phase": row.phase,
            "cell": label(row.cell),
            "chosen": None if held is None else held.cell == row.cell,
            "status": outcome["status"],
            "seconds": ran["seconds"],
            "threads": ran["threads"],
            "keys": row.cell,
        }
        if outcome["status"] != "finished":
            yield line
            continue
        line |= {"steps": outcome["train"]["steps"], "loss": outcome["train"]["loss"]}
        for metric, value in [*outcome["metrics"].items(), *outcome["train"]["monitors"].items()]:
            yield {**line, "metric": metric, "value": value}
