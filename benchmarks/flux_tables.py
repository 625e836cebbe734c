"""Rows of results for ``benchmarks/flux_claim.py``: means, differences, and correlations beside their null."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from infosteer.evaluation.multiple import adjust
from infosteer.evaluation.statistics import compare, summarise
from infosteer.inspection.correlates import null_p
from infosteer.inspection.word_classes import CONTENT, FUNCTION, OTHER, PUNCTUATION

BASE, PLAIN, HOOK = "base", "plain", ", hook on"
PRIMARY = ("read_content_minus_rest", "read_partial_rest")  # named before the models were read
Table = dict[str, dict[int, dict[str, list[float]]]]  # model -> seed -> measure -> one number a text


def summaries(part: str, table: Table) -> list[dict[str, Any]]:
    """Means with intervals over seeds and texts; the base has no seeds, so only texts are resampled."""
    rows = []
    for name, by_seed in table.items():
        for key in next(iter(by_seed.values())):
            found = summarise({seed: values[key] for seed, values in by_seed.items()})
            row = {"mean": found.mean, "low": found.low, "high": found.high}
            n = 0 if name == BASE else found.n
            rows.append({"arm": name, "metric": f"{part}/{key}", **{k: rounded(v) for k, v in row.items()}, "n": n})
    return rows


def comparisons(part: str, table: Table) -> list[dict[str, Any]]:
    """Plain less base, every other model less plain: paired by seed and text."""
    rows = []
    for name in table:
        if name == BASE:
            continue
        other = BASE if name == PLAIN else PLAIN
        for key in next(iter(table[name].values())):
            if "_rank_" in key:
                continue
            ours = {seed: values[key] for seed, values in table[name].items()}
            theirs = {seed: table[other][0 if other == BASE else seed][key] for seed in ours}
            found = compare(ours, theirs)
            row = {"difference": found.difference, "low": found.low, "high": found.high, "p_value": found.p_value}
            numbers = {k: rounded(v) for k, v in row.items()}
            rows.append({"arm": name, "baseline": other, "metric": f"{part}/{key}", **numbers, "n": found.n})
    return rows


def null_rows(part: str, table: Table, nulls: Mapping[str, Mapping[str, list[np.ndarray]]]) -> list[dict[str, Any]]:
    """Each correlation, and its difference from the baseline's, beside those of shuffled classes."""
    means = {
        (name, key): (_over_texts(by_seed, key), np.mean(nulls[name][key], axis=0))
        for name, by_seed in table.items()
        for key in nulls[name]
    }
    rows = []
    for (name, key), (value, null) in means.items():
        row = {"arm": name, "metric": f"{part}/{key}", **_beside(value, null)}
        other = {BASE: None, PLAIN: BASE}.get(name, PLAIN)
        if other is not None:
            less, null_less = means[other, key]
            row["difference"] = {"baseline": other, **_beside(value - less, null - null_less)}
        rows.append(row)
    return rows


def _over_texts(by_seed: Mapping[int, Mapping[str, list[float]]], key: str) -> float:
    return float(np.nanmean([values[key] for values in by_seed.values()]))


def _beside(value: float, null: np.ndarray) -> dict[str, float]:
    low, high = np.quantile(null, [0.025, 0.975])
    p = null_p(value, null)
    return {"value": rounded(value), "low": rounded(low), "high": rounded(high), "p_value": rounded(p)}


def correct(rows: list[dict[str, Any]]) -> None:
    """Holm's correction of each primary measure, over the trained models and corpora, hooks off."""
    for metric in PRIMARY:
        family = [row for row in rows if row["metric"].partition("/")[2] == metric and HOOK not in row["arm"]]
        for row, p in zip(family, adjust([row["p_value"] for row in family]), strict=True):
            row["p_holm"] = rounded(p)


def sorted_counts(counts: Mapping[str, int]) -> dict[str, int]:
    return {kind: counts.get(kind, 0) for kind in (CONTENT, FUNCTION, PUNCTUATION, OTHER)}


def rounded(value: float) -> float:
    return float(f"{value:.5g}")
