"""Do steered models spend more information flux on content words, and less on commas and function words?

    infosteer run flux-lab --output RUN
    python benchmarks/flux_claim.py lab RUN [--data ../shared/data] [--seeds N ...] [--limit TEXTS] [--output FILE]
    python benchmarks/render_flux.py

The same for ``ultrafeedback``. Every saved model and the base read held-out texts, the trained models without their
hooks; a model of an intervention also with it. In every text flux is put against the token's surprisal, frequency,
place and class, by ranks; a text and a seed give one number, and intervals are over seeds and texts. Two readings of
"the flux of a token": where it is read (``read``), and one place earlier, where it is written (``written``).
"""

from __future__ import annotations

import argparse
import collections
import json
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from flux_measures import Tokens, measures, null_measures
from flux_tables import BASE, HOOK, PRIMARY, Table, comparisons, correct, null_rows, rounded, sorted_counts, summaries
from flux_texts import corpus, log_frequencies, token_pieces

from infosteer.inspection.word_classes import word_classes

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data"
STUDIES = {"lab": ("lab", "english"), "ultrafeedback": ("ultrafeedback", "english")}
TEXTS, SHUFFLES = 60, 1_000
EXAMPLES = {
    "lab": "Amos Hallock often cooks custard, and the birthplace of Amos Hallock is Glenhaven.",
    "ultrafeedback": "To make a cup of tea, boil the water, put the leaves in the pot, and wait for a few minutes.",
}


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model to read; ``load`` names its folder, ``edits`` what is at work meanwhile."""

    name: str
    seed: int
    folder: str
    edits: tuple[Any, ...] = ()


def read_corpus(
    subject: Subject, tokenizer: Any, texts: Sequence[str]
) -> list[tuple[list[int], np.ndarray, np.ndarray]]:
    """Of every text: ids, flux (T,) as a mean over layers of H / ln M, surprisal (T,) with NaN for the first."""
    from infosteer.inspection.reading import PieceReading, read_tokens
    from infosteer.models import locate
    from infosteer.training.loading import load_model

    model = load_model(subject.folder).eval()
    tops = torch.tensor([math.log(site.width) for site in locate(model)], dtype=torch.float64)
    found: dict[int, tuple[list[int], np.ndarray, np.ndarray]] = {}

    def use(reading: PieceReading) -> None:
        assert reading.surprisal is not None
        if reading.piece.text in found:
            raise SystemExit("a text is longer than the model's context: lower flux_texts.LONGEST")
        flux = (reading.flux / tops).mean(dim=1)
        found[reading.piece.text] = (list(reading.piece.ids), flux.numpy(), reading.surprisal.numpy())

    read_tokens(model, tokenizer, texts, use, edits=subject.edits, max_tokens=1024)
    return [found[number] for number in range(len(texts))]


def subjects(run: Path, seeds: Sequence[int] | None = None) -> list[Subject]:
    """The base, and every model that the run kept, without its hooks and, for interventions, with them.

    Args:
        seeds: only these.

    Raises: SystemExit where a model of the recipe is missing.
    """
    from infosteer.core.registry import build_method
    from infosteer.core.surfaces import InterventionMethod
    from infosteer.experiments.recipe import load_recipe
    from infosteer.experiments.rundir import RunDir

    folder = RunDir(run)
    recipe = load_recipe(str(folder.recipe_file))
    found = [Subject(name=BASE, seed=0, folder=recipe.model)]
    for arm, settings in recipe.arms.items():
        methods = [build_method(mapping) for mapping in settings.methods]
        edits = tuple(method for method in methods if isinstance(method, InterventionMethod) and not method.off)
        for seed in recipe.seeds if seeds is None else seeds:
            place = folder.checkpoint_folder(arm, seed)
            if not (place / "config.json").is_file():
                raise SystemExit(f"{place} holds no model: finish the run, with train.save_model: true")
            found.append(Subject(name=arm, seed=seed, folder=str(place)))
            if edits:
                found.append(Subject(name=arm + HOOK, seed=seed, folder=str(place), edits=edits))
    return found


def study(
    name: str,
    run: Path,
    data: Path,
    *,
    seeds: Sequence[int] | None = None,
    limit: int = TEXTS,
    shuffles: int = SHUFFLES,
) -> dict[str, Any]:
    """Everything about one run, as plain data."""
    from infosteer.experiments.environment import environment
    from infosteer.training.loading import load_tokenizer

    started = time.process_time()
    models = subjects(run, seeds)
    tokenizer = load_tokenizer(models[0].folder)
    results: dict[str, Any] = {
        "schema": 1,
        "study": name,
        "environment": environment(),
        "command": f"python benchmarks/flux_claim.py {name} RUN",
        "primary": list(PRIMARY),
        "shuffles": shuffles,
        "models": list(dict.fromkeys(model.name for model in models)),
        "seeds": sorted({model.seed for model in models if model.name != BASE}),
        "corpora": {},
        "arms": [],
        "summary": [],
        "comparisons": [],
        "nulls": [],
    }
    alone: dict[tuple[str, int], dict[str, float]] = {}
    for number, part in enumerate(STUDIES[name]):
        texts, counted = corpus(part, data, limit)
        frequency = log_frequencies(tokenizer, counted, len(tokenizer))
        table: Table = {}
        nulls: dict[str, dict[str, list[np.ndarray]]] = {}
        tokens: list[Tokens] = []
        for model in models:
            readings = read_corpus(model, tokenizer, texts)
            tokens = tokens or [
                _tokens(tokenizer, text, ids, frequency, surprisal)
                for text, (ids, _, surprisal) in zip(texts, readings, strict=True)
            ]
            values, sums = _of_model(tokens, readings, number, shuffles)
            table.setdefault(model.name, {})[model.seed] = values
            for key, null in sums.items():
                nulls.setdefault(model.name, {}).setdefault(key, []).append(null)
            means = {f"{part}/{key}": rounded(np.nanmean(row)) for key, row in values.items()}
            alone.setdefault((model.name, model.seed), {}).update(means)
        classes = collections.Counter(kind for text in tokens for kind in text.classes[1:].tolist())
        results["corpora"][part] = {"texts": len(texts), "tokens": sum(classes.values()), **sorted_counts(classes)}
        results["summary"] += summaries(part, table)
        results["comparisons"] += comparisons(part, table)
        results["nulls"] += null_rows(part, table, nulls)
    results["arms"] = [{"arm": arm, "seed": seed, "metrics": values} for (arm, seed), values in alone.items()]
    correct(results["comparisons"])
    results["example"] = example(EXAMPLES[name], models, tokenizer)
    results["cpu_minutes"] = round((time.process_time() - started) / 60, 1)
    return results


def _tokens(tokenizer: Any, text: str, ids: list[int], frequency: np.ndarray, surprisal: np.ndarray) -> Tokens:
    own, pieces = token_pieces(tokenizer, text)
    if own != ids:
        raise SystemExit("the tokenizer gives other tokens with offsets than without")
    classes, units = word_classes(pieces)
    changes = np.diff(units, prepend=-1, append=-1) != 0
    return Tokens(
        classes=np.asarray(classes),
        units=np.asarray(units),
        begins=changes[:-1].astype(float),
        ends=changes[1:].astype(float),
        frequency=frequency[ids],
        base_surprisal=surprisal,
    )


def _of_model(
    tokens: Sequence[Tokens], readings: Sequence[tuple[list[int], np.ndarray, np.ndarray]], number: int, shuffles: int
) -> tuple[dict[str, list[float]], dict[str, np.ndarray]]:
    """A model's measures by text, and the means over texts of its correlations with shuffled classes."""
    values: dict[str, list[float]] = collections.defaultdict(list)
    nulls: dict[str, list[np.ndarray]] = collections.defaultdict(list)
    for place, (text, (_, flux, surprisal)) in enumerate(zip(tokens, readings, strict=True)):
        for key, value in measures(text, flux, surprisal):
            values[key].append(value)
        values["surprisal"].append(float(np.nanmean(surprisal)) if len(surprisal) > 1 else math.nan)
        seed = 1_000 * number + place
        for key, null in null_measures(text, flux, surprisal, seed, shuffles).items():
            if not np.isnan(values[key][-1]):
                nulls[key].append(null)
    return dict(values), {key: np.nanmean(rows, axis=0) for key, rows in nulls.items()}


def example(text: str, models: Sequence[Subject], tokenizer: Any) -> dict[str, Any]:
    """One sentence as the base and the first seed's models read it, without hooks."""
    first = min(model.seed for model in models if model.name != BASE)
    shown = [model for model in models if model.name == BASE or (model.seed == first and not model.edits)]
    _, pieces = token_pieces(tokenizer, text)
    flux = {model.name: [rounded(value) for value in read_corpus(model, tokenizer, [text])[0][1]] for model in shown}
    return {"seed": first, "tokens": pieces, "classes": word_classes(pieces)[0], "flux": flux}


def written(results: Mapping[str, Any]) -> str:
    """JSON with one row a line, so that a change of the results can be read."""
    parts = []
    for key, value in results.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            lines = ",\n  ".join(json.dumps(row, allow_nan=False) for row in value)
            parts.append(f' "{key}": [\n  {lines}\n ]')
        else:
            parts.append(f' "{key}": {json.dumps(value, allow_nan=False)}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=sorted(STUDIES))
    parser.add_argument("run", type=Path, help="the folder of the finished run")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--seeds", type=int, nargs="+", help="of the run; all unless given")
    parser.add_argument("--limit", type=int, default=TEXTS, help="texts of each corpus")
    parser.add_argument("--shuffles", type=int, default=SHUFFLES)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    target = options.output or ROOT / "docs" / "evidence" / f"flux-{options.study}" / "results.json"
    results = study(
        options.study,
        options.run,
        options.data,
        seeds=options.seeds,
        limit=options.limit,
        shuffles=options.shuffles,
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(written(results), encoding="utf-8")
    print(target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
