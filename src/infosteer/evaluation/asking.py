"""Probes that ask, asked: an evaluation set as a :class:`~infosteer.core.asking.Subject`."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from infosteer.core.asking import AskingProbe, Prompt, Read, Subject
from infosteer.core.contract import Method
from infosteer.errors import ConfigError
from infosteer.evaluation.answers import answer_limit
from infosteer.evaluation.engines import TransformersEngine, asked_through
from infosteer.evaluation.extract import judge
from infosteer.evaluation.model_state import encode, evaluating, prompt_text
from infosteer.evaluation.sets import EvalSet


def ask(
    model: Any,
    tokenizer: Any,
    evalset: EvalSet,
    probe: AskingProbe,
    *,
    shown: Sequence[Mapping[str, Any]] = (),
    methods: Sequence[Method] = (),
    batch_size: int = 64,
    max_new_tokens: int | None = None,
) -> dict[str, list[float]]:
    """What a probe says of a model on one set: scores of the examples by metric.

    Args:
        shown: rows that may stand in prompts as examples, with ``prompt`` and ``completion`` or as evaluation rows.

        methods: what the model was trained with; its data methods may have prompts and answers go through them.

    Raises:
        ConfigError: a set of documents, or what the probe cannot ask.
        DataError: too few rows, or prompts that do not fit the model's context.
    """
    if evalset.scoring == "text":
        raise ConfigError(
            "a set of documents holds no questions", where=f"{evalset.name}, probe {probe.label()}", got=evalset.source
        )
    limit = answer_limit(evalset, tokenizer, max_new_tokens)
    engine = asked_through(TransformersEngine(model, tokenizer), methods)

    def answers(prompts: Sequence[Prompt], numbers: Sequence[int]) -> list[str | None]:
        stops = [evalset.rows[number]["stop"] for number in numbers]
        found = engine.decode(prompts, max_new_tokens=limit, stops=stops, batch_size=batch_size)
        return [None if one.too_long else one.text for one in found]

    def read(number: int, text: str) -> Read:
        verdict = judge(text, evalset.rows[number], evalset.scoring)
        return Read(extracted=verdict.extracted, correct=verdict.correct)

    with evaluating(model):
        return probe.ask(
            Subject(
                model=model,
                tokenizer=tokenizer,
                rows=evalset.rows,
                shown=[_as_question(row) for row in shown],
                limit=limit,
                encode=functools.partial(encode_prompts, tokenizer),
                answer=answers,
                read=read,
            )
        )


def encode_prompts(tokenizer: Any, prompts: Sequence[Prompt]) -> list[list[int]]:
    """Token ids of prompts as they are decoded from: texts, or messages in the chat template."""
    return [
        encode(tokenizer, [prompt_text(tokenizer, prompt)], special=isinstance(prompt, str))[0] for prompt in prompts
    ]


def as_measures(probe: AskingProbe, scores: Mapping[str, Sequence[float]]) -> dict[str, tuple[float, list[float]]]:
    """``<probe>_<metric>`` -> mean and scores of the examples."""
    return {f"{probe.label()}_{name}": (float(np.mean(values)), list(values)) for name, values in scores.items()}


def _as_question(row: Mapping[str, Any]) -> Mapping[str, Any]:
    return row if "completion" not in row else {"prompt": row["prompt"], "lead": "", "answer": row["completion"]}
