"""Knowledge entropy against explicit float64 averages, on made-up rows and through a model."""

from __future__ import annotations

import math

import pytest
import torch
from probed import batch, coefficients, entropy, llama, read

import infosteer
from infosteer.core.usage import memory_usage
from infosteer.errors import ConfigError
from infosteer.methods.probes.knowledge_entropy import KnowledgeEntropy, KnowledgeEntropyObserver, knowledge_entropy


def test_knowledge_entropy_is_that_of_the_average_and_not_the_average() -> None:
    """Sharp tokens that use different memories: high here, 0 by token."""
    observer = KnowledgeEntropyObserver()
    observer.begin(torch.arange(8)[None])
    observer.see(0, torch.eye(8) * torch.linspace(-1, 1, 8)[:, None].sign() * 3, None)
    found = observer.metrics()
    assert found["total"] == pytest.approx(math.log(8), abs=1e-12)
    assert found["effective_fraction"] == pytest.approx(1.0)
    assert found["token_entropy"] == pytest.approx(0.0, abs=1e-6)


def test_knowledge_entropy_probe() -> None:
    model = llama()
    found = read(model, KnowledgeEntropy(scope="always"))
    kept = batch()["attention_mask"].double()
    total, single, fraction = 0.0, 0.0, 0.0
    for layer, k in enumerate(coefficients(model, batch())):
        means = (k.abs() * kept[..., None]).sum(1) / kept.sum(1, keepdim=True)  # by sequence
        value = float(entropy(means.mean(0)))
        assert found[f"nats/layer_{layer}"] == pytest.approx(value, abs=1e-9)
        total, fraction = total + value, fraction + math.exp(value) / 48 / 3
        single += float(entropy(k.abs())[kept != 0].mean()) / 3
    assert found["total"] == pytest.approx(total, abs=1e-9)
    assert found["normalised"] == pytest.approx(total / 3 / math.log(48), abs=1e-9)
    assert found["effective_fraction"] == pytest.approx(fraction, abs=1e-9)
    assert found["token_entropy"] == pytest.approx(single, rel=1e-5)
    use = memory_usage(model, infosteer.locate(model), [batch()])
    assert knowledge_entropy(use).total == pytest.approx(total, abs=1e-9)


def test_knowledge_entropy_over_batches_equals_one_batch() -> None:
    inputs = batch()
    rows = torch.randn(4, 9, 16)
    whole, parts = KnowledgeEntropyObserver(), KnowledgeEntropyObserver()
    mask = inputs["attention_mask"].float()
    whole.begin(inputs["input_ids"])
    whole.see(2, rows.reshape(-1, 16), mask.reshape(-1))
    for i in range(4):
        parts.begin(inputs["input_ids"][i : i + 1])
        parts.see(2, rows[i], mask[i])
    assert parts.metrics() == pytest.approx(whole.metrics(), rel=1e-12, abs=1e-12)


def test_knowledge_entropy_refuses_what_is_no_average() -> None:
    for bad in ({}, {0: torch.tensor([1.0, -1.0])}, {0: torch.tensor([1.0, math.nan])}, {0: torch.ones(2, 2)}):
        with pytest.raises(ConfigError):
            knowledge_entropy(bad)
