"""Dose response and mediation for the evidence page: what ``benchmarks/evidence.py`` shows of ``docs/evidence/dose``.

A sweep of all cells names its rows ``<arm> <setting>=<value>``; rows of one arm are one dose response. Mediation asks
whether the runs whose coefficient entropy rose are those that answered better: over all runs of some arms, the rank
correlation of two differences from plain SFT of the same seed, and what is left of it within one arm's dose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

ENTROPY = "biographies/information_flux_nats"
RESAMPLES = 2_000


def doses(arms: Sequence[str]) -> dict[str, list[tuple[float, str]]]:
    """Arm -> its (dose, row name), in rising order; only arms with two doses or more that are numbers."""
    found: dict[str, list[tuple[float, str]]] = {}
    for name in arms:
        arm, _, setting = name.partition(" ")
        try:
            value = float(setting.rpartition("=")[2])
        except ValueError:
            continue
        found.setdefault(arm, []).append((value, name))
    return {arm: sorted(rows) for arm, rows in found.items() if len(rows) > 1}


def changes(results: Mapping[str, Any], baseline: str, metric: str) -> dict[tuple[str, int], float]:
    """(row, seed) -> the metric minus the baseline's of the same seed."""
    values = {(row["arm"], row["seed"]): row["metrics"][metric] for row in results["arms"] if metric in row["metrics"]}
    return {
        (arm, seed): value - values[baseline, seed]
        for (arm, seed), value in values.items()
        if arm != baseline and (baseline, seed) in values
    }


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's correlation, ties at their mean rank; NaN where one side does not vary."""
    a, b = _ranks(x), _ranks(y)
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum() / size) if size > 0 else float("nan")


def _ranks(values: Sequence[float]) -> np.ndarray[Any, np.dtype[np.float64]]:
    array = np.asarray(values, dtype=np.float64)
    return np.array([(np.sum(array < v) + np.sum(array <= v) + 1) / 2 for v in array])


def mediation(
    results: Mapping[str, Any], baseline: str, rows: Sequence[str], metric: str, *, seed: int = 0
) -> dict[str, float]:
    """Rank correlation of the change of entropy with the change of ``metric`` over all runs of ``rows``.

    ``within`` removes each row's mean from both first: do, at one and the same dose, the seeds whose entropy rose more
    also gain more? A common cause by dose alone leaves it at 0.

    Returns: ``runs``, ``all``, ``within``, each correlation with the bounds of a 95 % bootstrap interval over seeds.
    """
    entropy, gain = changes(results, baseline, ENTROPY), changes(results, baseline, metric)
    keys = [key for key in entropy if key in gain and key[0] in rows]
    seeds = sorted({s for _, s in keys})
    rng = np.random.default_rng(seed)
    drawn = [rng.choice(seeds, len(seeds)) for _ in range(RESAMPLES)]

    def both(chosen: Sequence[int]) -> tuple[float, float]:
        pairs = [(row, entropy[row, s], gain[row, s]) for s in chosen for row in rows if (row, s) in entropy]
        x, y = [p[1] for p in pairs], [p[2] for p in pairs]
        means = {r: np.mean([(a, b) for row, a, b in pairs if row == r], axis=0) for r in {p[0] for p in pairs}}
        inner = [(a - means[row][0], b - means[row][1]) for row, a, b in pairs]
        return rank_correlation(x, y), rank_correlation([a for a, _ in inner], [b for _, b in inner])

    found = both(seeds)
    spread = np.array([both(list(some)) for some in drawn])
    low, high = np.nanquantile(spread, [0.025, 0.975], axis=0)
    return {
        "runs": len(keys),
        "all": found[0], "all_low": float(low[0]), "all_high": float(high[0]),
        "within": found[1], "within_low": float(low[1]), "within_high": float(high[1]),
    }  # fmt: skip


def mediation_table(results: Mapping[str, Any], baseline: str, arms: Sequence[str], axes: Mapping[str, str]) -> str:
    """One line an arm with doses: how the change of entropy goes with the change of each axis."""
    lines = ["| arm | runs | " + " | ".join(axes.values()) + " |", "|---|---|" + "---|" * len(axes)]
    for arm, rows in doses(arms).items():
        cells = []
        runs = 0
        for metric in axes:
            one = mediation(results, baseline, [name for _, name in rows], metric)
            runs = int(one["runs"])
            cells.append(f"{_shown(one, 'all')}; at one dose {_shown(one, 'within')}")
        lines.append(f"| {arm} | {runs} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def _shown(found: Mapping[str, float], name: str) -> str:
    return f"{found[name]:+.2f} ({found[name + '_low']:+.2f} to {found[name + '_high']:+.2f})"


def figure(
    pairs: Mapping[tuple[str, str], Mapping[str, Any]],
    arms: Sequence[str],
    axes: Mapping[str, tuple[str, int]],
    baseline: str,
    path: Path,
) -> None:
    """Differences from the baseline with 95 % intervals against the dose: a row of panels an arm, a column an axis.

    Args:
        pairs: (row, metric) -> its comparison with the baseline.
        axes: metric -> its words and the factor to show it with.
    """
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    families = doses(arms)
    with pyplot.rc_context({"svg.hashsalt": "dose", "font.size": 7, "svg.fonttype": "none"}):
        shape = (len(families), len(axes))
        figure, panels = pyplot.subplots(*shape, figsize=(1.75 * shape[1], 1.4 * shape[0]), squeeze=False)
        for line, (arm, rows) in zip(panels, families.items(), strict=True):
            setting = rows[0][1].partition(" ")[2].partition("=")[0]
            for panel, (metric, (words, factor)) in zip(line, axes.items(), strict=True):
                points = [(place, pairs.get((name, metric))) for place, (_, name) in enumerate(rows)]
                for place, pair in points:
                    if pair is None:
                        continue
                    sure = pair["low"] > 0 or pair["high"] < 0
                    color = "#0b6e99" if sure else "#888888"
                    panel.plot([place, place], [factor * pair["low"], factor * pair["high"]], color=color, lw=1.2)
                    panel.plot(place, factor * pair["difference"], "o", color=color, ms=3)
                panel.axhline(0, color="#444444", lw=0.6)
                panel.set_xticks(range(len(rows)), [f"{dose:g}" for dose, _ in rows], rotation=60)
                panel.tick_params(length=2)
                panel.margins(x=0.1)
                for side in ("top", "right"):
                    panel.spines[side].set_visible(False)
                if line is panels[0]:
                    panel.set_title(words, fontsize=7)
            line[0].set_ylabel(f"{arm}: {setting}")
        figure.supylabel(f"difference from {baseline}, 95 % interval", fontsize=7)
        figure.tight_layout()
        figure.savefig(path, metadata={"Date": None, "Creator": None})
        pyplot.close(figure)
