"""Named parts frozen or slowed: equal to leaving them out of the optimizer, or to its own learning rates."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small import gpt2, llama, lora, phi3, steer, train, weights
from torch import nn

import infosteer
from infosteer.errors import ConfigError, NoEffectError
from infosteer.methods.params.freeze import Freeze

PARTS = {  # part -> pieces of parameter names, by family
    "llama": {
        "attention": ["self_attn"],
        "embeddings": ["embed_tokens"],
        "norms": ["norm"],
        "head": ["lm_head"],
        "ffn": ["mlp"],
    },
    "gpt2": {
        "attention": [".attn."],
        "embeddings": ["wte", "wpe"],
        "norms": ["ln_"],
        "head": ["wte"],  # tied
        "ffn": ["mlp"],
    },
}
BUILDS: dict[str, Any] = {"llama": llama, "gpt2": gpt2}


@pytest.mark.parametrize("part", ["attention", "embeddings", "norms", "head", "ffn"])
@pytest.mark.parametrize("family", PARTS)
def test_frozen_equals_left_out(family: str, part: str) -> None:
    pieces = PARTS[family][part]
    found = train(BUILDS[family](), [Freeze(parts=[part])])
    left_out = BUILDS[family]()
    start = weights(left_out)
    for name, parameter in left_out.named_parameters():
        parameter.requires_grad_(not any(piece in name for piece in pieces))
    wanted = train(left_out, [])
    for name, value in found.items():
        assert torch.equal(value, wanted[name]), name
        if any(piece in name for piece in pieces):
            assert torch.equal(value, start[name]), name


def test_a_factor_equals_a_learning_rate() -> None:
    def groups(model: nn.Module) -> list[dict[str, Any]]:
        slow = ["self_attn", "norm"]
        return [
            {"params": [p], "lr": 1e-2 * (0.3 if any(piece in n for piece in slow) else 1.0)}
            for n, p in model.named_parameters()
        ]

    wanted = train(llama(), [], groups=groups)
    found = train(llama(), [Freeze(parts="attention + norms", factor=0.3)])
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-8, atol=1e-10)


def test_layers_and_several_parts() -> None:
    start = weights(llama())
    found = train(llama(), [Freeze(parts=["attention", "head"], layers=[1])])
    kept = {name for name, value in found.items() if torch.equal(value, start[name])}
    assert kept == {name for name in start if "layers.1.self_attn" in name or "lm_head" in name}


def test_a_late_third_can_be_frozen_with_everything_around_it() -> None:
    model = llama(num_hidden_layers=6)
    start = weights(model)
    found = train(model, [infosteer.ProtectMemory(layers="late"), Freeze(parts=["attention"], layers="late")])
    for i in range(6):
        moved = not torch.equal(
            found[f"model.layers.{i}.mlp.up_proj.weight"], start[f"model.layers.{i}.mlp.up_proj.weight"]
        )
        assert moved == (i < 4)


def test_adapters_and_nothing_to_freeze() -> None:
    model = lora(llama(), ["q_proj", "up_proj"])
    start = weights(model)
    found = train(model, [Freeze(parts=["attention"])], weight_decay=0.0)
    moved = {name for name, value in found.items() if not torch.equal(value, start[name])}
    assert moved
    assert all("up_proj.lora_" in name for name in moved)
    with pytest.raises(NoEffectError, match="freeze"):
        train(lora(llama(), ["up_proj"]), [Freeze(parts=["attention"])])


def test_unknown_and_missing_parts() -> None:
    with pytest.raises(ConfigError, match="did you mean 'attention'"):
        Freeze(parts=["atention"])
    for wrong in ([], "", [3], ["ffn", "all"], {"factor": -1}):
        with pytest.raises(ConfigError):
            Freeze(**(wrong if isinstance(wrong, dict) else {"parts": wrong}))
    with pytest.raises(ConfigError, match=r"no weights of this part(.|\n)*other"):
        steer(phi3(), [Freeze(parts=["other"])])
    assert Freeze(parts=["ffn"], factor=1.0).off
    assert Freeze(parts="ffn+norms").to_config()["parts"] == ["ffn", "norms"]
