"""Learning-rate factors by role and layer: equal to what an optimizer with such rates does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM

import infosteer
from infosteer.errors import ConfigError, NoEffectError
from infosteer.methods.params.protect_memory import scale_update

SMALL = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 48}
IDS = torch.randint(1, 48, (4, 9), generator=torch.Generator().manual_seed(2))


def llama(**changes: Any) -> nn.Module:
    torch.manual_seed(0)
    settings = {**SMALL, "num_key_value_heads": 2, "initializer_range": 0.2, **changes}
    return LlamaForCausalLM(LlamaConfig(**settings)).train()


def phi3() -> nn.Module:
    torch.manual_seed(0)
    return Phi3ForCausalLM(Phi3Config(**SMALL, pad_token_id=0, initializer_range=0.2)).train()


def gpt2() -> nn.Module:
    torch.manual_seed(0)
    config = GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=48, n_positions=32, initializer_range=0.2)
    config.resid_pdrop = config.embd_pdrop = config.attn_pdrop = 0.0
    config.bos_token_id = config.eos_token_id = 0
    return GPT2LMHeadModel(config).train()


def train(
    model: nn.Module, methods: list[Any] | None, groups: Any = None, optimizer: Any = torch.optim.AdamW, **settings: Any
) -> dict[str, torch.Tensor]:
    settings = {"lr": 1e-2, "weight_decay": 0.1, **settings}
    session = infosteer.steer(model, methods) if methods is not None else None
    stepper = optimizer(groups(model) if groups else [p for p in model.parameters() if p.requires_grad], **settings)
    for _ in range(4):
        model(input_ids=IDS, labels=IDS).loss.backward()
        stepper.step()
        stepper.zero_grad()
    if session:
        session.remove()
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def rates(factors: dict[str, float]) -> Any:
    """Parameter groups with the learning rates that the factors stand for."""

    def groups(model: nn.Module) -> list[dict[str, Any]]:
        made = []
        for name, parameter in model.named_parameters():
            factor = next((f for part, f in factors.items() if part in name), 1.0)
            made.append({"params": [parameter], "lr": 1e-2 * factor})
        return made

    return groups


@pytest.mark.parametrize(
    ("optimizer", "settings"),
    [
        (torch.optim.AdamW, {}),
        (torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.05}),
        (torch.optim.AdamW, {"foreach": True}),
        (torch.optim.NAdam, {"decoupled_weight_decay": True}),
    ],
)
def test_factors_equal_learning_rates(optimizer: Any, settings: dict[str, Any]) -> None:
    factors = {"down_proj": 0.25, "up_proj": 0.5, "gate_proj": 2.0}
    wanted = train(llama(), None, rates(factors), optimizer, **settings)
    method = infosteer.ProtectMemory(values=0.25, keys=0.5, gates=2.0)
    found = train(llama(), [method], None, optimizer, **settings)
    for name, weight in wanted.items():
        assert torch.allclose(found[name], weight, rtol=1e-4, atol=2e-6), name


def test_zero_freezes_bit_by_bit_and_equals_leaving_the_weights_out() -> None:
    start = {name: parameter.detach().clone() for name, parameter in llama().named_parameters()}
    found = train(llama(), [infosteer.ProtectMemory()])
    left_out = llama()
    for name, parameter in left_out.named_parameters():
        parameter.requires_grad_("mlp" not in name)
    wanted = train(left_out, None)
    for name, weight in found.items():
        assert torch.equal(weight, wanted[name]), name
        assert torch.equal(weight, start[name]) == ("mlp" in name), name


def test_layers_and_roles() -> None:
    start = {name: parameter.detach().clone() for name, parameter in llama().named_parameters()}
    found = train(llama(), [infosteer.ProtectMemory(values=0.0, keys=1.0, gates=1.0, layers=[1])])
    kept = {name for name, weight in found.items() if torch.equal(weight, start[name])}
    assert kept == {"model.layers.1.mlp.down_proj.weight"}


@pytest.mark.parametrize("strength", [1.0, 0.999999])
def test_fused_halves_are_split(strength: float) -> None:
    """Phi-3: gate_up_proj holds the gates first, then the keys."""
    start = {name: parameter.detach().clone() for name, parameter in phi3().named_parameters()}
    found = train(phi3(), [infosteer.ProtectMemory(values=1.0, keys=0.0, gates=1.0, strength=strength)])
    name = "model.layers.0.mlp.gate_up_proj.weight"
    gates, keys = (found[name] - start[name]).abs().split(40)
    assert gates.min() > 0
    assert keys.max() == 0 if strength == 1.0 else keys.max() < 1e-6
    # Clipping does not see a frozen half: its gradient is zero.
    model = phi3()
    with infosteer.steer(model, [infosteer.ProtectMemory(values=1.0, keys=0.0, gates=1.0)]):
        model(input_ids=IDS, labels=IDS).loss.backward()
        gates, keys = model.model.layers[0].mlp.gate_up_proj.weight.grad.split(40)
    assert gates.abs().sum() > 0
    assert keys.abs().sum() == 0


def test_fused_factors_equal_learning_rates() -> None:
    """The same numbers as a model whose halves are separate parameters: the Llama layout with Phi-3's weights."""
    fused, split = phi3(), llama(num_key_value_heads=4, rms_norm_eps=1e-5)
    split.load_state_dict(_as_llama(fused), strict=True)
    method = {"values": 0.5, "keys": 0.25, "gates": 0.75}
    a = train(fused, [infosteer.ProtectMemory(**method)], weight_decay=0.0)
    b = train(split, [infosteer.ProtectMemory(**method)], weight_decay=0.0)
    joined = torch.cat([b["model.layers.1.mlp.gate_proj.weight"], b["model.layers.1.mlp.up_proj.weight"]])
    assert torch.allclose(a["model.layers.1.mlp.gate_up_proj.weight"], joined, rtol=1e-3, atol=1e-5)


def _as_llama(model: nn.Module) -> dict[str, torch.Tensor]:
    state = {}
    for name, weight in model.state_dict().items():
        if "qkv_proj" in name:
            for part, block in zip("qkv", weight.split(32), strict=True):
                state[name.replace("qkv_proj", f"{part}_proj")] = block
        elif "gate_up_proj" in name:
            gates, keys = weight.split(40)
            state[name.replace("gate_up_proj", "gate_proj")] = gates
            state[name.replace("gate_up_proj", "up_proj")] = keys
        else:
            state[name] = weight
    return state


def test_plain_ffn_of_gpt2() -> None:
    """Conv1D weights are transposed; keys are the input projection with its bias."""
    start = {name: parameter.detach().clone() for name, parameter in gpt2().named_parameters()}
    found = train(gpt2(), [infosteer.ProtectMemory(values=1.0, keys=0.0)])
    kept = {name for name, weight in found.items() if torch.equal(weight, start[name])}
    assert kept == {f"transformer.h.{i}.mlp.c_fc.{part}" for i in (0, 1) for part in ("weight", "bias")}


def _lora(model: nn.Module, targets: list[str]) -> nn.Module:
    config = LoraConfig(r=4, target_modules=targets, init_lora_weights=True, task_type="CAUSAL_LM")
    torch.manual_seed(1)
    return get_peft_model(model, config).train()


def test_lora_adapters_get_the_factor() -> None:
    targets = ["down_proj", "up_proj", "gate_proj", "q_proj"]
    wanted = train(_lora(llama(), targets), None, rates({"down_proj.lora": 0.1, "gate_proj.lora": 0.5}), weight_decay=0)
    method = infosteer.ProtectMemory(values=0.1, keys=1.0, gates=0.5)
    found = train(_lora(llama(), targets), [method], weight_decay=0)
    for name, weight in wanted.items():
        assert torch.allclose(found[name], weight, rtol=1e-4, atol=2e-6), name


def test_lora_on_a_fused_projection() -> None:
    model = _lora(phi3(), ["gate_up_proj"])
    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    found = train(model, [infosteer.ProtectMemory(values=1.0, keys=0.0, gates=1.0)])
    prefix = "base_model.model.model.layers.0.mlp.gate_up_proj"
    gates, keys = (found[f"{prefix}.lora_B.default.weight"] - start[f"{prefix}.lora_B.default.weight"]).split(40)
    assert gates.abs().min() > 0
    assert keys.abs().max() == 0  # so the effective weight of the keys stays where it was
    assert not torch.equal(found[f"{prefix}.lora_A.default.weight"], start[f"{prefix}.lora_A.default.weight"])


def test_lora_without_ffn_adapters_is_an_error() -> None:
    with pytest.raises(NoEffectError, match="protect_memory"):
        train(_lora(llama(), ["q_proj"]), [infosteer.ProtectMemory()])


def test_thawing_late() -> None:
    """Strength 1 for two steps, then 0: frozen first, an ordinary learning rate after."""
    model, seen = llama(), []
    method = infosteer.ProtectMemory(strength={"points": [[0, 1.0], [2, 0.0]], "shape": "hold"})
    with infosteer.steer(model, [method]):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        weight = model.model.layers[0].mlp.down_proj.weight
        for _ in range(4):
            before = weight.detach().clone()
            model(input_ids=IDS, labels=IDS).loss.backward()
            optimizer.step()
            seen.append((torch.equal(weight, before), torch.allclose(weight, before - 0.1 * weight.grad, atol=1e-7)))
            optimizer.zero_grad()
    assert seen == [(True, False), (True, False), (False, True), (False, True)]


def test_two_optimizers() -> None:
    model = llama()
    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    with infosteer.steer(model, [infosteer.ProtectMemory(values=0.5, keys=1.0, gates=1.0)]) as session:
        ffn = [p for n, p in model.named_parameters() if "mlp" in n]
        rest = [p for n, p in model.named_parameters() if "mlp" not in n]
        optimizers = [torch.optim.SGD(ffn, lr=0.1), torch.optim.SGD(rest, lr=0.1)]
        model(input_ids=IDS, labels=IDS).loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        assert session.step == 1
    for name, parameter in model.named_parameters():
        rate = 0.05 if "down_proj" in name else 0.1
        assert torch.allclose(parameter, start[name] - rate * parameter.grad, atol=1e-7), name


def test_negative_factors_are_refused() -> None:
    for role in ("values", "keys", "gates"):
        with pytest.raises(ConfigError, match=role):
            infosteer.ProtectMemory(**{role: -0.5})


def test_scale_update() -> None:
    before, after = torch.randn(5), torch.randn(5)
    for factor in (0.0, 0.3, 1.0, 2.0):
        weight = after.clone()
        scale_update(weight, before, factor)
        assert torch.allclose(weight, before + factor * (after - before), atol=1e-6)
    weight = after.clone()
    scale_update(weight, before, 0.0)
    assert torch.equal(weight, before)
