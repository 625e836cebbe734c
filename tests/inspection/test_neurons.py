"""Entropy neurons against the definition in numpy, and planted ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tiny_models import tiny

from infosteer.errors import ArchitectureError, ConfigError
from infosteer.inspection import neurons
from infosteer.inspection.neurons import cosine_variance, entropy_neurons, overlap


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "gemma2", "opt"])
def test_the_definition(model_type: str) -> None:
    model = tiny(model_type)
    down = model.get_submodule(
        {"gpt2": "transformer.h.1.mlp.c_proj", "opt": "model.decoder.layers.1.fc2"}.get(
            model_type, "model.layers.1.mlp.down_proj"
        )
    )
    w = down.weight.detach().double().numpy()
    w = w if model_type == "gpt2" else w.T
    u = model.get_output_embeddings().weight.detach().double().numpy()
    norms = np.linalg.norm(w, axis=1)
    longest = np.argsort(-norms)[:12]
    cosines = (w @ u.T) / norms[:, None] / np.linalg.norm(u, axis=1)
    order = longest[np.argsort(cosines[longest].var(axis=1))][:5]
    found = entropy_neurons(model, count=5)
    assert found.indices == tuple(order.tolist())
    np.testing.assert_allclose(found.norms, norms[order])
    np.testing.assert_allclose(found.log_variances, np.log(cosines[order].var(axis=1)))
    assert found.ratios == pytest.approx(tuple(norms[order] / np.log(cosines[order].var(axis=1))))
    assert (found.layer, found.candidates) == (1, 12)


def test_a_planted_neuron_is_found_and_compared() -> None:
    model = tiny("llama")
    with torch.no_grad():
        head = model.lm_head.weight
        head[:, 0] = head.norm(dim=1) / 8  # every word has the same part along axis 0 ...
        head.div_(head.norm(dim=1, keepdim=True))
        head[:, 0] = 0.3
        head[:, 1:] *= (1 - 0.3**2) ** 0.5 / head[:, 1:].norm(dim=1, keepdim=True)
        values = model.model.layers[1].mlp.down_proj.weight
        values[:, 17] = 0
        values[0, 17] = 50  # ... which this memory writes along
    found = entropy_neurons(model, count=3)
    assert found.indices[0] == 17
    assert found.log_variances[0] < -25
    other = tiny("llama", seed=4)
    same = overlap(found, found)
    assert (same["iou"], same["ratio_a"]) == (1, same["ratio_b"])
    assert overlap(found, entropy_neurons(other, count=3))["iou"] < 1
    assert same["iou_chance"] == pytest.approx((9 / 12) / (6 - 9 / 12))
    with pytest.raises(ConfigError, match="other layers"):
        overlap(found, entropy_neurons(model, layer=0, count=3))


def test_blocks_of_the_vocabulary_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, head = torch.randn(6, 8) + 3, torch.randn(50, 8) + 2
    head[7] = 0
    kept = head[head.norm(dim=1) > 0].double()
    cosines = (vectors.double() @ kept.T) / vectors.double().norm(dim=1)[:, None] / kept.norm(dim=1)
    for size in (1 << 24, 64):
        monkeypatch.setattr(neurons, "_CHUNK_ELEMENTS", size)
        assert torch.allclose(cosine_variance(vectors, head), cosines.var(dim=1, correction=0), rtol=1e-9)


def test_hostile_input() -> None:
    model = tiny("llama")
    for settings in ({"layer": 2}, {"share": 0.0}, {"share": 2.0}, {"count": 0}, {"count": 49}, {"layer": -3}):
        with pytest.raises(ConfigError):
            entropy_neurons(model, **settings)
    with pytest.raises(ArchitectureError, match="head"):
        entropy_neurons(model.model)
    with pytest.raises(ConfigError, match="fit"):
        cosine_variance(torch.zeros(2, 3), torch.zeros(4, 5))
    with pytest.raises(ConfigError, match="no words"):
        cosine_variance(torch.ones(2, 3), torch.zeros(4, 3))
    assert math.isfinite(entropy_neurons(model).ratios[0])
