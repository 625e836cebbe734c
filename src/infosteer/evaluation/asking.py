"""Probes that ask, asked: an evaluation set as a :class:`~infosteer.core.asking.Subject`."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from infosteer.core.asking import AskingProbe, Prompt, Read, Subject
from infosteer.core.contract import Method
from infosteer.errors import ConfigError, DataError
from infosteer.evaluation.answers import answer_limit
from infosteer.evaluation.engines import TransformersEngine, asked_through
from infosteer.evaluation.extract import judge
from infosteer.evaluation.loglik import score_options
from infosteer.evaluation.model_state import encode, evaluating, prompt_text
from infosteer.evaluation.sets import EvalSet
from infosteer.training.loading import load_model, load_tokenizer


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

    Args and Raises: as ``questioned``; and what the probe raises.
    """
    with questioned(
        model, tokenizer, evalset, shown=shown, methods=methods, batch_size=batch_size, max_new_tokens=max_new_tokens
    ) as subject:
        return probe.ask(subject)


@contextlib.contextmanager
def questioned(
    model: Any,
    tokenizer: Any,
    evalset: EvalSet,
    *,
    shown: Sequence[Mapping[str, Any]] = (),
    methods: Sequence[Method] = (),
    batch_size: int = 64,
    max_new_tokens: int | None = None,
) -> Iterator[Subject]:
    """A model and a set as probes that ask are given them; the model is left as it was.

    Args:
        shown: rows that may stand in prompts as examples, with ``prompt`` and ``completion`` or as evaluation rows.
        methods: what the model was trained with; its data methods may have prompts and answers go through them.

    Raises:
        ConfigError: a set of documents.
    """
    if evalset.scoring == "text":
        raise ConfigError("a set of documents holds no questions to ask", where=evalset.name, got=evalset.source)
    limit = answer_limit(evalset, tokenizer, max_new_tokens)
    engine = asked_through(TransformersEngine(model, tokenizer), methods)

    def answers(prompts: Sequence[Prompt], numbers: Sequence[int]) -> list[str | None]:
        stops = [evalset.rows[number]["stop"] for number in numbers]
        found = engine.decode(prompts, max_new_tokens=limit, stops=stops, batch_size=batch_size)
        return [None if one.too_long else one.text for one in found]

    def read(number: int, text: str) -> Read:
        verdict = judge(text, evalset.rows[number], evalset.scoring)
        return Read(extracted=verdict.extracted, correct=verdict.correct, measures=verdict.measures)

    with evaluating(model):
        yield Subject(
            model=model,
            tokenizer=tokenizer,
            rows=evalset.rows,
            shown=[_as_question(row) for row in shown],
            limit=limit,
            encode=functools.partial(encode_prompts, tokenizer),
            answer=answers,
            read=read,
            consult=functools.partial(consult, batch_size=batch_size),
        )


def consult(model: str, texts: Sequence[str], options: Sequence[str], *, batch_size: int = 64) -> list[int]:
    """The option that a model finds likeliest behind each text, which is a user's message where it has a chat template.

    Raises:
        ConfigError: a model that cannot be loaded.
        DataError: a text that does not fit its context.
    """
    judge, tokenizer = load_model(model), load_tokenizer(model)
    chat = bool(tokenizer.chat_template)
    prompts: list[Prompt] = [[{"role": "user", "content": text}] if chat else text for text in texts]
    written = list(options) if chat else [f" {option}" for option in options]
    with evaluating(judge):
        scores = score_options(judge, tokenizer, prompts, [written] * len(prompts), batch_size=batch_size)
    for number, one in enumerate(scores, start=1):
        if one.too_long:
            raise DataError("a text is longer than the context of the model asked", where=f"{model}, text {number}")
    return [int(one.total.argmax()) for one in scores]


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
