"""The whole evaluation: measures, failures, samples; on a taught model, on random ones, and on real rows."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from infosteer.errors import ConfigError, DataError, InfoSteerError
from infosteer.evaluation import EvalSet, analyse, evaluate, load_set, metrics, per_example

from .conftest import CORPUS, TAUGHT, tiny

DATA = Path(os.environ.get("INFOSTEER_DATA", Path(__file__).parents[3] / "shared" / "data"))
TASKS = DATA / "llm-adapters"
needs_data = pytest.mark.skipif(not TASKS.is_dir(), reason="the data folder is absent (set INFOSTEER_DATA)")

ANSWERS = [answer.strip().removesuffix(".") for answer in TAUGHT.values()]


def row(prompt: str, answer: str, **more: object) -> dict:
    return {"prompt": prompt, "answer": answer, "options": None, "stop": [], "lead": " "} | more


def taught_set(name: str = "taught", **more: object) -> EvalSet:
    rows = [row(prompt, answer, **more) for prompt, answer in zip(TAUGHT, ANSWERS, strict=True)]
    return EvalSet(name=name, rows=rows)


def test_a_model_that_knows_its_answers(taught_model, tokenizer) -> None:
    others = EvalSet(name="others", rows=[row(prompt, "Carl", options=["Carl", "Ann Lee"]) for prompt in TAUGHT])
    results = evaluate(taught_model, tokenizer, [taught_set(options=ANSWERS), others])
    found = results["taught"]
    assert found.n == 4
    assert found.measures["exact_match"] == found.measures["option_accuracy"] == 1.0
    assert found.measures["answer_nll"] < 0.2
    assert found.failures == {"no_answer": 0, "unfinished": 0, "too_long": 0}
    assert results["others"].measures["exact_match"] == 0.0
    assert results["others"].measures["answer_nll"] > 2.0
    for result in results.values():
        for name, values in result.per_example.items():
            assert len(values) == (1 if name == "calibration_error" else 4)
            assert np.mean(values) == pytest.approx(result.measures[name])
    assert sorted(metrics(results)) == [
        f"{name}/{measure}"
        for name in ("others", "taught")
        for measure in ("answer_nll", "calibration_error", "exact_match", "option_accuracy", "option_accuracy_norm")
    ]
    assert per_example(results)["taught/exact_match"] == [1.0] * 4
    assert found.settings["max_new_tokens"] == 8 + max(
        len(tokenizer(" " + a, add_special_tokens=False)["input_ids"]) for a in ANSWERS
    )
    assert {"scoring", "source", "batch_size", "dtype", "decoding"} <= set(found.settings)
    assert [sample["correct"] for sample in found.samples] == [True] * 4


def test_answer_nll_is_the_mean_over_tokens_of_a_plain_forward(taught_model, tokenizer) -> None:
    found = evaluate(taught_model, tokenizer, [taught_set()])["taught"].per_example["answer_nll"]
    for (prompt, _), answer, value in zip(TAUGHT.items(), ANSWERS, found, strict=True):
        start = len(tokenizer(prompt)["input_ids"])
        ids = torch.tensor([tokenizer(f"{prompt} {answer}")["input_ids"]])
        labels = ids.clone()
        labels[:, :start] = -100
        with torch.no_grad():
            assert value == pytest.approx(float(taught_model(ids, labels=labels).loss), rel=1e-3, abs=1e-5)


def test_the_batch_size_changes_nothing_in_fp32(random_model, tokenizer) -> None:
    rows = [row(line[:cut], "fox", options=["fox", "dog over"]) for line in CORPUS for cut in (5, 20, 60)]
    sets = [EvalSet(name="q", rows=rows), EvalSet(name="t", rows=[{"text": t} for t in CORPUS], scoring="text")]
    one, many = (evaluate(random_model, tokenizer, sets, batch_size=size) for size in (1, 64))
    for name in one:
        assert one[name].samples == many[name].samples
        assert one[name].failures == many[name].failures
        for measure, values in one[name].per_example.items():
            np.testing.assert_allclose(values, many[name].per_example[measure], rtol=1e-4, atol=1e-5)


def test_failures_are_counted_and_not_scored(random_model, tokenizer) -> None:
    numbers = EvalSet(name="n", rows=[row("the", "3")] * 3, scoring="number")
    found = evaluate(random_model, tokenizer, [numbers], max_new_tokens=1)["n"]
    assert found.failures["no_answer"] + found.failures["unfinished"] > 0
    assert found.settings["max_new_tokens"] == 1
    assert (
        evaluate(random_model, tokenizer, [EvalSet(name="n", rows=numbers.rows[:1], scoring="number")])["n"].settings[
            "max_new_tokens"
        ]
        == 256
    )


def test_prompts_beyond_the_context_are_counted_and_said(
    taught_model, tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    whole = taught_set(options=ANSWERS)
    long = row("word " * 10_000, "Ann Lee", options=ANSWERS)  # 50 kB
    found = evaluate(taught_model, tokenizer, [EvalSet(name="q", rows=[*whole.rows, long])])["q"]
    assert found.failures["too_long"] == 1
    assert "1 of 5 examples are longer than the model's context of 128 tokens" in caplog.text
    assert found.per_example["exact_match"] == [1.0, 1.0, 1.0, 1.0, 0.0]
    assert math.isnan(found.per_example["answer_nll"][4])
    assert math.isnan(found.per_example["option_accuracy"][4])
    assert found.measures["answer_nll"] == pytest.approx(np.mean(found.per_example["answer_nll"][:4]))
    with pytest.raises(DataError, match="within 128 tokens"):
        evaluate(taught_model, tokenizer, [EvalSet(name="q", rows=[long, long])])


def test_documents(random_model, tokenizer) -> None:
    texts = [*CORPUS, "\u202e\x00 caf\u00e9"]
    found = evaluate(random_model, tokenizer, [EvalSet(name="t", rows=[{"text": t} for t in texts], scoring="text")])[
        "t"
    ]
    assert set(found.measures) == {"nll", "bits_per_byte"}
    tokens, size = found.settings["tokens"], sum(len(text.encode()) for text in texts)
    assert found.settings["bytes"] == size
    assert found.measures["bits_per_byte"] == pytest.approx(found.measures["nll"] / math.log(2) * tokens / size)
    for name, values in found.per_example.items():
        assert np.mean(values) == pytest.approx(found.measures[name])


def test_progress_reaches_its_total_and_samples_depend_on_the_seed(random_model, tokenizer) -> None:
    rows = [row(f"{line[:9]} {number}", "fox") for line in CORPUS for number in range(3)]
    seen: list[tuple[str, int, int]] = []
    evalset = EvalSet(name="q", rows=rows)
    one = evaluate(random_model, tokenizer, [evalset], batch_size=4, progress=lambda *step: seen.append(step))["q"]
    for what in ("q: likelihoods", "q: decoding"):
        steps = [done for label, done, total in seen if label == what and total == len(rows)]
        assert steps == sorted(steps)
        assert steps[-1] == len(rows)
    assert len(one.samples) == 5
    two = evaluate(random_model, tokenizer, [evalset], batch_size=4, seed=1)["q"]
    assert two.samples != one.samples
    assert two.per_example == one.per_example


def test_training_goes_on_after_an_evaluation(tokenizer) -> None:
    """The same two steps with and without an evaluation between them give the same weights, bit for bit."""
    ids = torch.tensor([tokenizer(CORPUS[0])["input_ids"]])

    def weights(between: bool) -> list[torch.Tensor]:
        model = tiny("gpt2", len(tokenizer)).train()  # has dropout
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        torch.manual_seed(3)
        for _ in range(2):
            model(ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if between:
                evaluate(model, tokenizer, [taught_set(options=ANSWERS)])
                assert model.training
        return [parameter.detach() for parameter in model.parameters()]

    assert all(torch.equal(a, b) for a, b in zip(weights(False), weights(True), strict=True))


@pytest.mark.parametrize(
    ("sets", "options", "error", "message"),
    [
        ([EvalSet(name="e", rows=[])], {}, DataError, "empty"),
        ([taught_set("a"), taught_set("a")], {}, ConfigError, "same name"),
        ([taught_set()], {"batch_size": 0}, ConfigError, "batch_size"),
        ([taught_set()], {"max_new_tokens": -1}, ConfigError, "max_new_tokens"),
    ],
)
def test_what_cannot_be_evaluated(sets, options, error, message, random_model, tokenizer) -> None:
    with pytest.raises(error, match=message):
        evaluate(random_model, tokenizer, sets, **options)


def test_a_broken_model_gets_no_scores(tokenizer) -> None:
    model = tiny("llama", len(tokenizer))
    torch.nn.init.constant_(model.model.norm.weight, math.nan)
    for evalset in (taught_set(), EvalSet(name="t", rows=[{"text": "fox"}], scoring="text")):
        with pytest.raises(InfoSteerError, match="not finite"):
            evaluate(model, tokenizer, [evalset])


def test_records_of_a_small_study() -> None:
    rng = np.random.default_rng(0)

    def scores(shift: float, seeds: tuple[int, ...] = (1, 2, 3)) -> dict:
        return {
            seed: {
                "id/exact_match": (rng.random(80) < 0.6 + shift).astype(float).tolist(),
                "id/answer_nll": rng.normal(1.0 - shift, 0.1, 80).tolist(),
                "train/loss": [0.5 - shift + 0.01 * seed],
            }
            for seed in seeds
        }

    study = {
        "other": scores(0.3),
        "plain": scores(0.0),
        "single": scores(0.0, (2,)),
        "apart": scores(0.0, (9,)),
        "none": {},
    }
    found = analyse(study, resamples=500)
    assert list(found["summary"][0]) == ["arm", "metric", "mean", "low", "high", "n", "interval"]
    keys = ["arm", "baseline", "metric", "difference", "low", "high", "p_value", "test", "n", "detectable"]
    assert all(list(record) == keys for record in found["comparisons"])
    assert {record["arm"] for record in found["summary"]} == {"other", "plain", "single", "apart"}
    assert {(record["arm"], record["baseline"]) for record in found["comparisons"]} == {
        ("other", "plain"),
        ("single", "plain"),
    }
    by = {(record["arm"], record["metric"]): record for record in found["comparisons"]}
    assert by["other", "id/exact_match"]["difference"] == pytest.approx(0.3, abs=0.1)
    assert by["other", "id/exact_match"]["p_value"] < 0.01
    assert by["other", "id/answer_nll"]["high"] < 0
    assert by["single", "id/exact_match"]["p_value"] > 0.01
    assert by["single", "id/exact_match"]["test"] == "mcnemar"
    assert by["single", "id/answer_nll"]["test"] == "sign_flip"
    assert by["other", "id/exact_match"]["test"] == "two_way_t"
    assert {r["interval"] for r in found["summary"] if r["metric"] == "id/exact_match"} == {"bootstrap", "wilson"}
    assert [record["n"] for record in found["summary"] if record["arm"] == "single"] == [1, 1, 1]
    notes = "\n".join(note["note"] for note in found["notes"])
    assert "single: one seed" in notes
    assert "apart: no seed in common with plain" in notes
    assert analyse(study, resamples=500) == found
    for record in found["summary"]:
        assert record["low"] <= record["mean"] <= record["high"]
        if record["metric"] == "id/exact_match":
            assert 0 <= record["low"] <= record["high"] <= 1
    assert {r["baseline"] for r in analyse(study, baseline="other", resamples=50)["comparisons"]} == {"other"}
    with pytest.raises(ConfigError, match="not one of the arms"):
        analyse(study, baseline="plian")
    assert analyse({}) == {"summary": [], "comparisons": [], "notes": []}


@needs_data
@pytest.mark.data
@pytest.mark.parametrize(
    ("task", "scoring", "measures"),
    [("ARC-Easy", "option", 4), ("openbookqa", "option", 4), ("SVAMP", "number", 2), ("AQuA", "option", 4)],
)
def test_real_rows(task: str, scoring: str, measures: int, tokenizer) -> None:
    model = tiny("llama", len(tokenizer), positions=1024)
    evalset = load_set(task, TASKS / task, limit=6)
    assert evalset.scoring == scoring
    found = evaluate(model, tokenizer, [evalset], max_new_tokens=4)[task]
    assert len(found.measures) == measures + 2  # the strict rule, the calibration error
    assert all(math.isfinite(value) for value in found.measures.values())
    assert found.failures["too_long"] == 0
