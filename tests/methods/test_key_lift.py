"""Where key_lift acts (answer tokens, entropy bounds) and what its shield holds back."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from steered import batch, counted, gradients, llama, watch
from torch import Tensor

import infosteer
from infosteer.core.contract import Context
from infosteer.errors import ConfigError
from infosteer.functional import intervene
from infosteer.methods.interventions.key_random import KeyRandom
from infosteer.models import locate

CONTEXT = Context(layer=0, step=0, strength=1.0)


def test_answer_tokens_alone_are_lifted() -> None:
    rows, seen = batch(), {}
    chosen = counted(rows)
    for name in ("all", "answer", "plain"):
        model = llama()
        methods = [] if name == "plain" else [infosteer.Intervention(fraction=0.2, layers=[0], tokens=name)]
        with infosteer.steer(model, methods):
            watched = watch(model)
            model(**rows, use_cache=False)
        seen[name] = watched[0][0]
    lifted = intervene(seen["plain"], fraction=0.2)
    assert 0 < int(chosen.sum()) < chosen.numel()
    assert torch.equal(seen["all"], lifted)
    assert torch.equal(seen["answer"], torch.where(chosen.unsqueeze(-1), lifted, seen["plain"]))


def test_answer_tokens_without_labels_are_all_tokens_also_with_a_cache() -> None:
    rows, model = batch(), llama().eval()
    inputs = {name: rows[name][:1] for name in ("input_ids", "attention_mask")}
    texts = {}
    for tokens in ("all", "answer"):
        with infosteer.steer(model, [infosteer.Intervention(fraction=0.5, scope="always", tokens=tokens)]):
            texts[tokens] = model.generate(**inputs, max_new_tokens=6, do_sample=False, pad_token_id=0)
    assert torch.equal(texts["all"], texts["answer"])
    assert not torch.equal(texts["all"], model.generate(**inputs, max_new_tokens=6, do_sample=False, pad_token_id=0))


def test_answer_tokens_carry_the_gradient_of_the_explicit_edit() -> None:
    k = torch.randn(4, 3, 10, dtype=torch.float64)
    chosen = torch.rand(4, 3) < 0.5
    method = infosteer.Intervention(fraction=0.3, tokens="answer")
    left, right = (k.clone().requires_grad_(True) for _ in range(2))
    context = Context(layer=0, step=0, strength=0.7, counted=chosen.flatten())
    wanted = torch.stack(
        [
            torch.stack(
                [intervene(row, fraction=0.3, strength=0.7) if c else row for row, c in zip(rows, cs, strict=True)]
            )
            for rows, cs in zip(right, chosen, strict=True)
        ]
    )
    found, project = method.edit(left, context), torch.randn_like(k)
    torch.testing.assert_close(found, wanted)
    (found * project).sum().backward()
    (wanted * project).sum().backward()
    torch.testing.assert_close(left.grad, right.grad)


def test_entropy_bounds_choose_rows() -> None:
    k = torch.randn(200, 30, dtype=torch.float64) ** 3
    p = k.abs() / k.abs().sum(-1, keepdim=True)
    entropy = -(p * p.log()).sum(-1) / math.log(30)
    low, high = (float(entropy.quantile(q)) + 1e-9 for q in (0.25, 0.75))
    for bounds, inside in (
        ({"entropy_low": low}, entropy >= low),
        ({"entropy_high": high}, entropy <= high),
        ({"entropy_low": low, "entropy_high": high}, (entropy >= low) & (entropy <= high)),
    ):
        edited = infosteer.Intervention(fraction=0.2, **bounds).edit(k, CONTEXT)
        assert torch.equal((edited != k).any(-1), inside)
        assert torch.equal(edited[inside], intervene(k, fraction=0.2)[inside])


def test_entropy_bounds_of_0_and_1_let_every_row_through() -> None:
    even = torch.full((4, 768), 0.3)  # its entropy over ln M may round to above 1
    k = torch.cat([even, torch.zeros(1, 768)])
    assert torch.equal(infosteer.Intervention(alpha=2.0).edit(k, CONTEXT), intervene(k, alpha=2.0))
    narrow = infosteer.Intervention(alpha=2.0, entropy_low=1e-6).edit(k, CONTEXT)
    assert torch.equal(narrow[:4], intervene(even, alpha=2.0))
    assert torch.equal(narrow[4], k[4]), "a row of zeros has entropy 0"


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="bounds"):
        infosteer.Intervention(entropy_low=0.9, entropy_high=0.8)
    for wrong in ({"tokens": "answers"}, {"shield": 1}, {"entropy_low": -0.1}, {"entropy_high": 1.1}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            infosteer.Intervention(**wrong)


def test_defaults_are_those_of_the_published_interface() -> None:
    method = infosteer.Intervention()
    assert (method.fraction, method.alpha, method.order, method.reference) == (0.01, 1.0, "magnitude", "magnitude_mean")
    assert not method.shields
    assert not method.selects
    k = torch.randn(2, 200)
    assert torch.equal(method.edit(k, CONTEXT), intervene(k))
    strict = infosteer.Intervention(tokens="answer", entropy_low=0.5, shield=True)
    assert strict.edit(k, Context(layer=0, step=0, strength=0.0)) is k


def test_the_shield_holds_the_lifted_memories_of_each_row() -> None:
    rows, model = batch(), llama().double()
    site = locate(model)[0]
    settings = {"fraction": 0.25, "alpha": 1.5, "layers": [0]}

    def run(shield: bool) -> tuple[Tensor, dict[str, Tensor]]:
        with infosteer.steer(model, [infosteer.Intervention(**settings, shield=shield)]) as session:
            out = model(**rows, use_cache=False)
            return out.logits.detach(), gradients(model, session.loss(out.loss))

    plain_k: list[Tensor] = []
    hook = site.module.register_forward_pre_hook(lambda m, args: plain_k.append(args[0].detach()))
    model(**rows, use_cache=False)
    hook.remove()
    free_logits, free = run(False)
    outputs: list[Tensor] = []

    def keep(module: torch.nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
        if out.requires_grad:  # the proof at the beginning of a session has no gradients
            out.retain_grad()
            outputs.append(out)

    hook = site.module.register_forward_hook(keep)
    run(False)
    hook.remove()
    logits, shielded = run(True)
    torch.testing.assert_close(logits, free_logits)
    lifted = intervene(plain_k[0], settings["fraction"], settings["alpha"])
    kept = torch.where(lifted != plain_k[0], 0.0, plain_k[0]).reshape(-1, site.width)
    assert outputs[0].grad is not None
    by_hand = (kept.T @ outputs[0].grad.reshape(-1, site.hidden)).T
    name = f"{site.name}.weight"
    torch.testing.assert_close(shielded[name], by_hand)
    assert not torch.allclose(free[name], by_hand)
    for other in free:
        if other != name:
            torch.testing.assert_close(shielded[other], free[other])


SWITCHES = {
    "fraction": 0.25,
    "alpha": 1.5,
    "tokens": "answer",
    "entropy_low": 0.6,
    "entropy_high": 0.95,
    "shield": True,
}


def switched(prepare: Callable[[torch.nn.Module], Any], rows: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Gradients with all switches on, in a model that ``prepare`` may change or wrap once it is steered."""
    model = llama()
    with infosteer.steer(model, [infosteer.Intervention(**SWITCHES)]) as session:
        prepared = prepare(model)
        call = model if prepared is None else prepared
        return gradients(model, session.loss(call(**(rows or batch()), use_cache=False).loss))


def checkpointed(model: torch.nn.Module, reentrant: bool) -> None:
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    model.enable_input_require_grads()


@pytest.mark.parametrize("reentrant", [False, True])
def test_the_switches_survive_checkpointing(reentrant: bool) -> None:
    wanted, found = switched(lambda model: None), switched(lambda model: checkpointed(model, reentrant))
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_compiled_switches_follow_labels_and_step() -> None:
    torch._dynamo.reset()
    other = batch()
    other["labels"] = other["labels"].roll(1, 0).masked_fill(other["attention_mask"] == 0, -100)
    methods = [infosteer.Intervention(**SWITCHES), KeyRandom(fraction=0.1)]

    def run(compiled: bool) -> list[dict[str, Tensor]]:
        model, found = llama(num_hidden_layers=1), []
        with infosteer.steer(model, methods) as session:
            call = torch.compile(model, backend="aot_eager") if compiled else model
            for step, rows in enumerate((batch(), other)):
                session.step = step
                found.append(gradients(model, session.loss(call(**rows, use_cache=False).loss)))
        return found

    eager = run(False)
    assert any(not torch.allclose(eager[0][name], value) for name, value in eager[1].items())
    for wanted, found in zip(eager, run(True), strict=True):
        for name, gradient in wanted.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


def test_the_switches_do_not_see_padding() -> None:
    rows = batch()
    wider = {
        "input_ids": torch.nn.functional.pad(rows["input_ids"], (0, 3), value=1),
        "attention_mask": torch.nn.functional.pad(rows["attention_mask"], (0, 3)),
        "labels": torch.nn.functional.pad(rows["labels"], (0, 3), value=-100),
    }
    wanted, found = switched(lambda model: None), switched(lambda model: None, wider)
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)
