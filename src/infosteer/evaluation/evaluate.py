"""Evaluation of a model on sets of rows: decoded answers, likelihoods, and everything needed to compare two models."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from infosteer.errors import ConfigError, DataError, InfoSteerError
from infosteer.evaluation.confidence import calibration_error
from infosteer.evaluation.decode import decode
from infosteer.evaluation.extract import judge
from infosteer.evaluation.loglik import score_options, score_texts
from infosteer.evaluation.model_state import context_length, encode, prompt_text
from infosteer.evaluation.predictions import Array
from infosteer.evaluation.sets import EvalSet

logger = logging.getLogger(__name__)

SAMPLES = 5  # predictions kept for people to look at
REASONING_TOKENS = 256  # room for a worked solution before its answer
MARGIN_TOKENS = 8  # room beyond the longest answer: one that runs on must be seen to run on

BOUNDED = frozenset(
    [
        "exact_match",
        "calibration_error",
        "utilisation",
        "option_accuracy",
        "option_accuracy_norm",
        "verified",
        "process",
    ]
)  # measures that lie in [0, 1]

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class SetResult:
    """What one model did on one set.

    Attributes:
        name: the set's name; metrics are called ``<name>/<measure>``.
        n: number of examples.
        measures: mean of each measure; shares in [0, 1], nats or bits.
        per_example: each measure for each example, in the set's order; their mean is the measure. NaN where an example
            could not be scored. A measure of the set as a whole (calibration_error) has one value.
        samples: a few examples {"prompt", "answer", "prediction", "correct"}, the same ones for every model.
        failures: counts of "no_answer" (none could be read from the prediction), "unfinished" (stopped by the limit of
            new tokens) and "too_long" (the model's context holds no room).
        settings: how it was scored, enough to repeat it.
    """

    name: str
    n: int
    measures: dict[str, float]
    per_example: dict[str, list[float]]
    samples: list[dict[str, Any]]
    failures: dict[str, int]
    settings: dict[str, Any]


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
    """Evaluate ``model`` on every set; the model and tokenizer are left as they were.

    Measures of sets with answers: ``exact_match`` (greedy decoding, judged as the set's ``scoring`` says),
    ``calibration_error`` (of the decoded answers' confidences), ``answer_nll`` (mean nats per answer token, the mean
    over examples), and for rows with options ``option_accuracy`` (highest log-likelihood) and ``option_accuracy_norm``
    (highest per byte); ties go to the first option. Worked solutions also have ``verified`` and ``process`` (see
    ``judge``). Measures of sets of documents: ``nll`` (nats per token) and ``bits_per_byte``.

    Args:
        max_new_tokens: longest answer to decode; None takes the set's own, or the default of its scoring.
        seed: chooses the samples shown, and nothing else.
        progress: called as ``progress(what, done, total)``.

    Raises:
        DataError: a set is empty, or no example of it fits the model's context.
        ConfigError: a setting is out of range, or the rows need a chat template that the tokenizer lacks.
        InfoSteerError: the model computes NaN or infinity.
    """
    for name, value in (("batch_size", batch_size), ("max_new_tokens", max_new_tokens)):
        if value is not None and (type(value) is not int or value < 1):
            raise ConfigError(f"{name} must be a whole number of at least 1", where=name, got=repr(value))
    results: dict[str, SetResult] = {}
    for evalset in sets:
        if evalset.name in results:
            raise ConfigError("two evaluation sets have the same name", got=evalset.name)
        if not evalset.rows:
            raise DataError("the evaluation set is empty", where=evalset.name, got=evalset.source)
        common = {
            "scoring": evalset.scoring,
            "source": evalset.source,
            "batch_size": batch_size,
            "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
            "seed": seed,
            "skipped": evalset.skipped,
        }
        run = _evaluate_texts if evalset.scoring == "text" else _evaluate_answers
        results[evalset.name] = run(model, tokenizer, evalset, batch_size, max_new_tokens, seed, progress, common)
    return results


def metrics(results: Mapping[str, SetResult]) -> dict[str, float]:
    """All measures of an evaluation under the names used everywhere else: ``<set>/<measure>``."""
    return {f"{name}/{measure}": v for name, result in results.items() for measure, v in result.measures.items()}


def per_example(results: Mapping[str, SetResult]) -> dict[str, list[float]]:
    """The scores of all examples by metric name, as ``infosteer.evaluation.records.analyse`` takes them."""
    return {f"{name}/{measure}": v for name, result in results.items() for measure, v in result.per_example.items()}


def _counter(progress: Progress | None, what: str, total: int) -> Callable[[int], None] | None:
    if progress is None:
        return None
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress(what, done, total)

    return advance


def answer_limit(evalset: EvalSet, tokenizer: Any, max_new_tokens: int | None) -> int:
    """How many new tokens an answer of this set may take."""
    if max_new_tokens is not None or evalset.max_new_tokens is not None:
        return int(max_new_tokens or evalset.max_new_tokens or 0)
    options = [option for row in evalset.rows for option in row["options"] or []]
    if evalset.scoring == "number" or (evalset.scoring == "option" and all(len(option) == 1 for option in options)):
        return REASONING_TOKENS
    texts = {row["lead"] + text for row in evalset.rows for text in [row["answer"], *(row["options"] or [])]}
    return max(map(len, encode(tokenizer, sorted(texts), special=False))) + MARGIN_TOKENS


def _evaluate_answers(
    model: Any,
    tokenizer: Any,
    evalset: EvalSet,
    batch_size: int,
    max_new_tokens: int | None,
    seed: int,
    progress: Progress | None,
    settings: dict[str, Any],
) -> SetResult:
    rows, n = evalset.rows, len(evalset.rows)
    prompts = [row["prompt"] for row in rows]
    limit = answer_limit(evalset, tokenizer, max_new_tokens)
    options = [row["options"] or [row["answer"]] for row in rows]
    scores = score_options(
        model,
        tokenizer,
        prompts,
        options,
        leads=[row["lead"] for row in rows],
        batch_size=batch_size,
        progress=_counter(progress, f"{evalset.name}: likelihoods", n),
    )
    decoded = decode(
        model,
        tokenizer,
        prompts,
        max_new_tokens=limit,
        stops=[row["stop"] for row in rows],
        batch_size=batch_size,
        progress=_counter(progress, f"{evalset.name}: decoding", n),
    )
    too_long = sum(one.too_long or score.too_long for one, score in zip(decoded, scores, strict=True))
    if too_long == n:
        raise DataError(
            "no example of the set fits the model's context",
            where=evalset.name,
            got=f"{n} examples",
            expected=f"prompt and answer within {context_length(model)} tokens",
        )
    if too_long:
        logger.warning(
            "%s: %d of %d examples are longer than the model's context of %s tokens; their answers count as wrong and "
            "their likelihoods are left out",
            evalset.name,
            too_long,
            n,
            context_length(model),
        )
    _must_be_finite(evalset, np.array([score.total.sum() for score in scores if not score.too_long]))
    verdicts = [judge(one.text, row, evalset.scoring) for one, row in zip(decoded, rows, strict=True)]
    right = [choices.index(row["answer"]) for choices, row in zip(options, rows, strict=True)]
    columns: dict[str, Array] = {
        "exact_match": np.array([verdict.correct for verdict in verdicts], dtype=np.float64),
        "answer_nll": np.array([-s.total[r] / max(s.tokens[r], 1) for s, r in zip(scores, right, strict=True)]),
    }
    confidences = np.array([one.confidence for one in decoded])
    for name in verdicts[0].measures:
        columns[name] = np.array([verdict.measures[name] for verdict in verdicts], dtype=np.float64)
    if all(row["options"] for row in rows):
        for name, values in (
            ("option_accuracy", [score.total for score in scores]),
            ("option_accuracy_norm", [score.per_byte for score in scores]),
        ):
            best = [np.nan if np.isnan(v).any() else float(v.argmax() == r) for v, r in zip(values, right, strict=True)]
            columns[name] = np.array(best)
    if not np.isnan(confidences).all():
        # A measure of the whole set has one value, which only other seeds can put an interval around.
        columns["calibration_error"] = np.array([calibration_error(confidences, columns["exact_match"])])
    shown = sorted(random.Random(seed).sample(range(n), min(SAMPLES, n)))
    return SetResult(
        name=evalset.name,
        n=n,
        measures={name: float(np.nanmean(column)) for name, column in columns.items()},
        per_example={name: column.tolist() for name, column in columns.items()},
        samples=[
            {
                "prompt": prompt_text(tokenizer, prompts[i]),
                "answer": rows[i]["answer"],
                "prediction": decoded[i].text,
                "correct": verdicts[i].correct,
            }
            for i in shown
        ],
        failures={
            "no_answer": sum(v.extracted is None and not d.too_long for v, d in zip(verdicts, decoded, strict=True)),
            "unfinished": sum(not one.finished and not one.too_long for one in decoded),
            "too_long": too_long,
        },
        settings=settings | {"decoding": "greedy", "max_new_tokens": limit},
    )


def _must_be_finite(evalset: EvalSet, values: Array) -> None:
    """A model that computes NaN would otherwise get scores: argmax finds an answer even there."""
    if bad := int((~np.isfinite(values)).sum()):
        raise InfoSteerError(
            "the model's likelihoods are not finite numbers",
            where=evalset.name,
            got=f"NaN or infinite for {bad} of {len(values)} examples",
            fix="the weights are likely broken (a training that diverged); half precision can overflow, try float32",
        )


def _evaluate_texts(
    model: Any,
    tokenizer: Any,
    evalset: EvalSet,
    batch_size: int,
    max_new_tokens: int | None,
    seed: int,
    progress: Progress | None,
    settings: dict[str, Any],
) -> SetResult:
    texts = [row["text"] for row in evalset.rows]
    n = len(texts)
    advance = _counter(progress, f"{evalset.name}: likelihoods", n)
    nats, tokens, size = score_texts(model, tokenizer, texts, batch_size=batch_size, progress=advance)
    _must_be_finite(evalset, nats)
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
