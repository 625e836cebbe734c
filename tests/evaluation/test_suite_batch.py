"""In float32 the batch size changes no prediction, no decision, and no likelihood beyond rounding."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from infosteer.evaluation import EvalSet, SetResult, load_set
from infosteer.evaluation.engines import TransformersEngine
from infosteer.evaluation.evaluate import evaluate_with
from infosteer.evaluation.tasks import load_task
from infosteer.training.loading import load_model, load_tokenizer

from .suite_inputs import write_data

DATA = Path(os.environ.get("INFOSTEER_DATA", Path(__file__).resolve().parents[3] / "shared" / "data")) / "llm-adapters"


@pytest.fixture(scope="module")
def engine() -> TransformersEngine:
    return TransformersEngine(load_model("embedded").eval(), load_tokenizer("embedded"))


def by_batch_size(engine: TransformersEngine, sets: list[EvalSet]) -> list[dict[str, SetResult]]:
    return [evaluate_with(engine, sets, batch_size=size, max_new_tokens=12) for size in (1, 3, 64)]


def check(found: list[dict[str, SetResult]]) -> None:
    first, *others = found
    for other in others:
        for name, result in first.items():
            assert [row["prediction"] for row in result.rows] == [row["prediction"] for row in other[name].rows], name
            assert result.failures == other[name].failures
            for measure, scores in result.per_example.items():
                loose = measure in ("answer_nll", "calibration_error")
                np.testing.assert_allclose(
                    scores, other[name].per_example[measure], rtol=0, atol=1e-5 if loose else 0, err_msg=measure
                )


def test_rows_of_the_suites_kind(engine: TransformersEngine, tmp_path: Path) -> None:
    data = write_data(tmp_path, boolq=7, gsm8k=5)
    sets = [load_task("boolq", data=data), load_task("gsm8k", data=data), load_set("lab", "lab:facts/recall", limit=7)]
    found = by_batch_size(engine, sets)
    assert len({row["prediction"] for row in found[0]["lab"].rows}) > 1, "the model says something"
    check(found)


def test_likelihoods_of_all_options(engine: TransformersEngine, tmp_path: Path) -> None:
    rows = load_task("boolq", data=write_data(tmp_path)).rows
    parts = [[row[key] for row in rows] for key in ("prompt", "options", "lead")]
    first, *others = [engine.score_options(parts[0], parts[1], leads=parts[2], batch_size=size) for size in (1, 3, 64)]
    for other in others:
        for left, right in zip(first, other, strict=True):
            np.testing.assert_allclose(left.total, right.total, rtol=0, atol=1e-5 * left.tokens.max())
            assert left.total.argmax() == right.total.argmax()


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason="the data folder is not here")
def test_published_rows(engine: TransformersEngine) -> None:
    check(by_batch_size(engine, [load_task(name, data=DATA, limit=5) for name in ("piqa", "aqua")]))
