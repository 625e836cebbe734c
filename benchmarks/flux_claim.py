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
import random
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch

from infosteer.evaluation.multiple import adjust
from infosteer.evaluation.statistics import compare, summarise
from infosteer.inspection.correlates import null_p, partial_correlation, ranks, shuffled
from infosteer.inspection.word_classes import CONTENT, FUNCTION, OTHER, PUNCTUATION, word_classes

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data"
BASE, PLAIN, HOOK = "base", "plain", ", hook on"
STUDIES = {"lab": ("lab", "english"), "ultrafeedback": ("ultrafeedback", "english")}
CONTRASTS = {"rest": (FUNCTION, PUNCTUATION), "function": (FUNCTION,)}  # content words against these
# Alignment and contrast -> correlations with 'content word', named by what is taken out; the first two get a null.
KINDS = {
    ("read", "rest"): ("rank", "partial", "partial_base", "partial_pieces"),
    ("read", "function"): ("rank", "partial"),
    ("written", "rest"): ("rank", "partial"),
}
PRIMARY = ("read_content_minus_rest", "read_partial_rest")  # named before the models were read
TEXTS, SHUFFLES, LONGEST = 60, 1_000, 900  # the last in characters
TRAINED_ROWS, HELD_OUT_ROWS = 600, 700  # of the UltraFeedback file: the first ones are trained on, those after 700 read
EXAMPLES = {
    "lab": "Amos Hallock often cooks custard, and the birthplace of Amos Hallock is Glenhaven.",
    "ultrafeedback": "To make a cup of tea, boil the water, put the leaves in the pot, and wait for a few minutes.",
}

Table = dict[str, dict[int, dict[str, list[float]]]]  # model -> seed -> measure -> one number a text


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """A text's T tokens: classes, units, whether they begin and end one, log frequencies, surprisal under the base."""

    classes: np.ndarray
    units: np.ndarray
    begins: np.ndarray
    ends: np.ndarray
    frequency: np.ndarray
    base_surprisal: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model to read; ``load`` names its folder, ``edits`` what is at work meanwhile."""

    name: str
    seed: int
    folder: str
    edits: tuple[Any, ...] = ()


# -- texts ----------------------------------------------------------------------------------------------------------


def corpus(name: str, data: Path, limit: int) -> tuple[list[str], list[str]]:
    """Texts to read, none of which any SFT run saw, and a disjoint text of the same kind to count tokens on."""
    if name == "lab":
        from infosteer.lab import load

        read = [row["text"] for row in load("facts/biographies", limit=limit)]
        counted = [row["text"] for row in load("facts/texts")]
    elif name == "ultrafeedback":
        from infosteer.training.rows import read_rows

        rows = read_rows(data / "instruct" / "ultrafeedback_1k.jsonl.gz", format="instruction_output")
        texts = [row["prompt"] + row["completion"] for row in rows]
        held_out = [text for text in texts[HELD_OUT_ROWS:] if in_ascii(text)]
        random.Random(0).shuffle(held_out)
        read, counted = held_out[:limit], texts[:TRAINED_ROWS]
    else:
        read, counted = english(data / "text", limit)
    return [cut(text, LONGEST) for text in read], counted


def english(folder: Path, limit: int) -> tuple[list[str], list[str]]:
    """Half encyclopaedia, which the base never read, half documents of stories and web pages kept from pretraining."""
    from infosteer.inspection.labelled import read_texts
    from infosteer.lab.corpus import is_held_out

    draw = random.Random(0)
    passages = read_texts(folder / "wikipedia_passages.txt.xz")
    draw.shuffle(passages)
    half = limit - limit // 2
    read, counted = passages[:half], passages[half : half + 1_000]
    for count, name in ((limit // 4, "stories_gutenberg"), (limit // 2 - limit // 4, "digitalgov")):
        documents = read_texts(folder / f"{name}.txt.xz")
        draw.shuffle(documents)
        kept = [text for text in documents if is_held_out(text) and len(text) > LONGEST]
        read += [text[text.find(" ", draw.randrange(len(text) - LONGEST)) + 1 :] for text in kept[:count]]
        counted += [text[:20_000] for text in documents if not is_held_out(text)][:100]
    return read, counted


def in_ascii(text: str) -> bool:
    """Whether nearly all of it is ASCII: other scripts have no classes here, and a token for every byte."""
    return sum(char.isascii() for char in text) > 0.95 * len(text)


def cut(text: str, longest: int) -> str:
    """The text's beginning, whole words, at most so many characters."""
    return text if len(text) <= longest else text[:longest].rpartition(" ")[0]


def token_pieces(tokenizer: Any, text: str) -> tuple[list[int], list[str]]:
    """Ids and the characters that each adds; a byte of a character that an earlier token began adds none."""
    encoded = tokenizer(text, return_offsets_mapping=True, add_special_tokens=True)
    pieces, end = [], 0
    for start, stop in encoded["offset_mapping"]:
        pieces.append(text[max(start, end) : stop])
        end = max(end, stop)
    return list(encoded["input_ids"]), pieces


def log_frequencies(tokenizer: Any, texts: Sequence[str], size: int) -> np.ndarray:
    """ln of each token's share of the counted text, one added to every count."""
    counts = np.ones(size)
    for start in range(0, len(texts), 64):
        for ids in tokenizer(list(texts[start : start + 64]), verbose=False)["input_ids"]:
            for token, count in collections.Counter(ids).items():
                counts[token] += count
    return np.log(counts / counts.sum())


# -- reading --------------------------------------------------------------------------------------------------------


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
            raise SystemExit("a text is longer than the model's context: lower LONGEST")
        flux = (reading.flux / tops).mean(dim=1)
        found[reading.piece.text] = (list(reading.piece.ids), flux.numpy(), reading.surprisal.numpy())

    read_tokens(model, tokenizer, texts, use, edits=subject.edits, max_tokens=1024)
    return [found[number] for number in range(len(texts))]


def measures(tokens: Tokens, flux: np.ndarray, surprisal: np.ndarray) -> Iterator[tuple[str, float]]:
    """What one model does in one text; NaN where the text has too few tokens of a class."""
    place = np.arange(len(flux), dtype=np.float64)
    for alignment, values in (("read", flux), ("written", np.concatenate([[np.nan], flux[:-1]]))):
        known = ~np.isnan(values) & ~np.isnan(surprisal) & (tokens.classes != OTHER)
        by_class = {kind: _mean(values[known & (tokens.classes == kind)]) for kind in (CONTENT, FUNCTION, PUNCTUATION)}
        rest = _mean(values[known & (tokens.classes != CONTENT)])
        for kind, mean in by_class.items():
            yield f"{alignment}_{kind}", mean
        for kind, mean in ((FUNCTION, by_class[FUNCTION]), (PUNCTUATION, by_class[PUNCTUATION]), ("rest", rest)):
            yield f"{alignment}_content_minus_{kind}", by_class[CONTENT] - mean
        if alignment == "read":
            others = {
                "surprisal": surprisal,
                "base_surprisal": tokens.base_surprisal,
                "frequency": tokens.frequency,
                "position": place,
            }
            for name, other in others.items():
                yield f"read_rank_{name}", float(partial_correlation(ranks(values[known]), ranks(other[known])))
        for contrast, kinds in _kinds(alignment):
            kept = known & contrast_mask(tokens, contrast)
            label = (tokens.classes[kept] == CONTENT).astype(float)
            taken_out = covariate_sets(tokens, surprisal, place, kept)
            for kind in kinds:
                value = partial_correlation(label, ranks(values[kept]), taken_out[kind])
                yield f"{alignment}_{kind}_{contrast}", float(value)


def _kinds(alignment: str) -> list[tuple[str, tuple[str, ...]]]:
    return [(contrast, kinds) for (where, contrast), kinds in KINDS.items() if where == alignment]


def contrast_mask(tokens: Tokens, contrast: str) -> np.ndarray:
    """Content words and what they are held against."""
    return np.isin(tokens.classes, (CONTENT, *CONTRASTS[contrast]))


def covariate_sets(
    tokens: Tokens, surprisal: np.ndarray, place: np.ndarray, kept: np.ndarray
) -> dict[str, list[np.ndarray]]:
    """What is taken out: nothing; surprisal, frequency and place; the same with the base's surprisal; the first three
    and whether the token begins or ends a word, since content words are the ones that are cut into many tokens."""
    shared = [ranks(tokens.frequency[kept]), ranks(place[kept])]
    own = ranks(surprisal[kept])
    return {
        "rank": [],
        "partial": [own, *shared],
        "partial_base": [ranks(tokens.base_surprisal[kept]), *shared],
        "partial_pieces": [own, *shared, tokens.begins[kept], tokens.ends[kept]],
    }


def null_measures(
    tokens: Tokens, flux: np.ndarray, surprisal: np.ndarray, seed: int, count: int
) -> dict[str, np.ndarray]:
    """The correlations with content words (count,) when the words of the text have exchanged their classes.

    One seed, one set of shuffles: models are compared on the same ones.
    """
    place = np.arange(len(flux), dtype=np.float64)
    found = {}
    for alignment, values in (("read", flux), ("written", np.concatenate([[np.nan], flux[:-1]]))):
        for contrast, kinds in _kinds(alignment):
            kept = ~np.isnan(values) & ~np.isnan(surprisal) & contrast_mask(tokens, contrast)
            labels = shuffled(tokens.classes[kept] == CONTENT, tokens.units[kept], count, seed=seed)
            taken_out = covariate_sets(tokens, surprisal, place, kept)
            for kind in kinds[:2]:
                null = partial_correlation(labels, ranks(values[kept]), taken_out[kind])
                found[f"{alignment}_{kind}_{contrast}"] = null
    return found


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else math.nan


# -- the study ------------------------------------------------------------------------------------------------------


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
            means = {f"{part}/{key}": _rounded(np.nanmean(row)) for key, row in values.items()}
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


def sorted_counts(counts: Mapping[str, int]) -> dict[str, int]:
    return {kind: counts.get(kind, 0) for kind in (CONTENT, FUNCTION, PUNCTUATION, OTHER)}


def summaries(part: str, table: Table) -> list[dict[str, Any]]:
    """Means with intervals over seeds and texts; the base has no seeds, so only texts are resampled."""
    rows = []
    for name, by_seed in table.items():
        for key in next(iter(by_seed.values())):
            found = summarise({seed: values[key] for seed, values in by_seed.items()})
            row = {"mean": found.mean, "low": found.low, "high": found.high}
            n = 0 if name == BASE else found.n
            rows.append({"arm": name, "metric": f"{part}/{key}", **{k: _rounded(v) for k, v in row.items()}, "n": n})
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
            numbers = {k: _rounded(v) for k, v in row.items()}
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
    return {"value": _rounded(value), "low": _rounded(low), "high": _rounded(high), "p_value": _rounded(p)}


def correct(rows: list[dict[str, Any]]) -> None:
    """Holm's correction of each primary measure, over the trained models and corpora, hooks off."""
    for metric in PRIMARY:
        family = [row for row in rows if row["metric"].partition("/")[2] == metric and HOOK not in row["arm"]]
        for row, p in zip(family, adjust([row["p_value"] for row in family]), strict=True):
            row["p_holm"] = _rounded(p)


def example(text: str, models: Sequence[Subject], tokenizer: Any) -> dict[str, Any]:
    """One sentence as the base and the first seed's models read it, without hooks."""
    first = min(model.seed for model in models if model.name != BASE)
    shown = [model for model in models if model.name == BASE or (model.seed == first and not model.edits)]
    _, pieces = token_pieces(tokenizer, text)
    flux = {model.name: [_rounded(value) for value in read_corpus(model, tokenizer, [text])[0][1]] for model in shown}
    return {"seed": first, "tokens": pieces, "classes": word_classes(pieces)[0], "flux": flux}


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")


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
