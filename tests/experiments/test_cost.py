"""The cost model against torch: parameters of meta models, counted operations, tensors kept for the backward pass."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from infosteer.errors import ArchitectureError, ConfigError
from infosteer.experiments.cost import (
    CARDS,
    GIB,
    Work,
    layer_operations,
    memory,
    offloaded,
    parameters,
    saved_floats,
    seconds,
    train_operations,
)
from infosteer.experiments.estimate import estimate_recipe, in_words, mean_longest, spread
from infosteer.experiments.known import KNOWN, Shape, config_of, shape_of
from infosteer.training.loading import load_model

# parameters of the files that the models' authors published
PUBLISHED = {
    "Qwen/Qwen2.5-1.5B": 1_543_714_304,
    "Qwen/Qwen2.5-7B": 7_615_616_512,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "meta-llama/Meta-Llama-3-8B": 8_030_261_248,
    "google/gemma-2-2b": 2_614_341_888,
    "google/gemma-2-9b": 9_241_705_984,
}
TINY = Shape(
    model_type="llama", layers=3, hidden=32, width=48, heads=4, kv_heads=2, head_dim=8, vocabulary=64, tied=False
)
FAMILIES = {
    "llama": TINY,
    "qwen2": replace(TINY, model_type="qwen2", qkv_bias=True),
    "gemma2": replace(TINY, model_type="gemma2", norms=4, capped=True, tied=True),
}
WORK = Work(
    weight_bytes=4, batch=4, accumulation=16, checkpointing=True, forwards=160, tokens=100.0, longest=256, labelled=8.0
)


def build(shape: Shape, **changes: Any) -> Any:
    return AutoModelForCausalLM.from_config(config_of(shape, max_position_embeddings=128, **changes)).train()


@pytest.mark.parametrize("model", KNOWN)
def test_the_six_models_have_as_many_parameters_as_published(model: str) -> None:
    assert parameters(KNOWN[model]) == PUBLISHED[model]
    with torch.device("meta"):
        built = AutoModelForCausalLM.from_config(config_of(KNOWN[model]))
    assert sum(p.numel() for p in built.parameters()) == PUBLISHED[model]
    assert shape_of(built.config) == KNOWN[model]


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_of_a_tiny_model(family: str) -> None:
    shape = FAMILIES[family]
    assert parameters(shape) == sum(p.numel() for p in build(shape).parameters())


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_operations_are_those_that_torch_counts(family: str, checkpointing: bool) -> None:
    shape, (B, T) = FAMILIES[family], (2, 12)
    model = build(shape, attn_implementation="eager")
    ids = torch.randint(0, shape.vocabulary, (B, T))
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        model.model(ids)
    assert forward.get_total_flops() == layer_operations(shape, B, T)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    with FlopCounterMode(display=False) as whole:
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    expected = train_operations(shape, batch=B, tokens=T, labelled=B * T, checkpointing=checkpointing, tiled_head=False)
    assert whole.get_total_flops() == expected


def kept_bytes(model: Any, B: int, T: int) -> int:
    """Bytes of different storages, weights apart, that autograd keeps in the forward of the layers."""
    own = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}
    seen: dict[int, int] = {}
    alive = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        alive.append(tensor)  # a freed storage's address would be used again
        if tensor.untyped_storage().data_ptr() not in own:
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    ids = torch.randint(0, model.config.vocab_size, (B, T))
    mask = torch.ones_like(ids)
    mask[0, 0] = 0  # padding, as in training
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.model(input_ids=ids, attention_mask=mask, use_cache=False)
    return sum(seen.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_tensors_kept_in_a_layer(family: str) -> None:
    B, T = 2, 24
    how = {} if FAMILIES[family].capped else {"attn_implementation": "sdpa"}
    for changes in ({}, {"width": 96}, {"hidden": 64}, {"heads": 8}):
        shape = replace(FAMILIES[family], **changes)
        layer = kept_bytes(build(shape, **how), B, T) - kept_bytes(build(replace(shape, layers=2), **how), B, T)
        assert layer / (4 * B * T) == pytest.approx(saved_floats(shape, T), rel=0.02), "but for a few vectors"


@pytest.mark.parametrize("family", FAMILIES)
def test_checkpointing_keeps_the_input_of_every_layer(family: str) -> None:
    B, T, shape = 2, 24, FAMILIES[family]
    sizes = []
    for layers in (2, 3):
        model = build(replace(shape, layers=layers))
        model.gradient_checkpointing_enable({"use_reentrant": False})
        sizes.append(kept_bytes(model, B, T))
    assert sizes[1] - sizes[0] == 4 * B * T * shape.hidden


def test_weights_gradients_and_moments_are_those_of_adamw() -> None:
    model = build(TINY)
    optimizer = torch.optim.AdamW(model.parameters())
    model(input_ids=(ids := torch.arange(12).view(2, 6)), labels=ids).loss.backward()
    optimizer.step()
    moments = sum(s[k].nbytes for s in optimizer.state.values() for k in ("exp_avg", "exp_avg_sq"))
    found = memory(TINY, WORK)
    assert found["weights"] == sum(p.nbytes for p in model.parameters())
    assert found["gradients"] == sum(p.grad.nbytes for p in model.parameters())
    assert found["optimiser"] == moments


def test_what_the_paper_says_about_its_card_is_so() -> None:
    """Models of 1 to 2 billion parameters trained whole on 48 GB, those of 7 to 9 only with ZeRO-2 and offload."""
    a6000 = CARDS[0]
    for model, shape in KNOWN.items():
        whole = sum(memory(shape, WORK).values())
        assert (whole <= a6000.memory) == (parameters(shape) < 3e9), model
        card, main = offloaded(shape, WORK)
        assert card <= a6000.memory
        assert main == 14 * parameters(shape)


def test_hours_follow_the_work() -> None:
    shape, card = KNOWN["Qwen/Qwen2.5-1.5B"], CARDS[0]
    once, _ = seconds(shape, WORK, card)
    twice, _ = seconds(shape, replace(WORK, forwards=320), card)
    assert twice == pytest.approx(2 * once)
    assert seconds(shape, replace(WORK, checkpointing=False), card)[0] < once
    assert once > 8 * 1.3e9 * 400 * 160 / card.peak, "never faster than the card's peak"
    assert sum(memory(shape, replace(WORK, checkpointing=False)).values()) > sum(memory(shape, WORK).values())
    assert memory(shape, replace(WORK, weight_bytes=2))["weights"] == 2 * parameters(shape)
    assert memory(shape, WORK)["logits"] < GIB, "logits are made in tiles"


def test_the_length_of_a_batch_is_that_of_its_longest_row() -> None:
    lengths = [3, 9, 4, 4, 7]
    draws = [max(lengths[i], lengths[j]) for i in range(5) for j in range(5)]
    assert mean_longest(lengths, 2) == pytest.approx(sum(draws) / len(draws))
    assert mean_longest(lengths, 1) == pytest.approx(sum(lengths) / 5)


def test_a_sample_is_spread_over_all_rows() -> None:
    assert spread(list(range(10)), 20) == list(range(10))
    assert spread(list(range(100)), 4) == [0, 25, 50, 75]


def test_an_estimate_of_the_embedded_base() -> None:
    recipe = {
        "data": {"train": "lab:facts", "options": {"people": 4}},
        "train": {"gradient_accumulation_steps": 1, "num_train_epochs": 2},
        "arms": {"plain": [], "lift": [{"method": "key_lift"}], "half": {"train": {"dtype": "bfloat16"}}},
        "seeds": [1, 2],
        "evaluate": {"id": {"source": "lab:facts/new_people", "limit": 8}},
    }
    (found,) = estimate_recipe(recipe)
    assert found.trainings == 6
    assert found.parameters == sum(p.numel() for p in load_model("embedded").parameters())
    assert set(found.hours) == {card.name for card in CARDS}
    text = "\n".join(in_words([found]))
    assert "6 trainings" in text
    assert "not counted" not in text
    recipe["data"] = {"train": "nowhere.jsonl"}
    (found,) = estimate_recipe(recipe)
    assert found.trainings == 0
    assert len(found.unknown) == 1
    recipe["train"] = {"peft": {"method": "lora"}}
    with pytest.raises(ConfigError, match="adapters"):
        estimate_recipe(recipe)


def test_other_families_are_refused() -> None:
    with pytest.raises(ArchitectureError, match="gpt2"):
        shape_of(type("Config", (), {"model_type": "gpt2"})())
