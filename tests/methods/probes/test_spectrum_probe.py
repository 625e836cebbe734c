"""Spectrum Tuning's measures against sums by hand, enumeration and simulation."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from transformers import LlamaConfig, LlamaForCausalLM

import infosteer
from infosteer.errors import ConfigError, DataError
from infosteer.evaluation.distributions import alignment, answer_distribution, sampled_coverage, steerability
from infosteer.methods.probes.spectrum import Steerability, coverage, divergence, pairwise_uniqueness
from infosteer.methods.probes.spectrum.method import outputs
from infosteer.training.loading import load_tokenizer
from infosteer.training.segments import segment_tokens

V = 40


def llama(**changes: Any) -> LlamaForCausalLM:
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    config = LlamaConfig(**{**shape, "num_key_value_heads": 2, "vocab_size": V, **changes})
    config.initializer_range = 0.3
    return LlamaForCausalLM(config)


def test_divergence_is_the_square_of_scipys_distance() -> None:
    draw = np.random.default_rng(0)
    for size in (2, 5, 9):
        p, q = draw.dirichlet(np.ones(size)), draw.dirichlet(np.ones(size))
        assert divergence(p.tolist(), (3 * q).tolist()) == pytest.approx(jensenshannon(p, q) ** 2, rel=1e-9)
        assert divergence(p.tolist(), p.tolist()) == pytest.approx(0, abs=1e-15)
    assert divergence([1, 0], [0, 1]) == pytest.approx(math.log(2))
    for p, q in ([[0, 0], [1, 1]], [[1, 1], [1, 1, 1]], [[-1, 2], [1, 1]], [[math.nan, 1], [1, 1]]):
        with pytest.raises(ConfigError):
            divergence(p, q)


def test_coverage_by_hand() -> None:
    found = coverage(["a", "a", "b", "c", "?", "?"], [True, True, True, True, False, False])
    assert (found.valid, found.distinct, found.number) == (4 / 6, 3 / 4, 3)
    pairs = list(itertools.combinations(["a", "a", "b", "c"], 2))
    assert found.uniqueness == pytest.approx(sum(x != y for x, y in pairs) / len(pairs))
    none = coverage(["?"], [False])
    assert (none.valid, none.distinct, none.number) == (0, 0, 0)
    assert math.isnan(none.uniqueness)
    for samples, valid in (([], []), (["a"], [])):
        with pytest.raises(ConfigError):
            coverage(samples, valid)


def test_uniqueness_estimates_one_minus_the_collision_probability() -> None:
    p = np.array([0.5, 0.3, 0.2])
    draw = np.random.default_rng(1)
    found = [pairwise_uniqueness(draw.choice(3, 6, p=p).tolist()) for _ in range(20_000)]
    assert np.mean(found) == pytest.approx(1 - (p**2).sum(), abs=4 * np.std(found) / math.sqrt(len(found)))


def test_outputs_are_runs() -> None:
    counted = torch.tensor([[0, 1, 1, 0, 1, 0, 1], [1, 1, 0, 0, 0, 0, 1]]).bool()
    place, number = outputs(counted)
    assert place.tolist() == [[-1, 0, 0, -1, 1, -1, 2], [0, 0, -1, -1, -1, -1, 1]]
    assert number.tolist() == [[-1, 0, 0, -1, 1, -1, 2], [3, 3, -1, -1, -1, -1, 4]]


def test_in_a_session_it_is_the_sum_over_outputs() -> None:
    ids = torch.randint(1, V, (3, 12), generator=torch.Generator().manual_seed(2))
    learnt = torch.tensor(
        [
            [0, 0, 1, 1, 0, 1, 0, 1, 1, 1, 0, 0],
            [0, 1, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0],
            [0, 0, 0, 1, 1, 1, 1, 1, 1, 0, 0, 0],
        ]
    ).bool()
    mask = torch.ones_like(ids)
    mask[1, 8:], mask[2, 10:] = 0, 0
    model = llama().train()
    batch = {"input_ids": ids, "attention_mask": mask, "labels": torch.where(learnt, ids, -100)}
    with torch.no_grad():
        p = model(input_ids=ids, attention_mask=mask, use_cache=False).logits.double().log_softmax(-1)
        spans = [[(0, 2, 4), (0, 5, 6), (0, 7, 10)], [(1, 1, 2), (1, 4, 6)], [(2, 3, 9)]]
        nll = [[-sum(float(p[b, t - 1, ids[b, t]]) for t in range(a, e)) for b, a, e in row] for row in spans]
        right = [[all(int(p[b, t - 1].argmax()) == ids[b, t] for t in range(a, e)) for b, a, e in row] for row in spans]
    with infosteer.steer(model, [Steerability(every=1)]) as session:
        session.loss(model(**batch, use_cache=False).loss).backward()
        found = {key.removeprefix("infosteer/spectrum/"): value for key, value in session.metrics().items()}
    later = [x for row in nll for x in row[1:]]
    assert found["nll_first"] == pytest.approx(sum(row[0] for row in nll) / 3, rel=1e-5)
    assert found["nll_geq_1"] == pytest.approx(sum(later) / 3, rel=1e-5)
    gains = [row[0] - sum(row[1:]) / len(row[1:]) for row in nll if len(row) > 1]
    assert found["gain"] == pytest.approx(sum(gains) / 2, rel=1e-5)
    assert found["accuracy_first"] == pytest.approx(sum(row[0] for row in right) / 3)
    assert found["outputs"] == 6


def test_rows_of_one_output_have_no_gain_and_nothing_seen_gives_nothing() -> None:
    model = llama().train()
    ids = torch.randint(1, V, (2, 6))
    with infosteer.steer(model, [Steerability(every=1)]) as session:
        assert not [key for key in session.metrics() if "spectrum" in key]
        session.loss(model(input_ids=ids, labels=ids, use_cache=False).loss).backward()
        found = session.metrics()
    assert "infosteer/spectrum/nll_first" in found
    assert "infosteer/spectrum/gain" not in found
    assert "infosteer/spectrum/nll_geq_1" not in found


def segments(*parts: tuple[str, bool]) -> dict[str, Any]:
    return {"segments": [{"text": text, "loss": loss} for text, loss in parts]}


@pytest.fixture(scope="module")
def small() -> tuple[Any, Any]:
    tokenizer = load_tokenizer("embedded")
    return llama(vocab_size=len(tokenizer), max_position_embeddings=64).eval(), tokenizer


def test_steerability_of_sequences_by_hand(small: tuple[Any, Any]) -> None:
    model, tokenizer = small
    rows = [
        segments(("A", False), (" one.", True), (" B", False), (" two", True)),
        segments(("x", False), (" y", True)),
    ]
    for row, found in zip(rows, steerability(model, tokenizer, rows), strict=True):
        ids, learnt = segment_tokens(row, tokenizer)
        with torch.no_grad():
            p = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
        wanted, before = [], False
        for t, one in enumerate(learnt):
            if one:
                wanted = wanted if before else [*wanted, 0.0]
                wanted[-1] -= float(p[t - 1, ids[t]])
            before = one
        assert found.nll == pytest.approx(wanted, rel=1e-5)
        assert len(found.right) == len(wanted)
    assert found.geq(0)[0] == pytest.approx(wanted[0], rel=1e-5)
    assert math.isnan(found.geq(1)[0])
    for bad in (segments(("x", False)), segments(("word " * 80, True))):
        with pytest.raises(DataError, match="cannot be read"):
            steerability(model, tokenizer, [bad])


def test_alignment_renormalises_over_the_answers(small: tuple[Any, Any]) -> None:
    model, tokenizer = small
    prompt, answers = "Pick:", [" one", " two", " three"]
    (found,) = answer_distribution(model, tokenizer, [prompt], [answers], end=".")
    start = len(tokenizer(prompt)["input_ids"])
    totals = []
    for answer in answers:
        ids = tokenizer(prompt + answer + ".")["input_ids"]
        with torch.no_grad():
            p = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
        totals.append(sum(float(p[t - 1, ids[t]]) for t in range(start, len(ids))))
    assert found == pytest.approx(torch.tensor(totals).softmax(-1).tolist(), rel=1e-3)
    target = dict(zip(answers, (1.0, 2.0, 1.0), strict=True))
    (js,) = alignment(model, tokenizer, [prompt], [target], end=".")
    assert js == pytest.approx(jensenshannon(found, [0.25, 0.5, 0.25]) ** 2, rel=1e-6)
    with pytest.raises(ConfigError, match="target"):
        alignment(model, tokenizer, [prompt], [])


def test_samples_are_judged_prompt_by_prompt(small: tuple[Any, Any]) -> None:
    model, tokenizer = small
    asked: list[int] = []

    def valid(number: int, text: str) -> bool:
        asked.append(number)
        return text == text.strip()

    found = sampled_coverage(model, tokenizer, ["A", "B"], valid, samples=4, max_new_tokens=3)
    assert len(found) == 2
    assert set(asked) <= {0, 1}
    assert all(one.number <= 4 and 0 <= one.valid <= 1 for one in found)


def test_the_probes_folder_needs_no_evaluation() -> None:
    folder = Path(infosteer.method_info("probes/spectrum").folder)
    assert not any(
        "infosteer.evaluation" in line for file in folder.glob("*.py") for line in file.read_text().splitlines()
    )
