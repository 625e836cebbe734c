"""As many weights as FFN protection freezes, single ones, bit by bit, the same for a seed."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from small import HIDDEN, IDS, WIDTH, gpt2, llama, lora, phi3, steer, train, weights
from torch import nn

import infosteer
from infosteer.errors import ConfigError, NoEffectError
from infosteer.methods.params.protect_random import ProtectRandom, random_mask

ADAPTED = ["down_proj", "up_proj", "gate_proj", "q_proj", "v_proj"]


def kept(model: nn.Module, method: Any) -> tuple[int, dict[str, torch.Tensor]]:
    """How many entries of trained weights did not move in two steps, and where; weight decay moves all that may."""
    start, trained = weights(model), {name for name, p in model.named_parameters() if p.requires_grad}
    with steer(model, [method]):
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1)
        for _ in range(2):
            model(input_ids=IDS, labels=IDS).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    same = {name: value == start[name] for name, value in weights(model).items() if name in trained}
    return sum(int(mask.sum()) for mask in same.values()), same


def mlp_size(model: nn.Module, *parts: str) -> int:
    return sum(p.numel() for name, p in model.named_parameters() if any(part in name for part in parts))


@pytest.mark.parametrize(
    ("build", "settings", "parts"),
    [
        (llama, {}, ["mlp"]),
        (llama, {"keys": False, "gates": False}, ["down_proj"]),
        (gpt2, {"values": False}, ["c_fc"]),
        (llama, {"layers": [1], "among": "all"}, ["layers.1.mlp"]),
    ],
)
def test_it_freezes_as_many_as_protection_would(build: Any, settings: dict[str, Any], parts: list[str]) -> None:
    model = build()
    count, same = kept(model, ProtectRandom(**settings))
    wanted = mlp_size(model, *parts)
    assert count == wanted
    touched = [name for name, mask in same.items() if mask.any() and not mask.all()]
    assert len(touched) > len(same) / 2, "spread over the model"


def test_fused_halves_count_once() -> None:
    model = phi3()
    half = 2 * WIDTH * HIDDEN
    assert kept(model, ProtectRandom(values=False, gates=False))[0] == half
    assert kept(phi3(), ProtectRandom(values=False))[0] == 2 * half


def test_adapters_are_counted_and_drawn() -> None:
    model = lora(llama(), ADAPTED, init_lora_weights=False)
    count, same = kept(model, ProtectRandom())
    wanted = sum(p.numel() for n, p in model.named_parameters() if "lora_" in n and "mlp" in n)
    assert count == wanted
    assert all("lora_" in name for name in same)


def test_other_weights_only() -> None:
    model = llama()
    start = weights(model)
    method = ProtectRandom(among="other", keys=False, gates=False, layers=[0])
    found = train(model, [method], weight_decay=0.1)
    for name, value in found.items():
        if "mlp" in name and value.abs().min() > 0:
            assert not (value == start[name]).any(), name
    frozen = sum(int((value == start[name]).sum()) for name, value in found.items() if "attn" in name)
    assert frozen > 0
    with pytest.raises(ConfigError, match=r"not as many other weights(.|\n)*among: all"):
        steer(llama(intermediate_size=200), [ProtectRandom(among="other")])


def test_the_seed_draws_and_the_rest_learns_as_ever() -> None:
    first, again, other = (kept(llama(), ProtectRandom(seed=seed))[1] for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    # One step of SGD: the others move by exactly lr times their gradient.
    model = llama()
    start = weights(model)
    with steer(model, [ProtectRandom(seed=1)]) as session:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model(input_ids=IDS, labels=IDS).loss.backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
        optimizer.step()
        frozen = session.metrics()["infosteer/protect_random/frozen_weights"]
    assert frozen == mlp_size(model, "mlp")
    masked = 0
    plain = llama()
    plain(input_ids=IDS, labels=IDS).loss.backward()
    for name, parameter in plain.named_parameters():
        held = (gradients[name] == 0) & (parameter.grad != 0)
        masked += int(held.sum())
        torch.testing.assert_close(gradients[name][~held], parameter.grad[~held])
        torch.testing.assert_close(weights(model)[name], start[name] - 0.1 * gradients[name])
    assert 0.5 * frozen < masked <= frozen, "clipping does not see them"


def test_a_mask_has_exactly_so_many_entries_anywhere() -> None:
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(4, 5)
    for _ in range(400):
        mask = random_mask((4, 5), 6, generator)
        assert mask.sum() == 6
        counts += mask
    assert 70 < counts.min() < counts.max() < 175  # binomial: 120 +- 9.2


def test_nothing_to_count_is_an_error_and_the_number_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "infosteer"):
        steer(llama(), [ProtectRandom(values=False, gates=False, layers=[0])]).remove()
    assert f"protect_random: {HIDDEN * WIDTH + WIDTH} of " in caplog.text
    with pytest.raises(NoEffectError, match="protect_random"):
        train(llama(), [infosteer.ProtectMemory(), ProtectRandom()])
    assert ProtectRandom(values=False, keys=False, gates=False).off
    for wrong in ({"among": "some"}, {"seed": -1}, {"values": 1.0}):
        with pytest.raises(ConfigError):
            ProtectRandom(**wrong)
