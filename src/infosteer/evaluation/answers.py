"""Sets of questions: decoded answers and likelihoods of one engine, put together as measures."""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from infosteer.errors import ConfigError, DataError, InfoSteerError
from infosteer.evaluation.confidence import calibration_error
from infosteer.evaluation.decode import Decoded
from infosteer.evaluation.engines import Engine
from infosteer.evaluation.extract import Verdict, judge
from infosteer.evaluation.loglik import OptionScores
from infosteer.evaluation.model_state import encode, prompt_text
from infosteer.evaluation.predictions import Array
from infosteer.evaluation.set_result import SetResult
from infosteer.evaluation.sets import EvalSet

logger = logging.getLogger(__name__)

SAMPLES = 5  # predictions kept for people to look at
SHOWN_PLACES = 5  # rows named in a warning
REASONING_TOKENS = 256  # room for a worked solution before its answer
MARGIN_TOKENS = 8  # room beyond the longest answer: one that runs on must be seen to run on

Counter = Callable[[str], Callable[[int], None] | None]  # what is counted -> who is told how many more are done


def answer_limit(evalset: EvalSet, tokenizer: Any, max_new_tokens: int | None) -> int:
    """How many new tokens an answer of this set may take."""
    if max_new_tokens is not None or evalset.max_new_tokens is not None:
        return int(max_new_tokens or evalset.max_new_tokens or 0)
    options = [option for row in evalset.rows for option in row["options"] or []]
    if evalset.scoring == "number" or (evalset.scoring == "option" and all(len(option) == 1 for option in options)):
        return REASONING_TOKENS
    texts = {row["lead"] + text for row in evalset.rows for text in [row["answer"], *(row["options"] or [])]}
    return max(map(len, encode(tokenizer, sorted(texts), special=False))) + MARGIN_TOKENS


def measure_answers(
    engine: Engine,
    evalset: EvalSet,
    *,
    batch_size: int,
    max_new_tokens: int | None,
    seed: int,
    decoding: bool,
    likelihoods: bool,
    counter: Counter,
    settings: dict[str, Any],
) -> SetResult:
    """Decode and score a set of questions, as far as wanted, and judge what came out; see ``evaluate_with``."""
    rows, n = evalset.rows, len(evalset.rows)
    prompts = [row["prompt"] for row in rows]
    limit = answer_limit(evalset, engine.tokenizer, max_new_tokens)
    options = [row["options"] or [row["answer"]] for row in rows]
    scores: list[OptionScores] | None = None
    decoded: list[Decoded] | None = None
    if likelihoods:
        scores = engine.score_options(
            prompts,
            options,
            leads=[row["lead"] for row in rows],
            batch_size=batch_size,
            progress=counter(f"{evalset.name}: likelihoods"),
        )
    if decoding:
        decoded = engine.decode(
            prompts,
            max_new_tokens=limit,
            stops=[row["stop"] for row in rows],
            batch_size=batch_size,
            progress=counter(f"{evalset.name}: decoding"),
        )
    too_long = _count_too_long(evalset, engine.context_length, decoded, scores)
    columns: dict[str, Array] = {}
    failures: dict[str, int] = {}
    verdicts: list[Verdict] = []
    if decoded is not None:
        verdicts = [judge(one.text, row, evalset.scoring) for one, row in zip(decoded, rows, strict=True)]
        columns |= _decoded_columns(decoded, verdicts)
        failures |= {
            "no_answer": sum(v.extracted is None and not d.too_long for v, d in zip(verdicts, decoded, strict=True)),
            "unfinished": sum(not one.finished and not one.too_long for one in decoded),
        }
        strict = [(v.strict, d) for v, d in zip(verdicts, decoded, strict=True) if v.strict is not None]
        if strict:
            failures["no_answer_strict"] = sum(r.extracted is None and not d.too_long for r, d in strict)
    if scores is not None:
        columns |= _likelihood_columns(evalset, options, scores)
    # A measure of the whole set has one value, which only other seeds can put an interval around.
    confidences = np.array([one.confidence for one in decoded or []])
    if not np.isnan(confidences).all():
        columns["calibration_error"] = np.array([calibration_error(confidences, columns["exact_match"])])
    if decoded is not None:
        settings = settings | {"decoding": "greedy", "max_new_tokens": limit}
    texts = [prompt_text(engine.tokenizer, prompt) for prompt in prompts]
    shown = sorted(random.Random(seed).sample(range(n), min(SAMPLES, n)))
    return SetResult(
        name=evalset.name,
        n=n,
        measures={name: float(np.nanmean(column)) for name, column in columns.items()},
        per_example={name: column.tolist() for name, column in columns.items()},
        samples=[_sample(texts[i], rows[i], decoded[i], verdicts[i]) for i in shown] if decoded is not None else [],
        failures=failures | {"too_long": too_long},
        settings=settings,
        rows=[_row(*each) for each in zip(texts, rows, decoded, verdicts, strict=True)] if decoded is not None else [],
    )


def _decoded_columns(decoded: Sequence[Decoded], verdicts: Sequence[Verdict]) -> dict[str, Array]:
    columns = {"exact_match": np.array([verdict.correct for verdict in verdicts], dtype=np.float64)}
    strict = [verdict.strict.correct for verdict in verdicts if verdict.strict is not None]
    if strict:
        columns["strict_match"] = np.array(strict, dtype=np.float64)
    for name in verdicts[0].measures:
        columns[name] = np.array([verdict.measures[name] for verdict in verdicts], dtype=np.float64)
    return columns


def _likelihood_columns(
    evalset: EvalSet, options: Sequence[Sequence[str]], scores: Sequence[OptionScores]
) -> dict[str, Array]:
    must_be_finite(evalset, np.array([score.total.sum() for score in scores if not score.too_long]))
    right = [choices.index(row["answer"]) for choices, row in zip(options, evalset.rows, strict=True)]
    columns = {"answer_nll": np.array([-s.total[r] / max(s.tokens[r], 1) for s, r in zip(scores, right, strict=True)])}
    if all(row["options"] for row in evalset.rows):
        for name, values in (
            ("option_accuracy", [score.total for score in scores]),
            ("option_accuracy_norm", [score.per_byte for score in scores]),
        ):
            best = [np.nan if np.isnan(v).any() else float(v.argmax() == r) for v, r in zip(values, right, strict=True)]
            columns[name] = np.array(best)
    return columns


def _count_too_long(
    evalset: EvalSet, context: int | None, decoded: Sequence[Decoded] | None, scores: Sequence[OptionScores] | None
) -> int:
    n = len(evalset.rows)
    flags = [[one.too_long for one in found] for found in (decoded, scores) if found is not None]
    over = [place for place, marks in enumerate(zip(*flags, strict=True)) if any(marks)]
    too_long = len(over)
    if too_long == n:
        raise DataError(
            "no example of the set fits the model's context",
            where=evalset.name,
            got=f"{n} examples",
            expected=f"prompt and answer within {context} tokens",
        )
    if too_long:
        logger.warning(
            "%s: %d of %d examples are longer than the model's context of %s tokens; their answers count as wrong and "
            "their likelihoods are left out%s",
            evalset.name,
            too_long,
            n,
            context,
            _listed([evalset.places[place] for place in over]) if len(evalset.places) == n else "",
        )
    return too_long


def _listed(places: Sequence[str]) -> str:
    more = f" and {len(places) - SHOWN_PLACES} more" if len(places) > SHOWN_PLACES else ""
    return f": {', '.join(places[:SHOWN_PLACES])}{more}"


def must_be_finite(evalset: EvalSet, values: Array) -> None:
    """A model that computes NaN would otherwise get scores: argmax finds an answer even there."""
    if bad := int((~np.isfinite(values)).sum()):
        raise InfoSteerError(
            "the model's likelihoods are not finite numbers",
            where=evalset.name,
            got=f"NaN or infinite for {bad} of {len(values)} examples",
            fix="the weights are likely broken (a training that diverged); half precision can overflow, try float32",
        )


def check_wanted(engine: Engine, *, decoding: bool, likelihoods: bool) -> None:
    """Raises: ConfigError when nothing is to be measured, or likelihoods of an engine that has none."""
    if not decoding and not likelihoods:
        raise ConfigError("neither decoding nor likelihoods are wanted, so there is nothing to measure")
    if likelihoods and not engine.likelihoods:
        raise ConfigError(
            "this engine gives no likelihoods of options",
            got=engine.name,
            expected="the transformers engine",
            fix="decode only (--no-options), or use --engine transformers",
        )


def _sample(prompt: str, row: Mapping[str, Any], one: Decoded, verdict: Verdict) -> dict[str, Any]:
    return {"prompt": prompt, "answer": row["answer"], "prediction": one.text, "correct": verdict.correct}


def _row(prompt: str, row: Mapping[str, Any], one: Decoded, verdict: Verdict) -> dict[str, Any]:
    kept = {
        "prompt_sha256": hashlib.sha256(prompt.encode()).hexdigest()[:16],
        "answer": row["answer"],
        "prediction": one.text,
        "tokens": one.tokens,
        "finished": one.finished,
        "too_long": one.too_long,
        "extracted": verdict.extracted,
        "correct": verdict.correct,
    }
    if verdict.strict is None:
        return kept
    return kept | {"strict": verdict.strict.extracted, "strict_correct": verdict.strict.correct}
