"""The contract of every method in a training: what changes nothing, what must change something, what is left behind."""

from __future__ import annotations

import pytest
import torch
from every import edits_weights_at_once, every_model_method, kind
from world import FAMILIES, batch, gradients, llama, make, relative_error, steer, train

from infosteer.core.params import ParamMethod
from infosteer.core.surfaces import ProbeMethod
from infosteer.errors import ArchitectureError, NoEffectError


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
