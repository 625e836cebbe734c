"""What post-training moves inside the embedded base: truth and refusal directions, where facts lie, entropy neurons.

    infosteer run docs/evidence/directions/recipe.yaml --output RUN
    python benchmarks/directions.py RUN [--data ../shared/data] [--output docs/evidence/directions/results.json]
    python benchmarks/render_directions.py

Three sets of two classes, each with its own meaning for a model of four million parameters that read the lab and some
general English: true and false statements about the lab's people (which it stored), about the world (of which it knows
little), and harmful against harmless requests (of which it knows nothing but the words). Controls: random directions,
shuffled labels, and for refusal XSTest, whose safe requests look unsafe.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "evidence" / "directions" / "results.json"
TOPICS = ("cities", "sp_en_trans", "animal_class", "inventors", "element_symb", "facts")
SHUFFLES = 39
PAIRS = 64
Sets = dict[str, tuple[list[str], list[int], list[torch.Tensor]]]


def lab_statements(count: int = 40, seed: int = 0) -> tuple[list[str], list[int], list[str]]:
    """True sentences of pretraining about test people, each with a false twin; topics are the attributes."""
    from infosteer.lab.facts import make_world, phrasings, recall_prefix
    from infosteer.lab.words import ATTRIBUTES

    draw, rows = random.Random(f"lab statements/{seed}"), []
    for attribute in ATTRIBUTES:
        for person in draw.sample(make_world().test, count):
            prefix = recall_prefix(person, attribute, draw.randrange(len(phrasings(attribute))))
            true = person.facts[attribute.name]
            false = draw.choice([value for value in attribute.values if value != true])
            rows += [(f"{prefix} {value}.", label, attribute.name) for value, label in ((true, 1), (false, 0))]
    texts, labels, topics = zip(*rows, strict=True)
    return list(texts), list(labels), list(topics)


def measure(run: Path, data: Path) -> dict[str, Any]:
    from infosteer.experiments.environment import environment
    from infosteer.inspection.activations import collect_states
    from infosteer.inspection.directions import find_direction, probe_layers
    from infosteer.inspection.fact_pairs import lab_pairs
    from infosteer.inspection.labelled import read_texts
    from infosteer.inspection.patch_maps import compare_maps
    from infosteer.inspection.patching import patch_map
    from infosteer.ops.separate import roc_area
    from infosteer.training.loading import load_tokenizer

    torch.set_num_threads(1)
    tokenizer, models = load_tokenizer("embedded"), load_models(run)

    sets = labelled_sets(data)
    states = {
        name: {label: collect_states(model, tokenizer, part[0]) for label, part in sets.items()}
        for name, model in models.items()
    }
    found: dict[str, Any] = {"own": [], "transfer": transfers(states, sets), "xstest": []}
    look_alikes = read_texts(data / "refusal/xstest.jsonl.gz")
    unsafe = torch.tensor(
        [int(kind.startswith("contrast_")) for kind in _column(data / "refusal/xstest.jsonl.gz", "type")]
    )
    for name, model in models.items():
        for label, (_, classes, folds) in sets.items():
            targets = torch.tensor(classes)
            for method in ("mass_mean", "logistic", "random") if name == "base" else ("mass_mean",):
                shuffles = SHUFFLES if method != "random" and name == "base" else 0
                rows = probe_layers(states[name][label], targets, folds, method, shuffles=shuffles)
                found["own"] += [{"model": name, "set": label, **dataclasses.asdict(row)} for row in rows]
        other = collect_states(model, tokenizer, look_alikes)
        for layer, x in states[name]["requests"].items():
            direction = find_direction(x, torch.tensor(sets["requests"][1]))
            area = roc_area(other[layer].double() @ direction, unsafe)
            found["xstest"].append(
                {"model": name, "layer": layer, "auc": area.value, "low": area.low, "high": area.high, "n": len(unsafe)}
            )
    pairs = lab_pairs(tokenizer, PAIRS)
    own = {name: patch_map(model, model, pairs) for name, model in models.items()}
    found["maps"] = [
        {
            "source": source,
            "target": target,
            "columns": one.columns,
            "restored": one.restored.round(4).tolist(),
            "right": one.right,
            **({} if source == target == "base" else compare_maps(own["base"], one)),
        }
        for source, target, one in _maps(own, models, pairs)
    ]
    found["neurons"] = _neurons(models)
    found |= overview(models, tokenizer)
    found["steering"] = _steering(models, tokenizer, states, sets)
    return {
        "schema": 1,
        "environment": environment(),
        "command": "python benchmarks/directions.py RUN",
        "topics": TOPICS,
        "sizes": {label: len(part[0]) for label, part in sets.items()} | {"pairs": PAIRS, "shuffles": SHUFFLES},
        "models": list(models),
        **found,
    }


def labelled_sets(data: Path) -> Sets:
    """Texts, labels and folds of the three pairs of classes."""
    from infosteer.inspection.directions import group_folds, random_folds
    from infosteer.inspection.labelled import read_requests, read_statements

    sets: Sets = {}
    texts, labels, topics = lab_statements()
    sets["lab statements"] = (texts, labels, group_folds(topics))
    texts, labels, topics = read_statements(data / "true-false/truth_is_universal.jsonl.gz", topics=TOPICS, limit=80)
    sets["world statements"] = (texts, labels, group_folds(topics))
    texts, labels = read_requests(
        data / "refusal/advbench.jsonl.gz", data / "instruct/self_instruct_seed.jsonl.gz", limit=128
    )
    sets["requests"] = (texts, labels, random_folds(torch.tensor(labels), 4))
    return sets


def transfers(states: Mapping[str, Any], sets: Sets) -> list[dict[str, Any]]:
    """Directions of the base in every other model, and back."""
    from infosteer.inspection.transfer import transfer

    found = []
    for name in list(states)[1:]:
        for label, (_, classes, folds) in sets.items():
            for source, target in (("base", name), (name, "base")):
                rows = transfer(states[source][label], states[target][label], torch.tensor(classes), folds)
                found += [{"source": source, "target": target, "set": label, **dataclasses.asdict(row)} for row in rows]
    return found


def load_models(run: Path) -> dict[str, Any]:
    """The base, and every model that the run kept, as ``arm/seed``."""
    from infosteer.training.loading import load_model

    models: dict[str, Any] = {"base": load_model("embedded")}
    for folder in sorted((run / "checkpoints").glob("*/seed-*")):
        models[f"{folder.parent.name}/{folder.name.removeprefix('seed-')}"] = load_model(str(folder))
    if len(models) < 2:
        raise SystemExit(f"no models under {run}/checkpoints: run the recipe first")
    return models


def overview(models: Mapping[str, Any], tokenizer: Any) -> dict[str, Any]:
    """How each model reads the lab's biographies (flux, knowledge entropy, geometry), and how far its weights went."""
    from infosteer.inspection.compare_models import read_text, weight_drift
    from infosteer.lab.catalogue import load

    texts = [row["text"] for row in load("facts/biographies")]
    return {
        "text": {name: read_text(model, tokenizer, texts) for name, model in models.items()},
        "drift": [
            {"model": name, **dataclasses.asdict(row)}
            for name, model in models.items()
            if name != "base"
            for row in weight_drift(models["base"], model)
        ],
    }


def _column(path: Path, key: str) -> list[str]:
    from infosteer.training.row_files import read_file

    return [str((record.row or {})[key]) for record in read_file(path)]


def _maps(own: Mapping[str, Any], models: Mapping[str, Any], pairs: Sequence[Any]) -> list[tuple[str, str, Any]]:
    from infosteer.inspection.patching import patch_map

    maps = [(name, name, one) for name, one in own.items()]
    for name in list(models)[1:]:
        maps.append(("base", name, patch_map(models["base"], models[name], pairs)))
        maps.append((name, "base", patch_map(models[name], models["base"], pairs)))
    return maps


def _neurons(models: Mapping[str, Any]) -> list[dict[str, Any]]:
    from infosteer.inspection.neurons import entropy_neurons, overlap

    base = entropy_neurons(models["base"])
    return [
        {"model": name, **overlap(base, entropy_neurons(model))} for name, model in models.items() if name != "base"
    ]


def _steering(models: Mapping[str, Any], tokenizer: Any, states: Any, sets: Any) -> dict[str, Any]:
    from infosteer.inspection.directions import find_direction
    from infosteer.inspection.steering import adding, refusal_rate, removing, shift_along, truth_effect

    truth, refusal = [], []
    texts, labels, _ = sets["lab statements"]
    examples = [(texts[i], labels[i]) for i in (0, 3, 81, 162)]
    asked = [i for i in range(len(texts)) if i % 5 == 4][:120]
    targets = torch.tensor(labels)
    requests, kinds, _ = sets["requests"]
    harmful = [text for text, kind in zip(requests, kinds, strict=True) if kind][:64]
    harmless = [text for text, kind in zip(requests, kinds, strict=True) if not kind][:64]
    for name, model in models.items():
        own, base = states[name]["lab statements"], states["base"]["lab statements"]
        layers = range(len(own) // 3, 2 * len(own) // 3)
        for which, source, method in (
            ("own", own, "mass_mean"),
            ("base", base, "mass_mean"),
            ("random", own, "random"),
        ):
            vectors = {
                i: find_direction(own[i], targets, "random", seed=i)
                if method == "random"
                else shift_along(own[i], targets, find_direction(source[i], targets, method))
                for i in layers
            }
            effect = truth_effect(
                model, tokenizer, [texts[i] for i in asked], [labels[i] for i in asked], vectors, examples=examples
            )
            truth.append({"model": name, "direction": which, **dataclasses.asdict(effect)})
        middle = len(own) // 2
        direction = find_direction(states[name]["requests"][middle], torch.tensor(kinds))
        rates = {
            "harmful": refusal_rate(model, tokenizer, harmful),
            "harmless": refusal_rate(model, tokenizer, harmless),
        }
        with adding(model, {middle: direction}):
            rates["harmless, direction added"] = refusal_rate(model, tokenizer, harmless)
        with removing(model, direction):
            rates["harmful, direction removed"] = refusal_rate(model, tokenizer, harmful)
        refusal.append({"model": name, "n": len(harmful), **rates})
    return {"truth": truth, "refusal": refusal}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    results = measure(options.run, options.data)
    options.output.write_text(json.dumps(results, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    print(options.output)


if __name__ == "__main__":
    main()
