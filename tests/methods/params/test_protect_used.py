"""Row-wise protection: the profile by brute force, and every row's update by hand in three layouts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from small import HIDDEN, IDS, LAYERS, WIDTH, gpt2, llama, lora, phi3, steer, train, usage_by_hand, weights
from torch import Tensor, nn

import infosteer
from infosteer.errors import AttachError, ConfigError, NoEffectError
from infosteer.methods.params.protect_used import ProtectUsed, protection_by_use

# layout -> paths of: down projection, its weight's memory axis; keys and gates: (parameter, memory axis, first row)
LAYOUTS: dict[str, tuple[Any, str, int, dict[str, list[tuple[str, int, int]]]]] = {
    "llama": (
        llama,
        "model.layers.{i}.mlp.down_proj",
        1,
        {
            "keys": [("model.layers.{i}.mlp.up_proj.weight", 0, 0), ("model.layers.{i}.mlp.up_proj.bias", 0, 0)],
            "gates": [("model.layers.{i}.mlp.gate_proj.weight", 0, 0), ("model.layers.{i}.mlp.gate_proj.bias", 0, 0)],
        },
    ),
    "phi3": (
        phi3,
        "model.layers.{i}.mlp.down_proj",
        1,
        {
            "gates": [("model.layers.{i}.mlp.gate_up_proj.weight", 0, 0)],
            "keys": [("model.layers.{i}.mlp.gate_up_proj.weight", 0, WIDTH)],
        },
    ),
    "gpt2": (
        gpt2,
        "transformer.h.{i}.mlp.c_proj",
        0,
        {"keys": [("transformer.h.{i}.mlp.c_fc.weight", 1, 0), ("transformer.h.{i}.mlp.c_fc.bias", 0, 0)]},
    ),
}


def by_hand(usage: list[float], profile: str, share: float, full_at: float, reverse: bool) -> list[float]:
    """The card's table, one memory at a time."""
    order = sorted(range(len(usage)), key=lambda i: (usage[i], i))
    top = float(np.quantile(usage, full_at))
    found = [0.0] * len(usage)
    for place, i in enumerate(order):
        if profile == "proportional":
            found[i] = min(1.0, usage[i] / top)
        elif profile == "rank":
            found[i] = place / (len(usage) - 1)
        else:
            found[i] = 1.0 if place >= len(usage) - round(share * len(usage)) else 0.0
    if reverse:
        found = dict(zip(order, [found[i] for i in reversed(order)], strict=True))
        found = [found[i] for i in range(len(usage))]
    return found


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("profile", ["proportional", "rank", "share"])
def test_the_profile_by_brute_force(profile: str, reverse: bool) -> None:
    usage = torch.rand(31, dtype=torch.float64) ** 3
    usage[[3, 9, 20]] = float(usage[5])  # ties
    for share, full_at in ((0.3, 0.9), (0.5, 1.0), (1.0, 0.5)):
        found = protection_by_use(usage, profile, share, full_at, reverse)
        wanted = by_hand(usage.tolist(), profile, share, full_at, reverse)
        np.testing.assert_allclose(found.numpy(), wanted, atol=1e-12)
        plain = protection_by_use(usage, profile, share, full_at)
        assert torch.equal(found.sort().values, plain.sort().values), "the same amounts of protection"


def test_the_profile_of_odd_usage() -> None:
    assert protection_by_use(torch.zeros(4)).tolist() == [0, 0, 0, 0]
    assert protection_by_use(torch.tensor([0.0, 0, 0, 2]), full_at=0.5).tolist() == [0, 0, 0, 1]
    assert protection_by_use(torch.ones(1), "rank").tolist() == [0]
    assert protection_by_use(torch.rand(8), "share", share=0.0).sum() == 0
    assert protection_by_use(torch.rand(8), "share", share=1.0).sum() == 8


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_row_learns_at_its_own_rate(layout: str, reverse: bool) -> None:
    """One SGD step: w_i - lr (1 - s g_i) dL/dw_i, everything else as ever."""
    build, down, axis, inputs = LAYOUTS[layout]
    model, strength, rate = build(), 0.75, 0.1
    usage = usage_by_hand(model, [down.format(i=i) for i in range(LAYERS)])
    start = weights(model)
    with steer(model, [ProtectUsed(full_at=0.7, reverse=reverse, strength=strength)]):
        optimizer = torch.optim.SGD(model.parameters(), lr=rate)
        model(input_ids=IDS, labels=IDS).loss.backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
        optimizer.step()
    factors = {name: torch.ones_like(value) for name, value in start.items()}
    for i in range(LAYERS):
        g = torch.tensor(by_hand(usage[i].tolist(), "proportional", 0.5, 0.7, reverse), dtype=torch.float64)
        assert g.min() < 0.9 < g.max()
        for path, dim, first in [(down.format(i=i) + ".weight", axis, 0), *(e for r in inputs.values() for e in r)]:
            for memory in range(WIDTH):
                factors[path.format(i=i)].select(dim, first + memory).fill_(1 - strength * float(g[memory]))
    for name, value in weights(model).items():
        torch.testing.assert_close(value, start[name] - rate * factors[name] * gradients[name], rtol=1e-6, atol=1e-9)


def test_roles_and_layers_are_chosen() -> None:
    start = weights(llama())
    method = ProtectUsed(profile="share", share=1.0, keys=False, gates=False, layers=[1])
    kept = {name for name, value in train(llama(), [method]).items() if torch.equal(value, start[name])}
    assert kept == {"model.layers.1.mlp.down_proj.weight"}


def test_protecting_every_memory_equals_freezing_its_weights() -> None:
    model = llama(mlp_bias=False)
    found = train(model, [ProtectUsed(profile="share", share=1.0)])
    wanted = train(llama(mlp_bias=False), [infosteer.ProtectMemory()])
    assert all(torch.equal(value, wanted[name]) for name, value in found.items())


def test_clipping_does_not_see_protected_rows() -> None:
    model = llama()
    (usage, _) = usage_by_hand(model, [f"model.layers.{i}.mlp.down_proj" for i in range(LAYERS)])
    used = usage >= usage.median()
    with steer(model, [ProtectUsed(profile="share", share=float(used.double().mean()))]):
        model(input_ids=IDS, labels=IDS).loss.backward()
        gradient = model.model.layers[0].mlp.down_proj.weight.grad
        assert gradient.shape == (HIDDEN, WIDTH)
        assert not gradient[:, used].any()
        assert gradient[:, ~used].abs().sum(0).min() > 0


def test_a_schedule_thaws() -> None:
    method = ProtectUsed(profile="share", share=1.0, strength={"points": [[0, 1.0], [1, 0.0]], "shape": "hold"})
    model = llama(mlp_bias=False)
    before = model.model.layers[0].mlp.up_proj.weight.detach().clone()
    moved = []
    with steer(model, [method]):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(2):
            model(input_ids=IDS, labels=IDS).loss.backward()
            optimizer.step()
            moved.append(not torch.equal(model.model.layers[0].mlp.up_proj.weight, before))
    assert moved == [False, True]


def _b_rows(model: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in weights(model).items() if "lora_B" in name}


def test_adapters() -> None:
    targets = ["up_proj", "gate_proj", "q_proj"]
    found = lora(llama(), targets)
    usage = usage_by_hand(found, [f"base_model.model.model.layers.{i}.mlp.down_proj" for i in range(LAYERS)])
    train(found, [ProtectUsed(profile="share", share=0.5, values=False)], weight_decay=0.0)
    for name, value in _b_rows(found).items():
        rows = value.abs().sum(-1) > 0  # B begins at zero: a protected row says nothing
        if "q_proj" in name:
            assert rows.all()
            continue
        layer = usage[int(name.split("layers.")[1][0])]
        assert torch.equal(rows, layer < layer.sort().values[WIDTH // 2])
    with pytest.raises(AttachError, match=r"no row of its own(.|\n)*values: false"):
        steer(lora(llama(), ["down_proj"]), [ProtectUsed()])
    with pytest.raises(NoEffectError, match="protect_used"):
        train(lora(llama(), ["q_proj"]), [ProtectUsed()])


def test_it_needs_a_text_and_sound_settings() -> None:
    with pytest.raises(ConfigError, match=r"data\.calibration"):
        infosteer.steer(llama(), [ProtectUsed()])
    for wrong in ({"profile": "prop"}, {"share": 1.5}, {"full_at": -0.1}, {"reverse": 1}, {"values": 0.5}):
        with pytest.raises(ConfigError):
            ProtectUsed(**wrong)
    assert ProtectUsed(values=False, keys=False, gates=False).off
    assert ProtectUsed(profile="share", share=0.0).off
