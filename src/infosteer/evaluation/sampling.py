"""Sampling of several answers a prompt, and pass@k from them.

A sample is drawn by the Gumbel rule: ``argmax_v (logit_v / temperature + g_v)`` with independent ``g_v = -ln(-ln u_v)``
is a draw from ``softmax(logit / temperature)``. The noise of every sample has a generator of its own, keyed by seed,
prompt and number of the sample, so neither the batch size nor the other prompts change what is drawn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import LogitsProcessor, TopKLogitsWarper, TopPLogitsWarper

from infosteer.errors import ConfigError, DataError
from infosteer.evaluation.answers import answer_limit
from infosteer.evaluation.decode import Decoded, Progress, decode
from infosteer.evaluation.extract import judge
from infosteer.evaluation.model_state import prompt_text
from infosteer.evaluation.sets import EvalSet
from infosteer.lab.reasoning import pass_at_k


@dataclass(frozen=True, kw_only=True, slots=True)
class PassResult:
    """pass@k of one set.

    Attributes:
        measures: ``pass@<k>`` -> mean over the examples.
        per_example: ``pass@<k>`` -> the unbiased estimate of each example, in the set's order.
        right: right samples of each example, among ``samples``.
        settings: how they were drawn and judged, enough to repeat it.
    """

    measures: dict[str, float]
    per_example: dict[str, list[float]]
    right: list[int]
    settings: dict[str, Any]


def sample(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Any],
    *,
    samples: int,
    temperature: float,
    top_p: float | None = None,
    seed: int = 0,
    max_new_tokens: int,
    stops: Sequence[Sequence[str]] | None = None,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> list[list[Decoded]]:
    """``samples`` continuations of every prompt, drawn from ``softmax(logits / temperature)``.

    Args:
        top_p: draws among the likeliest tokens that hold this probability together; None among all.

    Raises: ConfigError for a temperature, a ``top_p`` or a number of samples that is not positive.
    """
    if not 0 < temperature < float("inf"):
        raise ConfigError("the temperature must be positive", where="temperature", got=temperature)
    if top_p is not None and not 0 < top_p <= 1:
        raise ConfigError("a probability that tokens hold together", where="top_p", got=top_p, expected="up to 1")
    if samples < 1:
        raise ConfigError("there must be at least one sample", where="samples", got=samples)
    keys = [
        f"{seed}\n{number}\n{prompt_text(tokenizer, prompt)}".encode()
        for prompt in prompts
        for number in range(samples)
    ]

    def noise(rows: Sequence[int]) -> LogitsProcessor:
        return Draws([keys[row] for row in rows], temperature, top_p=top_p)

    decoded = decode(
        model,
        tokenizer,
        [prompt for prompt in prompts for _ in range(samples)],
        max_new_tokens=max_new_tokens,
        stops=None if stops is None else [stop for stop in stops for _ in range(samples)],
        batch_size=batch_size,
        noise=noise,
        progress=progress,
    )
    return [decoded[start : start + samples] for start in range(0, len(decoded), samples)]


def evaluate_pass(
    model: Any,
    tokenizer: Any,
    evalset: EvalSet,
    *,
    ks: Sequence[int] = (1, 4, 16),
    samples: int = 16,
    temperature: float = 0.7,
    seed: int = 0,
    batch_size: int = 64,
    max_new_tokens: int | None = None,
    progress: Progress | None = None,
) -> PassResult:
    """pass@k of a set: a sample of a worked solution is right when it is verified, any other when its answer is.

    ``pass@k = mean over examples of 1 - C(n - c, k) / C(n, k)``, n = ``samples``, c of them right.

    Raises:
        ConfigError: some k is not from 1 to ``samples``.
        DataError: the set holds documents, or nothing.
    """
    if not ks or not all(1 <= k <= samples for k in ks):
        raise ConfigError("each k must be from 1 to the number of samples", where="ks", got=f"{ks} of {samples}")
    if evalset.scoring == "text" or not evalset.rows:
        raise DataError("pass@k needs rows with answers", where=evalset.name, got=evalset.source)
    limit = answer_limit(evalset, tokenizer, max_new_tokens)
    found = sample(
        model,
        tokenizer,
        [row["prompt"] for row in evalset.rows],
        samples=samples,
        temperature=temperature,
        seed=seed,
        max_new_tokens=limit,
        stops=[row["stop"] for row in evalset.rows],
        batch_size=batch_size,
        progress=progress,
    )
    right = []
    for row, texts in zip(evalset.rows, found, strict=True):
        verdicts = [judge(one.text, row, evalset.scoring) for one in texts]
        right.append(int(sum(verdict.measures.get("verified", float(verdict.correct)) for verdict in verdicts)))
    per_example = {f"pass@{k}": [pass_at_k(samples, c, k) for c in right] for k in ks}
    return PassResult(
        measures={name: float(np.mean(values)) for name, values in per_example.items()},
        per_example=per_example,
        right=right,
        settings={
            "scoring": evalset.scoring,
            "source": evalset.source,
            "samples": samples,
            "temperature": temperature,
            "seed": seed,
            "max_new_tokens": limit,
            "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        },
    )


class Draws(LogitsProcessor):
    """Logits over temperature plus Gumbel noise, so that the largest is a draw; one generator a row, seeded by its key.

    ``top_k`` and ``top_p`` leave the k likeliest tokens, or the likeliest that hold the probability p together.
    """

    def __init__(
        self, keys: Sequence[bytes], temperature: float, *, top_k: int | None = None, top_p: float | None = None
    ) -> None:
        seeds = [int.from_bytes(hashlib.sha256(key).digest()[:16]) for key in keys]
        self.generators = [np.random.default_rng(seed) for seed in seeds]
        self.temperature = temperature
        self.warpers: list[LogitsProcessor] = []
        if top_k:
            self.warpers.append(TopKLogitsWarper(top_k))
        if top_p is not None and top_p < 1:
            self.warpers.append(TopPLogitsWarper(top_p))

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        V = scores.shape[1]
        noise = np.stack([generator.gumbel(size=V) for generator in self.generators]).astype(np.float32)
        scores = scores.float() / self.temperature  # type: ignore[assignment]
        for warper in self.warpers:
            scores = warper(input_ids, scores)
        return scores + torch.from_numpy(noise).to(scores.device)  # type: ignore[return-value]
