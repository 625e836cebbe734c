"""Every row of the table: each parameter has one place, memories have their axis, scaled keys scale k as claimed."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_models import TEXT, tiny, tiny_wrapper, tokens
from torch import nn

from infosteer.models import PARTS, is_adapted, key_degree, locate, memory_axes, place_parameters

ROWS = sorted(TEXT)
# Parameters in the decoder layers that are neither FFN, nor norm, nor a token mixer.
LEFT_OVER = {
    "doge": {"input_residual", "post_attention_residual"},
    "gemma3n_text": {"altup", "laurel", "per_layer_input_gate", "per_layer_projection"},
    "gemma4_text": {"per_layer_input_gate", "per_layer_projection"},
}
HOMOGENEOUS = {"opt": 1.0, "arcee": 2.0, "jais2": 2.0, "nanochat": 2.0, "nemotron": 2.0, "persimmon": 2.0}


@pytest.mark.parametrize("model_type", ROWS)
def test_every_parameter_has_its_place(model_type: str) -> None:
    model = tiny(model_type)
    placed = place_parameters(model, locate(model))
    assert [item.name for item in placed] == [name for name, _ in model.named_parameters()]
    found: dict[str, list[str]] = {part: [] for part in PARTS}
    for item in placed:
        assert item.parts
        for part in item.parts:
            found[part].append(item.name)
        assert item.layer is None or f".{item.layer}." in item.name
    layers = len(locate(model))
    for part in ("attention", "ffn"):
        owners = {item.layer for item in placed if part in item.parts}
        assert owners == set(range(layers)), part
    # by name, independently of how it is done
    assert all(name.split(".")[-1] in ("weight", "bias") or "mlp.act" in name for name in found["ffn"])
    assert not any("attn" in name or "attention" in name.split("layer")[-1] for name in found["ffn"])
    assert all("norm" in name or "ln_" in name or "layernorm" in name for name in found["norms"])
    embedding = model.get_input_embeddings().weight
    assert next(item for item in placed if item.parameter is embedding).parts[0] == "embeddings"
    head = model.get_output_embeddings()
    if head is not None:
        parts = next(item.parts for item in placed if item.parameter is head.weight)
        assert parts == (("embeddings", "head") if head.weight is embedding else ("head",))
    left = {
        part for item in placed if item.layer is not None and "other" in item.parts for part in item.name.split(".")
    }
    assert LEFT_OVER.get(model_type, set()) <= left
    if model_type not in LEFT_OVER:
        assert not left


def test_towers_and_their_norms_are_other() -> None:
    model = tiny_wrapper("gemma3")
    placed = place_parameters(model, locate(model))
    tower = [item for item in placed if "vision" in item.name or "projector" in item.name]
    assert tower
    assert {item.parts for item in tower} == {("other",)}
    assert {part for item in placed for part in item.parts} == set(PARTS)


def test_adapters_belong_to_what_they_adapt() -> None:
    model = get_peft_model(tiny("llama"), LoraConfig(r=2, target_modules=["q_proj", "down_proj", "lm_head"]))
    placed = {item.name: item.parts for item in place_parameters(model, locate(model)) if "lora_" in item.name}
    assert len(placed) == 2 * (2 + 2 + 1)
    for name, parts in placed.items():
        assert parts == (("attention",) if "q_proj" in name else ("ffn",) if "down_proj" in name else ("head",)), name
    sites = locate(model)
    assert is_adapted(sites[0], "values")
    assert not is_adapted(sites[0], "keys")
    assert all("base_layer" in name for name, *_ in memory_axes(sites[0], "values"))


def coefficients(model: nn.Module, layer: int = 0) -> torch.Tensor:
    seen: list[torch.Tensor] = []
    hook = locate(model)[layer].module.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    with torch.no_grad():
        model(input_ids=tokens(), use_cache=False)
    hook.remove()
    return seen[0].reshape(-1, seen[0].shape[-1])


@pytest.mark.parametrize("model_type", ROWS)
def test_memory_axes_and_degrees(model_type: str) -> None:
    """Doubling memory 3's part of the keys changes coefficient 3 alone, by 2^degree; zeroing its value changes y."""
    model = tiny(model_type)
    site = locate(model)[0]
    before, degree = coefficients(model), key_degree(model, site)
    assert degree == (1.0 if site.gated else HOMOGENEOUS.get(model_type))
    with torch.no_grad():
        for _, parameter, axis, first in memory_axes(site, "keys"):
            parameter.select(axis, first + 3).mul_(2.0)
    after = coefficients(model)
    others = [i for i in range(site.width) if i != 3]
    torch.testing.assert_close(after[:, others], before[:, others])
    assert not torch.allclose(after[:, 3], before[:, 3])
    if degree is not None:
        torch.testing.assert_close(after[:, 3], before[:, 3] * 2.0**degree, rtol=1e-5, atol=1e-6)
    ((_, values, axis, first),) = memory_axes(site, "values")
    k = torch.zeros(1, site.width)
    k[0, 3] = 1.0
    with torch.no_grad():
        bias = getattr(site.module, "bias", None)
        row = site.module(k)[0] - (0 if bias is None else bias)
    torch.testing.assert_close(row, values.detach().select(axis, first + 3), rtol=1e-5, atol=1e-6)
