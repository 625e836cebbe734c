"""Evaluation of a model on sets of rows: decoded answers, likelihoods, and everything needed to compare two models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from infosteer.errors import ConfigError, DataError
from infosteer.evaluation.answers import Counter, check_wanted, measure_answers, must_be_finite
from infosteer.evaluation.engines import Engine, TransformersEngine
from infosteer.evaluation.set_result import SetResult
from infosteer.evaluation.sets import EvalSet

Progress = Callable[[str, int, int], None]


def evaluate(
    model: Any,
    tokenizer: Any,
    sets: Iterable[EvalSet],
    *,
    batch_size: int = 64,
    max_new_tokens: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, SetResult]:
    """``evaluate_with`` a transformers model in this process, which is left as it was, as is its tokenizer."""
    return evaluate_with(
        TransformersEngine(model, tokenizer),
        sets,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        seed=seed,
        progress=progress,
    )


def evaluate_with(
    engine: Engine,
    sets: Iterable[EvalSet],
    *,
    batch_size: int = 64,
    max_new_tokens: int | None = None,
    seed: int = 0,
    decoding: bool = True,
    likelihoods: bool = True,
    progress: Progress | None = None,
) -> dict[str, SetResult]:
    """Evaluate an engine's model on every set.

    Measures of sets with answers: ``exact_match`` (greedy decoding, judged as the set's ``scoring`` says) and, where
    that has two rules, ``strict_match`` by the strict one, ``calibration_error`` (of the decoded answers'
    confidences), ``answer_nll`` (mean nats per answer token, the mean over examples), and for rows with options
    ``option_accuracy`` (highest log-likelihood) and ``option_accuracy_norm`` (highest per byte); ties go to the first
    option. Worked solutions also have ``verified`` and ``process`` (see ``judge``). Measures of sets of documents:
    ``nll`` (nats per token) and ``bits_per_byte``.

    Args:
        max_new_tokens: longest answer to decode; None takes the set's own, or the default of its scoring.
        seed: chooses the samples shown, and nothing else.
        decoding: whether answers are decoded; without it there is no ``exact_match``.
        likelihoods: whether answers and options are scored; without it there are no other measures. Documents are
            always scored.
        progress: called as ``progress(what, done, total)``.

    Raises:
        DataError: a set is empty, or no example of it fits the model's context.
        ConfigError: a setting is out of range, or the rows need a chat template that the tokenizer lacks.
        InfoSteerError: the model computes NaN or infinity.
    """
    for name, value in (("batch_size", batch_size), ("max_new_tokens", max_new_tokens)):
        if value is not None and (type(value) is not int or value < 1):
            raise ConfigError(f"{name} must be a whole number of at least 1", where=name, got=repr(value))
    check_wanted(engine, decoding=decoding, likelihoods=likelihoods)
    results: dict[str, SetResult] = {}
    for evalset in sets:
        if evalset.name in results:
            raise ConfigError("two evaluation sets have the same name", got=evalset.name)
        if not evalset.rows:
            raise DataError("the evaluation set is empty", where=evalset.name, got=evalset.source)
        settings = {
            "scoring": evalset.scoring,
            "source": evalset.source,
            "batch_size": batch_size,
            "seed": seed,
            "skipped": evalset.skipped,
            "rows_sha256": evalset.rows_sha256,
            **evalset.facts,
            **engine.describe(),
        }
        counter = _counter(progress, len(evalset.rows))
        if evalset.scoring == "text":
            results[evalset.name] = _evaluate_texts(engine, evalset, batch_size, counter, settings)
            continue
        results[evalset.name] = measure_answers(
            engine,
            evalset,
            batch_size=batch_size,
            max_new_tokens=max_new_tokens,
            seed=seed,
            decoding=decoding,
            likelihoods=likelihoods,
            counter=counter,
            settings=settings,
        )
    return results


def metrics(results: Mapping[str, SetResult]) -> dict[str, float]:
    """All measures of an evaluation under the names used everywhere else: ``<set>/<measure>``."""
    return {f"{name}/{measure}": v for name, result in results.items() for measure, v in result.measures.items()}


def per_example(results: Mapping[str, SetResult]) -> dict[str, list[float]]:
    """The scores of all examples by metric name, as ``infosteer.evaluation.records.analyse`` takes them."""
    return {f"{name}/{measure}": v for name, result in results.items() for measure, v in result.per_example.items()}


def _counter(progress: Progress | None, total: int) -> Counter:
    """Turns news of so many more finished rows into ``progress(what, done, total)``."""

    def counting(what: str) -> Callable[[int], None] | None:
        if progress is None:
            return None
        done = 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            progress(what, done, total)

        return advance

    return counting


def _evaluate_texts(
    engine: Engine, evalset: EvalSet, batch_size: int, counter: Counter, settings: dict[str, Any]
) -> SetResult:
    texts = [row["text"] for row in evalset.rows]
    n = len(texts)
    nats, tokens, size = engine.score_texts(
        texts, batch_size=batch_size, progress=counter(f"{evalset.name}: likelihoods")
    )
    must_be_finite(evalset, nats)
    if not tokens.sum():
        raise DataError("the documents are too short to be scored", where=evalset.name, got=evalset.source)
    # Ratios of totals, as is usual for text, not means of ratios: an example's share of the total, times n, keeps the
    # mean of the examples equal to the measure.
    columns = {"nll": nats * n / tokens.sum(), "bits_per_byte": nats / np.log(2) * n / size.sum()}
    return SetResult(
        name=evalset.name,
        n=n,
        measures={name: float(column.mean()) for name, column in columns.items()},
        per_example={name: column.tolist() for name, column in columns.items()},
        samples=[],
        failures={},
        settings=settings | {"tokens": int(tokens.sum()), "bytes": int(size.sum())},
    )
