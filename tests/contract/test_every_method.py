"""The contract suite: every method folder, found by walking ``methods/``, passes the same checks.

A check that a surface cannot fail is skipped with its reason. A new folder is covered without a line here.
"""

from __future__ import annotations

import copy
import inspect
import os
import socket
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from world import (
    FAMILIES,
    KEYS,
    MODEL_KEYS,
    VOCABULARY,
    all_methods,
    batch,
    gradients,
    llama,
    make,
    relative_error,
    settings_of,
    steer,
    train,
)

import infosteer
from infosteer.core.contract import Context
from infosteer.core.data import DataContext
from infosteer.core.params import ParamMethod
from infosteer.core.registry import build_method, describe_method, method_info, read_card
from infosteer.core.surfaces import SURFACES, InterventionMethod, LossMethod, PenaltyMethod, ProbeMethod, Tokens
from infosteer.errors import ArchitectureError, AttachError, ConfigError, NoEffectError
from infosteer.ops.counter import mix

HEADINGS = ("What it does", "Formula", "Settings", "Interactions", "Measured effect", "Deviations")
every_method = pytest.mark.parametrize("key", KEYS)
every_model_method = pytest.mark.parametrize("key", MODEL_KEYS)
every_data_method = pytest.mark.parametrize("key", [key for key in KEYS if key not in MODEL_KEYS])


def kind(key: str) -> type[Any]:
    return method_info(key).cls


def only_for(key: str, *bases: type[Any], reason: str) -> None:
    if not issubclass(kind(key), bases):
        pytest.skip(reason)


def context_of(method: Any, rows: torch.Tensor | None, strength: float = 1.0) -> Context:
    """The context at layer 0 of a step, with one key a row where the method draws random numbers."""
    return Context(layer=0, step=0, strength=strength, keys=rows if method.random else None)


def tokens_of(count: int) -> tuple[torch.Tensor, Tokens]:
    """Losses and tokens of some rows, every third without loss; marks in turn, and the likelihoods of earlier rows."""
    logits, targets = torch.randn(count, VOCABULARY), torch.arange(count) % VOCABULARY
    counted = torch.arange(count) % 3 != 0
    losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none") * counted
    return losses, Tokens(
        logits=logits,
        targets=targets,
        counted=counted,
        marks=torch.arange(count).float() % 4 - 1,
        earlier=lambda lags: torch.where(lags >= 1, -0.3 * lags, torch.nan),
        base=torch.randn(count, VOCABULARY),
    )


def test_the_first_three_folders_are_found() -> None:
    assert {"interventions/key_lift", "params/protect_memory", "penalties/key_entropy"} <= set(KEYS)
    assert infosteer.list_methods("penalties/*") == [key for key in KEYS if key.startswith("penalties/")]
    assert infosteer.list_methods("key_*") == [key for key in KEYS if key.split("/")[1].startswith("key_")]


@every_method
def test_folder_card_and_recipe(key: str) -> None:
    info = method_info(key)
    assert len((info.folder / "__init__.py").read_text().splitlines()) <= 15
    assert issubclass(info.cls, SURFACES[info.surface])
    facts, body = read_card(info.card)
    assert facts["status"] in ("stable", "experimental")
    for heading in HEADINGS:
        assert f"\n## {heading}\n" in body, heading
    for field, help_text in info.fields.items():
        assert f"`{field}`" in body, f"the card does not mention the setting {field}"
        assert help_text, f"{field} has no help text"
    assert settings_of(key)["method"] in (info.name, info.key)


@every_method
def test_recipe_validates(key: str) -> None:
    from infosteer.experiments.recipe import load_recipe

    recipe = load_recipe(str(method_info(key).recipe))
    assert len(recipe.arms) >= 2


@every_method
def test_config_round_trip(key: str) -> None:
    method = make(key, strength={"points": [[0, 0.5], [10, 1.0]]})
    again = build_method(yaml.safe_load(yaml.safe_dump(describe_method(method))))
    assert again == method
    assert again.to_config() == method.to_config()


@every_method
def test_unknown_setting_names_the_nearest(key: str) -> None:
    with pytest.raises(ConfigError, match="did you mean 'strength'"):
        make(key, strenght=1.0)
    for wrong in (-1, float("nan"), "much", True, None):
        with pytest.raises(ConfigError):
            make(key, strength=wrong)
    with pytest.raises(ConfigError, match=r"preset|unknown key"):
        make(key, preset="best-of-all")


@every_model_method
@pytest.mark.parametrize("family", FAMILIES)
def test_strength_zero_is_bit_identical_and_positive_strength_is_not(key: str, family: str) -> None:
    bare = train(FAMILIES[family](), None)
    off = train(FAMILIES[family](), [make(key, strength=0)])
    assert bare[0] == off[0]
    assert all(torch.equal(value, off[1][name]) for name, value in bare[1].items())
    try:
        on = train(FAMILIES[family](), [make(key)])
    except ArchitectureError as error:
        pytest.skip(f"refused by name: {error.what}")
    same = all(torch.equal(value, on[1][name]) for name, value in bare[1].items())
    assert same == issubclass(kind(key), ProbeMethod), "a probe changes nothing, any other method something"


@every_data_method
def test_data_methods_are_pure_seeded_and_off_at_strength_zero(key: str) -> None:
    rows = [{"prompt": f"Question {i}:", "completion": f" answer {i}. That is known."} for i in range(12)]
    before = copy.deepcopy(rows)

    def read(source: str, limit: int | None = None, **options: Any) -> list[dict[str, Any]]:
        return [{"text": f"{source} {i}"} for i in range(limit or 20)]

    def transform(seed: int, strength: float = 1.0) -> list[dict[str, Any]]:
        return make(key).transform(rows, DataContext(seed=seed, strength=strength, read=read))

    assert transform(1) == transform(1)
    assert transform(1) != rows
    assert any(transform(seed) != transform(1) for seed in range(2, 8)), "the seed has no part in it"
    assert rows == before, "changed in place"
    assert infosteer.transform_rows(rows, [make(key, strength=0)]) == rows
    with pytest.raises(AttachError, match="transform_rows"):
        infosteer.steer(llama(), [make(key)])


@every_data_method
def test_asking_changes_no_prompt_in_place_and_no_ordinary_answer(key: str) -> None:
    method, chat = make(key), [{"role": "user", "content": "Where?"}]
    before = copy.deepcopy(chat)
    asked = method.ask(chat)
    assert chat == before
    assert [turn["role"] for turn in asked] == ["user"]
    assert "Where?" in method.ask("Where?")
    assert method.answer(" In Ashmoor.") == " In Ashmoor."
    assert method.answer_room >= 0
    assert method.asks or (asked == chat and method.answer_room == 0)


@every_model_method
def test_function_equals_class(key: str) -> None:
    only_for(key, InterventionMethod, PenaltyMethod, LossMethod, reason="no function of one tensor")
    package = inspect.getmodule(kind(key)).__name__.removesuffix(".method")
    module = sys.modules[package]
    functions = [getattr(module, name) for name in module.__all__ if inspect.isfunction(getattr(module, name))]
    assert functions, "the folder exports no function"
    method, k = make(key), torch.randn(5, 40)
    context, (losses, tokens) = context_of(method, mix(torch.arange(5))), tokens_of(5)
    offered = {"keys": context.keys, **{field.name: getattr(tokens, field.name) for field in fields(tokens)}}
    for function in functions:
        accepted = inspect.signature(function).parameters
        settings = {name: value for name, value in {**method.to_config(), **offered}.items() if name in accepted}
        if isinstance(method, LossMethod):
            assert torch.equal(function(losses, **settings), method.per_token(losses, tokens, context))
        else:
            by_class = method.edit(k, context) if isinstance(method, InterventionMethod) else method.rows(k)
            assert torch.equal(function(k, **settings), by_class)


@every_model_method
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_rows_are_independent_and_dtypes_kept(key: str, dtype: torch.dtype) -> None:
    only_for(key, InterventionMethod, PenaltyMethod, reason="it gets no key coefficients")
    method, k = make(key), torch.randn(3, 4, 40).to(dtype)
    order, keys = torch.tensor([2, 0, 1]), mix(torch.arange(12)).view(3, 4)
    if isinstance(method, InterventionMethod):
        before = k.clone()
        edited = method.edit(k, context_of(method, keys.flatten()))
        assert edited.dtype == dtype
        assert edited.shape == k.shape
        assert torch.equal(k, before), "edited in place"
        assert torch.equal(method.edit(k[order], context_of(method, keys[order].flatten())), edited[order])
        last = context_of(method, keys[:, -1].flatten())
        assert torch.equal(method.edit(k[:, -1:], last), edited[:, -1:]), "decoding steps have T = 1"
        assert method.edit(k, context_of(method, keys.flatten(), strength=0.0)) is k
        return
    values = method.rows(k)
    assert values.shape == k.shape[:-1]
    assert values.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.equal(method.rows(k[order]), values[order])


@every_model_method
def test_a_tokens_loss_depends_on_its_own_row_alone(key: str) -> None:
    only_for(key, LossMethod, reason="no loss by token")
    method, (losses, tokens) = make(key), tokens_of(9)
    new = method.per_token(losses, tokens, context_of(method, mix(torch.arange(9))))
    assert new.shape == losses.shape
    order = torch.tensor([4, 8, 0, 2, 6, 1, 3, 7, 5])
    cut = {name: getattr(tokens, name)[order] for name in ("logits", "targets", "counted", "marks", "base")}
    again = method.per_token(losses[order], replace(tokens, **cut), context_of(method, mix(torch.arange(9))[order]))
    torch.testing.assert_close(again, new[order])


@every_model_method
def test_penalty_gradient_matches_autograd(key: str) -> None:
    only_for(key, PenaltyMethod, reason="no penalty")
    method, k = make(key), torch.randn(6, 40, dtype=torch.float64, requires_grad=True)
    (wanted,) = torch.autograd.grad(method.rows(k).sum(), k)
    assert torch.allclose(method.rows_gradient(k.detach()), wanted, rtol=1e-9, atol=1e-12)
    assert torch.autograd.gradcheck(lambda x: method.rows(x), (k,))


@every_model_method
def test_padding_and_batch_order_do_not_matter(key: str) -> None:
    rows = batch([make(key)])
    order, fill = torch.tensor([3, 1, 7, 5, 0, 2, 6, 4]), {"input_ids": 1, "labels": -100}
    padded = {
        name: torch.cat([value, torch.full((8, 5), fill.get(name, 0), dtype=value.dtype)], 1)[order]
        for name, value in rows.items()
    }
    found = []
    for inputs in (rows, padded):
        model = llama().double()
        with steer(model, [make(key)]) as session:
            session.loss(model(**inputs, use_cache=False).loss).backward()
        found.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert relative_error(found[1], found[0]) < 1e-6


@every_model_method
def test_micro_batches_do_not_matter(key: str) -> None:
    whole = gradients(llama().double(), [make(key)])
    for micro in (4, 1):
        assert relative_error(gradients(llama().double(), [make(key)], micro=micro), whole) < 1e-6


@every_model_method
@pytest.mark.parametrize("reentrant", [False, True], ids=["non-reentrant", "reentrant"])
def test_checkpointing_does_not_matter(key: str, reentrant: bool) -> None:
    plain = gradients(llama(), [make(key)])
    model = llama()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    model.enable_input_require_grads()
    assert relative_error(gradients(model, [make(key)]), plain) < 1e-5


@every_model_method
def test_before_peft_is_refused_and_after_peft_is_covered(key: str) -> None:
    targets = ["down_proj", "up_proj", "gate_proj", "q_proj"]
    config = LoraConfig(r=4, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM")
    if issubclass(kind(key), (InterventionMethod, PenaltyMethod, ProbeMethod)):
        model = llama()
        with steer(model, [make(key)]):
            wrapped = get_peft_model(model, config)
            with pytest.raises(AttachError, match="wrapped by adapters after it was steered"):
                wrapped(**batch())
    try:
        bare, steered = twins(lambda: get_peft_model(llama(), config), key)
    except AttachError as error:
        pytest.skip(f"refused by name: {error.what}")
    changed = [name for name, value in bare.items() if not torch.equal(value, steered[name])]
    assert bool(changed) != issubclass(kind(key), ProbeMethod)
    if not edits_weights_at_once(key):
        assert all("lora_" in name for name in changed), "only adapters are trained"


def twins(build: Any, key: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Final states of two equal models, trained without and with the method."""
    torch.manual_seed(0)
    first, second = build(), build()
    second.load_state_dict(first.state_dict())
    return train(first, None)[1], train(second, [make(key)])[1]


def edits_weights_at_once(key: str) -> bool:
    """Whether the method writes to weights when steering begins."""
    model = llama()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    steer(model, [make(key)]).remove()
    return any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())


@every_model_method
def test_detach_restores_everything(key: str) -> None:
    model = llama()
    hooks = [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules()]
    flags = [p.requires_grad for p in model.parameters()]
    names, random_state = list(model.state_dict()), torch.get_rng_state()
    session = steer(model, [make(key)])
    assert list(model.state_dict()) == names
    assert torch.equal(torch.get_rng_state(), random_state)
    session.remove()
    session.remove()
    assert [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules()] == hooks
    assert [p.requires_grad for p in model.parameters()] == flags
    steer(model, [make(key)]).remove()  # and it can be steered again


@every_model_method
def test_evaluation_is_the_plain_model(key: str) -> None:
    if edits_weights_at_once(key):
        pytest.skip("it edits weights when steering begins")
    model = llama().eval()
    plain = model(**batch()).logits
    with steer(model, [make(key)]):
        assert torch.equal(model(**batch()).logits, plain)
        with torch.no_grad():
            model.train()
            assert torch.equal(model(**batch()).logits, plain)


def test_one_compile_for_all_methods_and_several_loss_scales() -> None:
    """Attached before torch.compile: the same gradients as eager, whatever the loss is multiplied by afterwards."""
    torch._dynamo.reset()
    eager = gradients(llama(num_hidden_layers=1), all_methods())
    model, rows = llama(num_hidden_layers=1), batch(all_methods())
    with steer(model, all_methods()) as session:
        compiled = torch.compile(model, backend="aot_eager")
        for scale in (1.0, 2.0**12, 3.0):
            model.zero_grad()
            (session.loss(compiled(**rows, use_cache=False).loss) * scale).backward()
            found = {n: p.grad / scale for n, p in model.named_parameters() if p.grad is not None}
            assert relative_error(found, eager) < 1e-5


def test_attached_after_compile_is_refused() -> None:
    with pytest.raises(AttachError, match="compiled already"):
        steer(torch.compile(llama(), backend="eager"), all_methods())
    model = llama()
    model.compile(backend="eager")
    with pytest.raises(AttachError, match="compiled already"):
        steer(model, all_methods())


def test_two_processes_equal_one_for_all_methods(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1]), "WORLD_SIZE": "2"}
    command = [sys.executable, str(Path(__file__).with_name("world.py")), str(tmp_path / "out.pt")]
    processes = [
        subprocess.Popen(
            command,
            env={**os.environ, **address, "RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=240)[0] for process in processes]
    assert all(process.returncode == 0 for process in processes), "\n".join(o[-3000:] for o in outputs)
    for key, found in torch.load(tmp_path / "out.pt", weights_only=True).items():
        assert relative_error(found, gradients(llama(), [make(key)])) < 3e-5, key  # other GEMM shapes


@every_model_method
def test_a_method_without_effect_is_an_error(key: str) -> None:
    """Nothing is silent: an optimizer step without the method's effect raises."""
    if issubclass(kind(key), ParamMethod) and key != "params/protect_memory":
        pytest.skip("it acts on parameters, with or without a forward; its own tests say when it has nothing to act on")
    model = llama()
    if key == "params/protect_memory":
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("mlp" not in name)
    with steer(model, [make(key)]):
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        if key == "params/protect_memory":
            model(**batch()).loss.backward()
        with pytest.raises(NoEffectError):
            optimizer.step()
