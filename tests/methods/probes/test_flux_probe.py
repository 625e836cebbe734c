"""Information flux against explicit float64 entropies, on made-up rows and through a model."""

from __future__ import annotations

import math

import pytest
import torch
from probed import batch, coefficients, entropy, llama, read

import infosteer
from infosteer.errors import ConfigError
from infosteer.methods.probes.information_flux import InformationFlux, information_flux


def test_flux_of_layers_of_unequal_width() -> None:
    layers = [torch.randn(2, 5, 16), torch.randn(2, 5, 64)]
    layers[0][0, 0] = 0
    wanted = [entropy(k.double().abs()) for k in layers]
    wanted[0][0, 0] = 0
    torch.testing.assert_close(information_flux(layers).double(), (wanted[0] + wanted[1]) / 2, rtol=1e-5, atol=1e-6)
    shares = (wanted[0] / math.log(16) + wanted[1] / math.log(64)) / 2
    torch.testing.assert_close(information_flux(layers, normalized=True).double(), shares, rtol=1e-5, atol=1e-6)
    one_hot = torch.eye(7)[:3] * -5.0
    assert information_flux([one_hot]).abs().max() < 1e-6
    assert torch.allclose(information_flux([torch.full((3, 7), -2.0)]), torch.tensor(math.log(7)))


def test_flux_refuses_what_is_no_layer() -> None:
    with pytest.raises(ConfigError, match="no layer"):
        information_flux([])
    with pytest.raises(ConfigError, match="same tokens"):
        information_flux([torch.randn(2, 3), torch.randn(3, 3)])


def test_flux_probe_counts_tokens_and_no_padding() -> None:
    model = llama()
    found = read(model, InformationFlux(scope="always"))
    kept = batch()["attention_mask"] != 0
    layers = [float(entropy(k.abs())[kept].mean()) for k in coefficients(model, batch())]
    assert [found[f"nats/layer_{layer}"] for layer in range(3)] == pytest.approx(layers, rel=1e-5)
    assert found["nats"] == pytest.approx(sum(layers) / 3, rel=1e-5)
    assert found["normalised"] == pytest.approx(sum(layers) / 3 / math.log(48), rel=1e-5)


def test_flux_of_the_edited_coefficients_and_only_there() -> None:
    model = llama()
    plain = read(model, InformationFlux(scope="always"))
    lift = infosteer.Intervention(fraction=0.5, scope="always", layers=[1])
    with infosteer.steer(model, [lift, InformationFlux(scope="always")]) as session, torch.no_grad():
        model(**batch(), use_cache=False)
        lifted = session.metrics()
    assert lifted["infosteer/information_flux/nats/layer_0"] == plain["nats/layer_0"]
    assert lifted["infosteer/information_flux/nats/layer_1"] > plain["nats/layer_1"] + 0.05
