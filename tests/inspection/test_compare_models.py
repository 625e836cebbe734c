"""Models against each other: every weight counted once, planted changes found, refusals."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny_models import TEXT, tiny

from infosteer.errors import ConfigError
from infosteer.inspection.compare_models import (
    check_fit,
    compare_directions,
    compare_models,
    concept_stability,
    read_text,
    weight_drift,
)
from infosteer.inspection.directions import random_folds
from infosteer.models import locate, memory_vectors
from infosteer.training.loading import load_model, merge_adapters


class Characters:
    """A tokenizer of single characters."""

    chat_template = None
    eos_token_id = pad_token_id = 1
    bos_token_id = 2

    def __call__(self, texts: list[str] | str, **_: object) -> dict[str, object]:
        one = isinstance(texts, str)
        rows = [[ord(c) % 50 + 5 for c in text] for text in ([texts] if one else texts)]
        return {"input_ids": rows[0] if one else rows}


TEXTS = [f"{word} {i}" for i, word in enumerate(["one", "three", "fourth", "a"] * 6)]


@pytest.mark.parametrize("model_type", sorted(TEXT))
def test_every_weight_is_counted_once_and_scaling_is_seen(model_type: str) -> None:
    a, b = tiny(model_type), tiny(model_type)
    with torch.no_grad():
        for parameter in b.parameters():
            parameter.mul_(1.5)
    found = weight_drift(a, b)
    assert sum(row.parameters for row in found) == sum(p.numel() for p in a.parameters())
    assert all(row.relative == pytest.approx(0.5, rel=1e-5) for row in found)
    assert {"values", "keys", "attention"} <= {row.part for row in found}
    assert all(row.relative == 0 == row.changed for row in weight_drift(a, a))


@pytest.mark.parametrize("model_type", ["llama", "phi3", "gpt2", "glm", "granitemoehybrid"])
def test_a_change_of_one_role_in_one_layer(model_type: str) -> None:
    a, b = tiny(model_type), tiny(model_type)
    site = locate(b)[1]
    (role,) = site.roles["keys"]
    linear = role.module
    weight = linear.weight.detach()
    rows = role.rows or slice(None)
    part = weight[:, rows] if model_type == "gpt2" else weight[rows]
    with torch.no_grad():
        change = torch.randn(part.shape)
        part += change
    expected = float(change.double().norm() / (part.double() - change.double()).norm())
    moved = [row for row in weight_drift(a, b) if row.changed]
    assert [(row.part, row.layer) for row in moved] == [("keys", 1)]
    has_bias = getattr(linear, "bias", None) is not None
    assert moved[0].relative == pytest.approx(expected, rel=0.02 if has_bias else 1e-5)
    with torch.no_grad():
        memory_vectors(locate(a)[0])[3] += 1
    assert ("values", 0) in [(row.part, row.layer) for row in weight_drift(a, b) if row.changed]


def test_adapters_are_merged(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = LoraConfig(
        r=2, target_modules=["down_proj", "q_proj"], init_lora_weights=False, task_type="CAUSAL_LM",
        modules_to_save=["lm_head"],
    )  # fmt: skip
    base = load_model("embedded")
    ids = torch.arange(5, 25).reshape(2, 10)
    adapted = get_peft_model(copy.deepcopy(base), config).eval()
    with torch.no_grad():
        adapted.base_model.model.lm_head.modules_to_save["default"].weight.mul_(1.1)
        wanted = adapted(input_ids=ids).logits
    adapted.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="merge adapters"):
        weight_drift(base, load_model(str(tmp_path)))
    for model in (load_model(str(tmp_path)), adapted):
        merged = merge_adapters(model).eval()
        with torch.no_grad():
            torch.testing.assert_close(merged(input_ids=ids).logits, wanted, rtol=1e-4, atol=1e-4)
        moved = {row.part for row in weight_drift(base, merged) if row.changed}
        assert {"values", "attention", "head"} <= moved, "the head was tied to the embeddings before"
        assert not moved & {"keys", "gates", "norms"}
    assert merge_adapters(base) is base


def test_misfits_are_refused_by_name() -> None:
    a = tiny("llama")
    for b, match in (
        (tiny("qwen2"), "model type"),
        (tiny("llama", num_hidden_layers=3), "layers"),
        (tiny("llama", hidden_size=16), "hidden size"),
        (tiny("llama", intermediate_size=40), "FFN widths"),
        (tiny("llama", vocab_size=80), "vocabulary"),
    ):
        with pytest.raises(ConfigError, match=match):
            check_fit(a, b)
        with pytest.raises(ConfigError, match=match):
            compare_models(a, b, Characters(), TEXTS)
    half = tiny("llama")
    half.model.layers[0].mlp.down_proj.weight = torch.nn.Parameter(
        torch.zeros(32, 48, dtype=torch.uint8), requires_grad=False
    )
    with pytest.raises(ConfigError, match="quantisation"):
        weight_drift(half, half)


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "gemma2", "gemma3n_text"])
def test_the_whole_comparison_of_a_model_with_itself_and_another(model_type: str) -> None:
    a, b = tiny(model_type), tiny(model_type, seed=1)
    same, other = compare_models(a, a, Characters(), TEXTS), compare_models(a, b, Characters(), TEXTS)
    assert all(value["a"] == value["b"] for value in same["text"].values())
    assert all(row["kept"] == row["same"] == 1 for row in same["concepts"])
    assert same["entropy_neurons"]["iou"] == 1
    assert any(value["a"] != value["b"] for value in other["text"].values())
    assert all(row["kept"] < 0.7 for row in other["concepts"])
    assert max(row["relative"] for row in other["drift"]) > 0.5
    assert {name.split("/")[0] for name in same["text"]} == {
        "tokens", "information_flux", "knowledge_entropy", "geometry",
    }  # fmt: skip
    assert same["text"]["geometry/rows"]["a"] == same["text"]["tokens"]["a"] == sum(map(len, TEXTS))


def test_concepts_by_hand() -> None:
    a, b = tiny("llama"), tiny("llama")
    with torch.no_grad():
        b.model.layers[1].mlp.down_proj.weight[:, :24] *= -1
    rows = concept_stability(a, b, top=3)
    assert (rows[0]["kept"], rows[0]["same"]) == (1, 1)
    kept = []
    for m in range(48):
        sets = []
        for model in (a, b):
            vectors = model.model.layers[1].mlp.down_proj.weight.detach().double()
            phi = model.lm_head.weight.detach().double() @ vectors[:, m]
            sets.append(set(phi.topk(3).indices.tolist()))
        kept.append(len(sets[0] & sets[1]) / 3)
    assert rows[1]["kept"] == pytest.approx(sum(kept) / 48)
    assert rows[1]["chance"] == pytest.approx(3 / 64)


def test_directions_of_both_models() -> None:
    a, b = tiny("llama"), tiny("llama", seed=3)
    texts = [f"{'abc' if i % 2 else 'xyz'} {i} {'p' if i % 2 else 'q'}" for i in range(40)]
    labels = [i % 2 for i in range(40)]
    found = compare_directions(a, b, Characters(), texts, labels, random_folds(torch.tensor(labels), 4), shuffles=3)
    assert {name: len(rows) for name, rows in found.items()} == {"own_a": 2, "own_b": 2, "a_to_b": 2, "b_to_a": 2}
    assert found["own_a"][0]["accuracy"] == 1
    assert found["own_a"][0]["null_high"] < 1


def test_reading_leaves_the_model_as_it_was() -> None:
    model = tiny("llama").train()
    before = copy.deepcopy(model.state_dict())
    read_text(model, Characters(), TEXTS)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
