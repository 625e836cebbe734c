"""The edit against its formula, what it does to use and entropy, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from small import LAYERS, TEXT, WIDTH, gpt2, llama, lora, opt, phi3, steer, train, usage_by_hand, weights
from torch import Tensor, nn
from transformers import NemotronConfig, NemotronForCausalLM

import infosteer
from infosteer.core.usage import memory_usage
from infosteer.errors import ArchitectureError, AttachError, ConfigError
from infosteer.methods.params.resuscitation import Resuscitation, resuscitate, revert, scales
from infosteer.models import locate


def nemotron() -> nn.Module:
    torch.manual_seed(0)
    config = NemotronConfig(
        hidden_size=16, intermediate_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=2, vocab_size=40,
        num_key_value_heads=2, head_dim=8, initializer_range=0.3, pad_token_id=0, max_position_embeddings=32,
    )  # fmt: skip
    return NemotronForCausalLM(config).double().train()


PATHS = {
    "llama": (llama, "model.layers.{}.mlp.down_proj"),
    "phi3": (phi3, "model.layers.{}.mlp.down_proj"),
    "opt": (opt, "model.decoder.layers.{}.fc2"),
    "nemotron": (nemotron, "model.layers.{}.mlp.down_proj"),
}


def use(model: nn.Module, path: str) -> list[Tensor]:
    return usage_by_hand(model, [path.format(i) for i in range(LAYERS)])


def entropy(usage: Tensor) -> float:
    p = (usage / usage.sum()).numpy()
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())


@pytest.mark.parametrize(("percentile", "q"), [(50, 1.0), (50, 2.0), (25, 0.5), (90, 1.0), (100, 1.0)])
def test_scales_by_brute_force(percentile: float, q: float) -> None:
    usage = torch.rand(23, dtype=torch.float64) ** 4 + 1e-3
    usage[4] = 0
    limit, mean = float(np.percentile(usage.numpy(), percentile)), float(np.mean(usage.numpy()))
    for strength in (1.0, 0.3):
        found = scales(usage, percentile, q, strength)
        for i, c in enumerate(usage.tolist()):
            u = min(q * mean / c, 100.0) if 0 < c <= limit else 1.0
            assert float(found[i]) == pytest.approx(1 + strength * (u - 1), rel=1e-12)
    assert scales(usage)[4] == 1
    assert scales(torch.tensor([1e-9, 1.0, 1.0, 1.0]))[0] == 100


@pytest.mark.parametrize("q", [1.0, 2.0])
@pytest.mark.parametrize("family", PATHS)
def test_the_first_layers_idle_memories_reach_the_mean(family: str, q: float) -> None:
    build, path = PATHS[family]
    model = build()
    before = use(model, path)
    with steer(model, [Resuscitation(q=q)]):
        after = use(model, path)
    # OPT's coefficients are ReLU's: what never fires stays as it is
    middle, mean = np.percentile(before[0].numpy(), 50), float(before[0].mean())
    idle = (before[0] <= middle) & (before[0] > q * mean / 100)
    assert idle.sum() >= WIDTH // 4
    wanted = torch.full((int(idle.sum()),), q * mean, dtype=torch.float64)
    torch.testing.assert_close(after[0][idle], wanted, rtol=1e-9, atol=0)
    above = before[0] > middle
    torch.testing.assert_close(after[0][above], before[0][above], rtol=1e-9, atol=0)
    if q == 1:
        assert entropy(after[0]) > entropy(before[0]) + 1e-3


def test_only_the_keys_of_idle_memories_change() -> None:
    model = llama()
    start, usage = weights(model), use(model, PATHS["llama"][1])
    session = steer(model, [Resuscitation(layers=[1])])
    wanted = scales(usage[1])
    assert (wanted != 1).sum() == WIDTH // 2
    for name, value in weights(model).items():
        if "layers.1.mlp.up_proj" in name:
            factor = wanted.view(-1, *[1] * (value.dim() - 1))
            torch.testing.assert_close(value, start[name] * factor, rtol=1e-12, atol=0)
        else:
            assert torch.equal(value, start[name]), name
    edited = weights(model)
    session.remove()
    assert all(torch.equal(value, edited[name]) for name, value in weights(model).items()), "the edit stays"


def test_fused_halves_and_memory_vectors() -> None:
    model = phi3()
    start, usage = weights(model), use(model, PATHS["phi3"][1])
    steer(model, [Resuscitation()])
    for i in range(LAYERS):
        name = f"model.layers.{i}.mlp.gate_up_proj.weight"
        gates, keys = weights(model)[name].split(WIDTH)
        assert torch.equal(gates, start[name][:WIDTH])
        torch.testing.assert_close(keys, start[name][WIDTH:] * scales(usage[i])[:, None], rtol=1e-12, atol=0)
    model = gpt2()
    start, usage = weights(model), use(model, "transformer.h.{}.mlp.c_proj")
    steer(model, [Resuscitation(edit="values", q=0.5)])
    for name, value in weights(model).items():
        if name.endswith("mlp.c_proj.weight"):
            layer = int(name.split(".")[2])
            torch.testing.assert_close(value, start[name] * scales(usage[layer], q=0.5)[:, None], rtol=1e-12, atol=0)
        else:
            assert torch.equal(value, start[name]), name


def test_restoring_on_request() -> None:
    model = llama()
    start = weights(model)
    steer(model, [Resuscitation(restore=True)]).remove()
    for name, value in weights(model).items():
        torch.testing.assert_close(value, start[name], rtol=1e-14, atol=0)
    # after training what was learnt is divided too, nothing else
    edited, factors = llama(), {}
    edits = resuscitate(edited, locate(edited), memory_usage(edited, locate(edited), [TEXT]))
    factors = {edit.name: (edit.indices, edit.factors) for edit in edits}
    trained = train(edited, [])
    revert(edits)
    for name, value in weights(edited).items():
        wanted = trained[name].clone()
        if name in factors:
            indices, factor = factors[name]
            wanted[indices] /= factor.view(-1, *[1] * (wanted.dim() - 1))
        torch.testing.assert_close(value, wanted, rtol=1e-12, atol=0)


def test_training_goes_on_from_the_edited_weights() -> None:
    edited = llama()
    resuscitate(edited, locate(edited), memory_usage(edited, locate(edited), [TEXT]), q=2.0)
    wanted = train(edited, [])
    found = train(llama(), [Resuscitation(q=2.0)])
    assert all(torch.equal(value, wanted[name]) for name, value in found.items())


def test_with_protection_the_edited_keys_are_frozen() -> None:
    model = llama()
    session = steer(model, [Resuscitation(), infosteer.ProtectMemory()])
    edited = weights(model)
    session.remove()
    found = train(llama(), [Resuscitation(), infosteer.ProtectMemory()])
    assert all(torch.equal(value, edited[name]) for name, value in found.items() if "mlp" in name)


@pytest.mark.parametrize(
    ("build", "settings", "error", "message"),
    [
        (gpt2, {}, ArchitectureError, r"does not scale its coefficients(.|\n)*edit: values"),
        (lambda: lora(llama(), ["up_proj"]), {}, AttachError, "an adapter does not save"),
        (lambda: lora(llama(), ["down_proj"]), {"edit": "values"}, AttachError, "an adapter does not save"),
        (llama, {"strength": {"points": [[0, 1.0]]}}, ConfigError, "acts once"),
    ],
)
def test_what_it_refuses_it_leaves_as_it_was(build: Any, settings: dict[str, Any], error: Any, message: str) -> None:
    model = build()
    start = weights(model)
    with pytest.raises(error, match=message):
        steer(model, [Resuscitation(**settings)])
    assert all(torch.equal(value, start[name]) for name, value in weights(model).items())


def test_sound_settings_and_adapters_elsewhere() -> None:
    for wrong in ({"percentile": 101}, {"q": 0}, {"edit": "gates"}, {"restore": 1}):
        with pytest.raises(ConfigError):
            Resuscitation(**wrong)
    with pytest.raises(ConfigError, match=r"data\.calibration"):
        infosteer.steer(llama(), [Resuscitation()])
    model = lora(llama(), ["q_proj"])
    start = weights(model)
    steer(model, [Resuscitation()])
    assert any(not torch.equal(value, start[name]) for name, value in weights(model).items())
