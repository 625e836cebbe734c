"""From lm-eval's samples and aggregates to a ``SetResult``: a score for every example wherever there is one."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from lm_eval.api.metrics import bits_per_byte, perplexity, weighted_perplexity

from infosteer.evaluation.answers import SAMPLES
from infosteer.evaluation.set_result import SetResult

INVALID = "[invalid]"  # what lm-eval's extraction filters give where they find nothing
PLAIN = "none"  # the name of lm-eval's filter that changes nothing


def measure_name(metric: str, filter_name: str) -> str:
    """``acc``, or ``exact_match:strict-match`` where a named filter read the answer."""
    return metric if filter_name == PLAIN else f"{metric}:{filter_name}"


def result_of(
    name: str,
    task: Any,
    samples: Sequence[Mapping[str, Any]],
    aggregated: Mapping[str, Any],
    *,
    failures: Mapping[str, int],
    settings: Mapping[str, Any],
    seed: int,
) -> SetResult:
    """What lm-eval found on one task.

    A metric whose aggregate is the mean of its examples keeps them. Of perplexities, whose aggregate is none, the
    logarithm is a mean and gets a measure of its own, ``log_<metric>``; bits per byte are shared out by each document's
    part in them. Any other (F1, a correlation) is one value of the whole set.

    Args:
        task: lm-eval's task, for its aggregation functions.
        samples: lm-eval's, one for each example and filter.
        aggregated: lm-eval's results of the task, ``<metric>,<filter>`` -> value.
    """
    filters = list(dict.fromkeys(sample["filter"] for sample in samples))
    by_filter = {one: [sample for sample in samples if sample["filter"] == one] for one in filters}
    columns: dict[str, list[float]] = {}
    for one, rows in by_filter.items():
        for metric in dict.fromkeys(metric for row in rows for metric in row["metrics"]):
            whole = aggregated.get(f"{metric},{one}")
            if isinstance(whole, (int, float)):
                values = [row.get(metric) for row in rows]
                columns.update(_columns(metric, one, values, float(whole), task.aggregation().get(metric)))
    first = by_filter[filters[0]] if filters else []
    unread = sum(all(_shown(by_filter[one][i]) == INVALID for one in filters) for i in range(len(first)))
    shown = sorted(random.Random(seed).sample(range(len(first)), min(SAMPLES, len(first))))
    judged = next((one for one in columns if len(columns[one]) == len(first)), None)
    return SetResult(
        name=name,
        n=len(first),
        measures={measure: float(np.nanmean(values)) for measure, values in columns.items()},
        per_example=columns,
        samples=[_sample(task, first[i], columns[judged][i] if judged else math.nan) for i in shown],
        failures={"no_answer": unread, **failures},
        settings=dict(settings),
    )


def _columns(metric: str, one: str, values: Sequence[Any], whole: float, rule: Any) -> dict[str, list[float]]:
    """The columns of one metric: its examples, or one value and what can be had beside it."""
    name = measure_name(metric, one)
    n = len(values)
    if rule in (weighted_perplexity, bits_per_byte):
        nats = np.array([-value[0] for value in values], dtype=np.float64)
        size = float(sum(value[1] for value in values))
        if rule is bits_per_byte:
            return {name: (nats * n / size / math.log(2)).tolist()}
        return {name: [whole], measure_name(f"log_{metric}", one): (nats * n / size).tolist()}
    if not all(value is None or isinstance(value, (int, float, np.number, np.bool_)) for value in values):
        return {name: [whole]}
    column = [math.nan if value is None else float(value) for value in values]
    if rule is perplexity:
        return {name: [whole], measure_name(f"log_{metric}", one): [-value for value in column]}
    known = [value for value in column if not math.isnan(value)]
    is_mean = bool(known) and math.isclose(math.fsum(known) / len(known), whole, rel_tol=1e-9, abs_tol=1e-12)
    return {name: column if is_mean else [whole]}


def _sample(task: Any, sample: Mapping[str, Any], score: float) -> dict[str, Any]:
    """One example for people to look at."""
    context = sample["arguments"][0][0]
    choices = _choices(task, sample)
    target = sample["target"]
    prediction: Any = _shown(sample)
    if task.OUTPUT_TYPE in ("multiple_choice", "loglikelihood"):
        scores = [response[0] for response in sample["filtered_resps"]]
        best = int(np.argmax(scores[: len(choices)] if choices else scores))
        prediction = choices[best] if choices else ("(likeliest)" if sample["filtered_resps"][0][1] else "")
    elif task.OUTPUT_TYPE == "loglikelihood_rolling":
        context, prediction = "", ""
    if choices and isinstance(target, int) and 0 <= target < len(choices):
        target = choices[target]
    return {"prompt": str(context), "answer": str(target), "prediction": str(prediction), "correct": score == 1.0}


def _choices(task: Any, sample: Mapping[str, Any]) -> list[str]:
    if task.OUTPUT_TYPE != "multiple_choice" or task.get_config("doc_to_choice") is None:
        return []
    return [str(choice) for choice in task.doc_to_choice(sample["doc"])]


def _shown(sample: Mapping[str, Any]) -> Any:
    responses = sample["filtered_resps"]
    return responses[0] if responses else None
