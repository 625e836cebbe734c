"""Calibration text: what a method looks at before training, as batches that the model takes; and batches of the task
itself, for methods that ask for its loss."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from infosteer.errors import ConfigError

Calibration = Sequence[str] | Iterable[Mapping[str, Any]]
TaskBatches = Iterable[Mapping[str, Any]] | Callable[[int], Iterable[Mapping[str, Any]]]
TASK_INPUTS = ("input_ids", "attention_mask", "position_ids", "labels")

BATCH_TEXTS = 16
MAX_TOKENS = 512  # of each text; averages over tokens need no more


def as_batches(calibration: Calibration, tokenizer: Any = None) -> list[Mapping[str, Any]]:
    """Texts or batches as batches of ``input_ids`` and ``attention_mask``, padded on the right.

    Raises:
        ConfigError: nothing in it, texts without a tokenizer, or things that are neither.
    """
    items: list[Any] = [] if isinstance(calibration, (str, Mapping)) else list(calibration)
    if not items:
        raise ConfigError(
            "calibration is not a list of texts or batches", where="calibration", got=type(calibration).__name__
        )
    if all(isinstance(item, Mapping) and "input_ids" in item for item in items):
        return items
    if not all(isinstance(item, str) and item for item in items):
        raise ConfigError(
            "calibration holds things that are neither texts nor batches of input_ids",
            where="calibration",
            got=sorted({type(item).__name__ for item in items}),
            expected="non-empty texts, or mappings with input_ids",
        )
    if tokenizer is None:
        raise ConfigError("texts need a tokenizer", where="calibration", fix="pass tokenizer=, or batches of input_ids")
    # longest first, so that texts of one length share a batch and little is padded
    rows = sorted((list(tokenizer(text)["input_ids"])[:MAX_TOKENS] for text in items), key=len, reverse=True)
    return [_pad(rows[start : start + BATCH_TEXTS]) for start in range(0, len(rows), BATCH_TEXTS)]


def take_batches(task: TaskBatches | None, count: int) -> list[dict[str, Any]]:
    """At most ``count`` batches of the training task, each with the inputs of ``TASK_INPUTS`` that it has.

    Raises:
        ConfigError: no task, or batches without ``input_ids`` and ``labels``.
    """
    if task is None:
        raise ConfigError(
            "a method needs batches of the training task",
            where="task",
            expected="mappings with input_ids and labels",
            fix="pass task= to steer; infosteer.attach takes them from the trainer's rows",
        )
    found = list(itertools.islice(task(count) if callable(task) else task, count))
    if not found or not all(isinstance(batch, Mapping) and {"input_ids", "labels"} <= set(batch) for batch in found):
        raise ConfigError(
            "a batch of the training task lacks tokens or labels",
            where="task",
            got=sorted({str(key) for batch in found if isinstance(batch, Mapping) for key in batch}) or "no batches",
            expected="input_ids and labels, as supervised fine-tuning has them",
        )
    return [{name: batch[name] for name in TASK_INPUTS if batch.get(name) is not None} for batch in found]


def _pad(rows: Sequence[list[int]]) -> dict[str, list[list[int]]]:
    length = max(map(len, rows))
    return {
        "input_ids": [row + [0] * (length - len(row)) for row in rows],
        "attention_mask": [[1] * len(row) + [0] * (length - len(row)) for row in rows],
    }
