"""A made-up run: every file that the report reads, of any size, with friendly or hostile texts."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from infosteer.inspection import data
from infosteer.inspection.data import (
    Geometry,
    GeometryPoint,
    Memories,
    Memory,
    MemoryLayer,
    RegionReading,
    Regions,
    Text,
    TokenReading,
    Tokens,
)

ARMS = ("plain", "intervention", "regularisation", "protection")
SETS = ("new_people", "new_form", "recall")
# What a page must show as text and nothing else. Each sets window.hacked or breaks the page if it is taken for markup.
HOSTILE = (
    "<script>window.hacked=1</script>",
    "</script><script>window.hacked=2</script>",
    "</style><img src=x onerror=window.hacked=3>",
    "\"'><svg onload=window.hacked=4>",
    "<!--<script>",
    "]]>",
    "&lt;b&gt; &amp;",
    "\u202eright to left\u202c",
    "\u2066isolated\u2069 \u200f",
    "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627",
    "null\x00byte \x1b[31m",
    "\ud800lone",
    "line\u2028separator\u2029",
    "javascript:window.hacked=5",
    "$\\frac{1}{0}$ \\alpha_",
    "${window.hacked=6}",
    "a\u0301\u0302\u0303\u0304" * 3,
    "\uffff\ufdd0",
    "x" * 10_000,
    "",
    " ",
    "\n",
    "__proto__",
    "constructor",
)
_STORY = [
    "The",
    "old",
    "river",
    "town",
    "kept",
    "its",
    "name",
    ",",
    "and",
    "on",
    "market",
    "days",
    "the",
    "ferry",
    "brought",
    "bread",
    ",",
    "salt",
    "and",
    "letters",
    "from",
    "the",
    "coast",
    "to",
    "the",
    "people",
    "of",
    "the",
    "valley",
    ".",
]
_WORDS = ("river", "town", "bread", "salt", "letter", "coast", "valley", "ferry", "market", "name", "winter", "stone")


def make_run(folder: Path, *, seeds: Sequence[int] = (1, 2), steps: int = 30, hostile: bool = False) -> Path:
    """A whole run. ``hostile`` puts hostile texts wherever a text can stand."""
    rng = random.Random(0)
    folder.mkdir(parents=True, exist_ok=True)
    _write_recipe(folder, seeds, hostile)
    results = made_results(seeds)
    if hostile:
        results["notes"] = list(HOSTILE)
        results["failures"] = [{"arm": HOSTILE[0], "seed": 1, "error": text} for text in HOSTILE]
        results["environment"]["platform"] = HOSTILE[1]
        for row in [*results["summary"], *results["comparisons"]]:
            row["metric"] = row["metric"].replace("recall", HOSTILE[2]).replace("new_form", HOSTILE[14])
    (folder / "results.json").write_text(json.dumps(results))
    _write_log(folder, seeds, steps, rng)
    _write_outcomes(folder, seeds, hostile)
    for part in (made_tokens(rng, hostile=hostile), made_regions(rng), made_memories(rng, hostile=hostile)):
        data.write(folder, part)
    data.write(folder, made_geometry(rng))
    return folder


def _write_recipe(folder: Path, seeds: Sequence[int], hostile: bool) -> None:
    recipe = {
        "name": HOSTILE[0] if hostile else "made-up",
        "description": HOSTILE[3] if hostile else "Four ways of fine-tuning on questions about few people.",
        "model": HOSTILE[2] if hostile else "embedded",
        "data": {"train": "lab:facts"},
        "train": {"learning_rate": 4e-4, "num_train_epochs": 6},
        "arms": {
            "plain": [],
            "intervention": [{"method": "key_lift", "fraction": 0.01}],
            "regularisation": [{"method": "key_entropy", "weight": 0.01}],
            "protection": {"methods": [{"method": "protect_memory"}], "train": {"learning_rate": 1e-3}, "data": {}},
        },
        "seeds": list(seeds),
        "evaluate": {name: {"source": f"lab:facts/{name}"} for name in SETS},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))


def made_results(seeds: Sequence[int] = (1, 2)) -> dict[str, Any]:
    """A results.json in which protection is clearly better on one set and worse on another."""
    shifts = {"plain": 0.0, "intervention": 0.004, "regularisation": -0.012, "protection": 0.084}
    summary, comparisons, arms = [], [], []
    for arm, shift in shifts.items():
        arms += [{"arm": arm, "seed": seed, "metrics": {}} for seed in seeds]
        for i, name in enumerate(SETS):
            effect = shift * (1 - i)
            for measure, mean, sign in (("exact_match", 0.6 - 0.1 * i, 1), ("answer_nll", 1.2 + 0.4 * i, -3)):
                metric, value = f"{name}/{measure}", mean + sign * effect
                summary.append(
                    {"arm": arm, "metric": metric, "mean": value, "low": value - 0.05, "high": value + 0.05, "n": 2}
                )
                if arm != "plain":
                    low, high = sign * effect - 0.03, sign * effect + 0.03
                    comparisons.append(
                        {
                            "arm": arm, "baseline": "plain", "metric": metric, "difference": sign * effect, "low": low,
                            "high": high, "p_value": 0.0005 if low > 0 or high < 0 else 0.5,
                        }
                    )  # fmt: skip
    packages = {"infosteer": "0.1.0", "torch": "2.13.0+cpu", "transformers": "5.23.0"}
    return {
        "schema": 1,
        "environment": {"python": "3.11.7", "packages": packages, "torch_threads": 2},
        "arms": arms,
        "summary": summary,
        "comparisons": comparisons,
        "failures": [],
        "notes": ["p-values are not corrected for the number of comparisons"],
    }


def _write_log(folder: Path, seeds: Sequence[int], steps: int, rng: random.Random) -> None:
    with (folder / "metrics.jsonl").open("w") as file:
        for seed in seeds:
            for a, arm in enumerate(ARMS):
                for step in range(1, steps + 1):
                    layers = {
                        f"infosteer/entropy/layer_{i}": 5.3 + 0.4 * math.sin(i + 0.5) + 0.3 * a * step / steps * (i / 6)
                        for i in range(6)
                    }
                    line = {
                        "event": "train", "arm": arm, "seed": seed, "step": 10 * step,
                        "loss": 4 / (1 + 0.3 * step) + 0.1 * a + 0.1 * rng.random(), "grad_norm": 5 + rng.random(),
                        **layers, "infosteer/entropy": sum(layers.values()) / 6,
                        "infosteer/change": 0.002 * (arm == "intervention"), "learning_rate": 4e-4 * (1 - step / steps),
                    }  # fmt: skip
                    file.write(json.dumps(line) + "\n")


def _write_outcomes(folder: Path, seeds: Sequence[int], hostile: bool) -> None:
    for arm in ARMS:
        for seed in seeds:
            texts = HOSTILE if hostile else ("Where does Ada live?", "What does Ada eat?")
            samples = [
                {"prompt": text, "answer": text, "prediction": f" {text}", "correct": i % 2 == 0}
                for i, text in enumerate(texts)
            ]
            sets = {name: {"settings": {"scoring": "exact_match"}, "samples": samples} for name in SETS}
            outcome = {
                "schema": 1, "arm": arm, "seed": seed, "status": "finished", "metrics": {}, "examples": {},
                "sets": sets, "train": {"rows": 400, "rows_sha256": "e331", "overlap": {"recall": 3}, "dropped": 2},
            }  # fmt: skip
            path = folder / "outcomes" / arm / f"seed-{seed}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(outcome))


def made_tokens(
    rng: random.Random,
    *,
    hostile: bool = False,
    layers: int = 6,
    texts: int = 2,
    length: int = 0,
    models: Sequence[tuple[str, int | None]] = (("base", None), ("plain", 1), ("intervention", 1)),
) -> Tokens:
    """Readings; higher where words are longer, and higher from model to model."""
    words = [f" {word}" if i else word for i, word in enumerate(_STORY)]
    if hostile:
        words = [*HOSTILE, *words]
    if length:
        words = [words[i % len(words)] for i in range(length)]
    made = []
    for t in range(texts):
        readings = []
        for a, (model, seed) in enumerate(models):
            rows = []
            for word in words:
                high = 0.7 + 0.02 * min(8, len(word.strip())) + 0.01 * a
                rows.append(tuple(math.log(512) * min(1.0, high + 0.04 * rng.random()) for _ in range(layers)))
            readings.append(
                TokenReading(
                    model=model,
                    seed=seed,
                    layer_numbers=tuple(range(layers)),
                    widths=(512,) * layers,
                    tokens=tuple(words),
                    flux=tuple(sum(row) / layers for row in rows),
                    layers=tuple(rows),
                    surprisal=(None, *(3 * rng.random() for _ in words[1:])),
                )
            )
        made.append(
            Text(name=HOSTILE[0] if hostile else ("A river town", "The same again")[t % 2], readings=tuple(readings))
        )
    return Tokens(texts=tuple(made), note=HOSTILE[1] if hostile else "read without the intervention")


def made_regions(rng: random.Random) -> Regions:
    """Regions of six layers for the base and two arms, the intervention with its hook off and on."""
    readings = []
    for model, seed, hook, moved in (
        ("base", None, False, 0.0),
        ("plain", 1, False, 0.03),
        ("intervention", 1, False, 0.05),
        ("intervention", 1, True, 0.09),
    ):
        shares = []
        for _ in range(6):
            low, high = 0.25 - moved * rng.random(), 0.25 + moved * rng.random()
            shares.append((low, 1 - low - high, high))
        readings.append(
            RegionReading(model=model, seed=seed, hook=hook, layer_numbers=tuple(range(6)), shares=tuple(shares))
        )
    return Regions(percentiles=(25, 75), readings=tuple(readings))


def made_memories(
    rng: random.Random, *, hostile: bool = False, layers: int = 6, count: int = 40, width: int = 512
) -> Memories:
    """Memories of every layer in the base and one arm; memory 7 of layer 2 writes ``river``."""
    vocabulary = [*_WORDS, *(HOSTILE if hostile else ())]
    made = []
    for model, seed in (("base", None), ("intervention", 1)):
        for layer in range(layers):
            memories = []
            for index in range(count):
                p = 0.1 + 0.85 * rng.random()
                words = rng.sample(vocabulary, 4)
                if (layer, index) == (2, 7):
                    words = ["river", *(word for word in words if word != "river")]
                concept = (HOSTILE[0] if hostile else "places") if index % 5 == 0 else None
                pairs = tuple((word, p * 0.5**i) for i, word in enumerate(words))
                memories.append(Memory(index=index, specificity=p, words=pairs, concept=concept))
            made.append(MemoryLayer(model=model, seed=seed, layer=layer, width=width, memories=tuple(memories)))
    return Memories(layers=tuple(made), final_norm=True, note=HOSTILE[0] if hostile else "")


def made_geometry(rng: random.Random) -> Geometry:
    """Two metrics over training for all arms, and the base once."""
    points = []
    for metric, start in (("rankme", 60.0), ("alpha_req", 1.1)):
        points.append(GeometryPoint(model="base", metric=metric, step=0, value=start))
        for a, arm in enumerate(ARMS):
            for seed in (1, 2):
                for step in range(0, 160, 30):
                    value = start * (1 - 0.001 * step * (1 - 0.2 * a)) * (1 + 0.02 * rng.random())
                    points.append(GeometryPoint(model=arm, seed=seed, metric=metric, step=step, value=value))
    about = {"rankme": "exp of the entropy of the normalised singular values", "alpha_req": "decay of the spectrum"}
    return Geometry(points=tuple(points), about=about)
