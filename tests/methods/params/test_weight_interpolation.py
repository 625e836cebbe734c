"""Interpolation with the start at the end of training, in own loops and in a trainer, killed and resumed too."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small import IDS, llama, lora, steer, train, weights
from small_trainer import Stop, trainer

import infosteer
from infosteer.errors import ConfigError, NoEffectError
from infosteer.methods.params.weight_interpolation import WeightInterpolation


@pytest.mark.parametrize(("alpha", "strength", "e"), [(0.5, 1.0, 0.5), (0.0, 1.0, 0.0), (0.25, 0.4, 0.7)])
@pytest.mark.parametrize("keep", ["model", "cpu"])
def test_between_start_and_end(keep: str, alpha: float, strength: float, e: float) -> None:
    start, end = weights(llama()), train(llama(), [])
    found = train(llama(), [WeightInterpolation(alpha=alpha, strength=strength, keep=keep)])
    for name, value in found.items():
        torch.testing.assert_close(value, (1 - e) * start[name] + e * end[name], rtol=1e-9, atol=1e-12)
        assert alpha > 0 or torch.equal(value, start[name])


def test_what_is_not_trained_stays_and_adapters_go_back() -> None:
    torch.manual_seed(0)
    model = lora(llama(), ["q_proj", "up_proj"])
    start = weights(model)
    found = train(model, [WeightInterpolation(alpha=0.0)])
    assert all(torch.equal(value, start[name]) for name, value in found.items())
    halfway = train(lora(llama(), ["q_proj", "up_proj"]), [WeightInterpolation(alpha=0.5)])
    end = train(lora(llama(), ["q_proj", "up_proj"]), [])
    for name, value in halfway.items():
        if "lora_B" in name:
            torch.testing.assert_close(value, end[name] / 2)


def test_with_protection_and_without_an_end(caplog: pytest.LogCaptureFixture) -> None:
    model = llama()
    start = weights(model)
    found = train(model, [infosteer.ProtectMemory(), WeightInterpolation()])
    assert all(torch.equal(value, start[name]) for name, value in found.items() if "mlp" in name)
    session = steer(model, [WeightInterpolation()])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(input_ids=IDS, labels=IDS).loss.backward()
    optimizer.step()
    with caplog.at_level(logging.WARNING, "infosteer"):
        session.remove()
    assert "without session.finish()" in caplog.text
    with steer(model.requires_grad_(False), [WeightInterpolation()]):
        model.lm_head.weight.requires_grad_(True)  # too late
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with pytest.raises(NoEffectError, match="weight_interpolation"):
            optimizer.step()
    for wrong in ({"alpha": 1.5}, {"alpha": -0.1}, {"keep": "disk"}):
        with pytest.raises(ConfigError):
            WeightInterpolation(**wrong)
    assert WeightInterpolation(alpha=1.0).off


def test_in_a_trainer_and_after_a_kill(tmp_path: Path) -> None:
    """The saved model lies between base and end; checkpoints do not; a resumed run starts from the base as well."""
    plain = trainer(tmp_path / "plain")
    start = weights(plain.model)
    plain.train()
    end = weights(plain.model)

    whole = trainer(tmp_path / "whole")
    infosteer.attach(whole, [WeightInterpolation(alpha=0.25)])
    whole.train()
    whole.save_model(str(tmp_path / "saved"))
    saved = load_file(tmp_path / "saved" / "model.safetensors")
    checkpoint = load_file(tmp_path / "whole" / "checkpoint-6" / "model.safetensors")
    for name, value in end.items():
        torch.testing.assert_close(saved[name], 0.75 * start[name] + 0.25 * value, rtol=1e-5, atol=1e-7)
        assert torch.equal(checkpoint[name], value)

    killed = trainer(tmp_path / "killed")
    killed.add_callback(Stop(5))
    infosteer.attach(killed, [WeightInterpolation(alpha=0.25)])
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    resumed = trainer(tmp_path / "killed")
    infosteer.attach(resumed, [WeightInterpolation(alpha=0.25)])
    resumed.train(resume_from_checkpoint=str(tmp_path / "killed" / "checkpoint-4"))
    for name, value in weights(resumed.model).items():
        assert torch.equal(value, weights(whole.model)[name]), name
