"""The tables of docs/geometry-and-directions.md from docs/evidence/directions/results.json.

    python benchmarks/render_directions.py [--check]

A generated part stands between ``<!-- directions: NAME -->`` and ``<!-- directions: end -->``.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "evidence" / "directions" / "results.json"
PAGE = ROOT / "docs" / "geometry-and-directions.md"
PART = re.compile(r"<!-- directions: (?P<name>[\w-]+) -->\n.*?<!-- directions: end -->", re.DOTALL)
METHODS = ("mass_mean", "logistic", "random")
TEXT = (
    "information_flux/normalised",
    "knowledge_entropy/normalised",
    "geometry/rankme",
    "geometry/rankme_cov",
    "geometry/alpha",
    "geometry/mean_share",
)
LIKENESS = ("pearson", "spearman", "pearson_binned", "pearson_position", "max_difference")

Rows = Sequence[Mapping[str, Any]]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def pick(rows: Rows, **wanted: Any) -> list[Mapping[str, Any]]:
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def arm(name: str) -> str:
    return name.partition("/")[0]


def span(values: Sequence[float], digits: int = 3) -> str:
    """A mean, with the smallest and the largest where there are several."""
    mean, low, high = (fixed(value, digits) for value in (sum(values) / len(values), min(values), max(values)))
    return mean if low == high else f"{mean} ({low} to {high})"


def fixed(value: float, digits: int) -> str:
    """With so many decimals, and no minus before a zero."""
    return f"{round(value, digits) + 0.0:.{digits}f}"


def own(results: Mapping[str, Any], label: str) -> str:
    layers = sorted({row["layer"] for row in results["own"]})
    rows = []
    for method in METHODS:
        some = pick(results["own"], model="base", set=label, method=method)
        rows.append(
            [f"{method}: accuracy", *(f"{r['accuracy']:.3f} ({r['low']:.3f} to {r['high']:.3f})" for r in some)]
        )
        rows.append(["area", *(f"{r['auc']:.3f} ({r['auc_low']:.3f} to {r['auc_high']:.3f})" for r in some)])
        if some[0]["null_high"] is not None:
            rows.append(["accuracy, labels shuffled", *(f"{r['null_low']:.3f} to {r['null_high']:.3f}" for r in some)])
    return table(["the base, layer", *map(str, layers)], rows)


def carried(results: Mapping[str, Any], arms: Sequence[str]) -> str:
    last = max(row["layer"] for row in results["transfer"])
    rows = []
    for label in dict.fromkeys(row["set"] for row in results["transfer"]):
        for name in arms[1:]:
            for end, way in (("target", f"base in {name}"), ("source", f"{name} in base")):
                some = [r for r in results["transfer"] if r["set"] == label and arm(r[end]) == name]
                for layer in (last // 2, last):
                    here = pick(some, layer=layer)
                    numbers = (span([r[key] for r in here]) for key in ("accuracy", "own", "cosine", "cosine_null"))
                    rows.append([label, way, str(layer), *numbers])
    head = ["set", "direction of .. in ..", "layer", "accuracy", "own direction", "cosine", "labels shuffled"]
    return table(head, rows)


def reading(results: Mapping[str, Any], arms: Sequence[str]) -> str:
    rows = [
        [name, *(span([text[key] for model, text in results["text"].items() if arm(model) == name]) for key in TEXT)]
        for name in arms
    ]
    return table(["model", *TEXT], rows)


def drift(results: Mapping[str, Any], arms: Sequence[str]) -> str:
    places = list(dict.fromkeys(row["part"] for row in results["drift"]))
    rows = []
    for name in arms[1:]:
        mine = [row for row in results["drift"] if arm(row["model"]) == name]
        rows.append([name, *(span([100 * row["relative"] for row in pick(mine, part=part)], 1) for part in places)])
    return table(["change of weights in %", *places], rows)


def look_alikes(results: Mapping[str, Any], arms: Sequence[str]) -> str:
    layers = sorted({row["layer"] for row in results["xstest"]})
    rows = [
        [name, *(span([r["auc"] for r in pick(results["xstest"], layer=i) if arm(r["model"]) == name]) for i in layers)]
        for name in arms
    ]
    return table(["area on XSTest, layer", *map(str, layers)], rows)


def fact_map(results: Mapping[str, Any]) -> str:
    (base,) = pick(results["maps"], source="base", target="base")
    rows = [[str(i), *(fixed(value, 2) for value in row)] for i, row in enumerate(base["restored"])]
    return table(["layer", *base["columns"]], rows)


def likeness(results: Mapping[str, Any], arms: Sequence[str]) -> str:
    rows = []
    for name in arms[1:]:
        kinds = {
            "its own states in it": [
                m for m in results["maps"] if m["source"] == m["target"] and arm(m["source"]) == name
            ],
            "the base's states in it": [
                m for m in results["maps"] if m["source"] == "base" and arm(m["target"]) == name
            ],
            "its states in the base": [
                m for m in results["maps"] if m["target"] == "base" and arm(m["source"]) == name
            ],
        }
        rows += [[name, kind, *(span([m[k] for m in some], 2) for k in LIKENESS)] for kind, some in kinds.items()]
    head = ["arm", "map", "Pearson", "Spearman", "thresholded", "by position alone", "largest difference"]
    return table(head, rows)


def neurons(results: Mapping[str, Any], arms: Sequence[str]) -> str:
    rows = []
    for name in arms[1:]:
        some = [row for row in results["neurons"] if arm(row["model"]) == name]
        rows.append([name, span([row["iou"] for row in some]), f"{some[0]['iou_chance']:.3f}"])
    return table(["arm", "shared with the base (IoU)", "by chance"], rows)


def answers(results: Mapping[str, Any], arms: Sequence[str]) -> str:
    rows = []
    for name in arms:
        for which in ("own", "base", "random"):
            some = [r for r in pick(results["steering"]["truth"], direction=which) if arm(r["model"]) == name]
            changes = (span([1e6 * r[key] for r in some], 1) for key in ("toward_truth", "away_from_truth"))
            rows.append([name, which, span([r["mass"] for r in some], 5), *changes])
    head = ["model", "direction", "P(TRUE) + P(FALSE)", "change of false statements, millionths", "of true ones"]
    return table(head, rows)


def refusals(results: Mapping[str, Any], arms: Sequence[str]) -> str:
    kinds = ("harmful", "harmless", "harmless, direction added", "harmful, direction removed")
    rows = [
        [name, *(span([r[k] for r in results["steering"]["refusal"] if arm(r["model"]) == name]) for k in kinds)]
        for name in arms
    ]
    return table(["share of refusals", *kinds], rows)


def parts(results: Mapping[str, Any]) -> dict[str, str]:
    """The generated parts of the page, by name."""
    arms = list(dict.fromkeys(map(arm, results["models"])))
    seeds = len(results["models"]) // max(1, len(arms) - 1)
    sizes = ", ".join(f"{count} {name}" for name, count in results["sizes"].items() if name != "shuffles")
    packages = results["environment"]["packages"]
    return {
        "sizes": f"{sizes}; {seeds} seeds an arm; torch {packages['torch']}, transformers {packages['transformers']}.",
        "text": reading(results, arms),
        "drift": drift(results, arms),
        "lab": own(results, "lab statements"),
        "world": own(results, "world statements"),
        "requests": own(results, "requests"),
        "transfer": carried(results, arms),
        "xstest": look_alikes(results, arms),
        "map": fact_map(results),
        "maps": likeness(results, arms),
        "neurons": neurons(results, arms),
        "truth": answers(results, arms),
        "refusal": refusals(results, arms),
    }


def rendered(text: str, results: Mapping[str, Any]) -> str:
    made = parts(results)
    return PART.sub(lambda m: f"<!-- directions: {m['name']} -->\n{made[m['name']]}\n<!-- directions: end -->", text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only say whether the page is up to date")
    check = parser.parse_args().check
    before = PAGE.read_text(encoding="utf-8")
    after = rendered(before, json.loads(RESULTS.read_text(encoding="utf-8")))
    if check and before != after:
        raise SystemExit(f"{PAGE} is not what {RESULTS} says: run python benchmarks/render_directions.py")
    PAGE.write_text(after, encoding="utf-8")


if __name__ == "__main__":
    main()
