"""What lm-eval calls when it reads our task files; loaded by lm-eval itself, from its place beside them.

Rows come from our own loader. Its settings are passed as metadata under one key, so that they cannot be mistaken for a
model's: ``--metadata '{"infosteer": {"data": "DIR"}}'``, with ``template``, ``skip_bad_rows``, ``shots`` and ``seed``
beside ``data`` if wanted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset
from lm_eval.api.samplers import ContextSampler

from infosteer.core.config import check_keys
from infosteer.evaluation.extract import judge
from infosteer.evaluation.tasks.load import example_pool, load_task

_SETTINGS = ("data", "template", "skip_bad_rows", "shots", "seed")


def dataset(*, task: str, infosteer: Mapping[str, Any] | None = None, **_facts: Any) -> dict[str, Dataset]:
    """The test rows of a task, and where its worked examples come from.

    Raises:
        ConfigError, DataError: as ``load_task``.
    """
    settings = dict(infosteer or {})
    check_keys(settings, _SETTINGS, "metadata.infosteer")
    found = load_task(task, **settings)
    rows = [{"aliases": [], **row, "scoring": found.scoring} for row in found.rows]
    pool = {key: value for key, value in settings.items() if key not in ("shots", "seed")}
    # Training splits are many times larger than test files, and lm-eval reads them whether it uses them or not.
    return {"test": Dataset.from_list(rows), "train": Dataset.from_list([{"task": task, "settings": json.dumps(pool)}])}


class Shots(ContextSampler):
    """lm-eval's sampler over the training rows of a task, read when the first example is asked for."""

    df: Sequence[dict[str, Any]]
    _loaded: bool

    def fewshot_docs(self) -> Sequence[dict[str, Any]]:
        """Training rows that ask no test question."""
        if not self._loaded:
            (wanted,) = self.df
            self.df = example_pool(wanted["task"], **json.loads(wanted["settings"]))
            self._loaded = True
        return list(self.df)


def completion(row: Mapping[str, Any]) -> str:
    """What stands behind the prompt of a worked example."""
    return str(row["completion"])


def score(row: Mapping[str, Any], predictions: Sequence[str]) -> dict[str, float]:
    """Our measures of one decoded answer, by both rules."""
    verdict = judge(predictions[0], row, row["scoring"])
    assert verdict.strict is not None  # every scoring of a task has two rules
    return {
        "exact_match": float(verdict.correct),
        "strict_match": float(verdict.strict.correct),
        "no_answer": float(verdict.extracted is None),
        "no_answer_strict": float(verdict.strict.extracted is None),
    }
