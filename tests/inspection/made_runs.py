"""Folders of runs that no one trained: right and wrong answers drawn by number, arm and seed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np


def scores(run: int, arm: str, seed: int, size: int = 40) -> list[float]:
    draw = np.random.default_rng([run, seed, len(arm)])
    return (draw.random(size) < 0.4 + 0.2 * run).astype(float).tolist()


def rotated(values: list[float], by: int) -> list[float]:
    return [*values[by:], *values[:by]]


def make_run(
    folder: Path, number: int, *, arms: tuple[str, ...] = ("plain", "lift"), seeds: tuple[int, ...] = (1, 2, 3),
    outcomes: bool = True, size: int = 40, rate: float = 1e-3, sets: tuple[str, ...] = ("id",),
    settings: dict[str, Any] | None = None, kind: str | None = None,
) -> Path:  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(
        json.dumps({"name": folder.name, "train": {"learning_rate": rate}, "arms": {arm: [] for arm in arms}})
    )
    rows: list[dict[str, Any]] = [{"arm": "base", "seed": 0, "metrics": {"id/exact_match": 0.0}}]
    for arm in arms:
        for seed in seeds:
            values = scores(number, arm, seed, size)
            metrics = {f"{name}/exact_match": float(np.mean(values)) for name in sets}
            rows.append({"arm": arm, "seed": seed, "metrics": metrics})
            if outcomes:
                path = folder / "outcomes" / arm / f"seed-{seed}.json"
                path.parent.mkdir(parents=True, exist_ok=True)
                examples = {name: {"exact_match": [*rotated(values, i)[:-1], None]} for i, name in enumerate(sets)}
                judged = {name: {"settings": settings or {}} for name in sets}
                outcome = {"arm": arm, "seed": seed, "status": "finished", "sets": judged, "examples": examples}
                path.write_text(json.dumps(outcome))
    summary = [
        {"arm": arm, "metric": f"{name}/exact_match", "mean": 0.5, "low": 0.4, "high": 0.6, "n": len(seeds)}
        for arm in arms for name in sets
    ]  # fmt: skip
    results = {"schema": 1, "environment": {"packages": {"torch": f"2.{number}"}}, "arms": rows, "summary": summary}
    if kind is not None:
        results["kind"] = kind
    (folder / "results.json").write_text(json.dumps(results))
    return folder
