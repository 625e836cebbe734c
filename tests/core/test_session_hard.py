"""The session in loops that are not straight: checkpointing with schedules and pauses, interrupts, nested and several
calls, dropped models, odd labels."""

from __future__ import annotations

import contextlib
import gc
import weakref
from typing import Any

import pytest
import torch
from test_session import IDS, LABELS, coefficients, tiny
from torch import nn
from torch.optim import optimizer as optimizers
from transformers import LlamaConfig, LlamaForSequenceClassification

import infosteer
from infosteer.errors import AttachError, ConfigError, InfoSteerError, NoEffectError

MODES = {"non-reentrant": False, "reentrant": True}


def checkpointed(reentrant: bool) -> nn.Module:
    model = tiny()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    model.enable_input_require_grads()
    return model


def forward(model: nn.Module, ids: torch.Tensor = IDS, labels: torch.Tensor = LABELS) -> torch.Tensor:
    return model(input_ids=ids, labels=labels, use_cache=False).loss


def gradients(model: nn.Module) -> list[torch.Tensor]:
    found = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    return found


def same(a: list[torch.Tensor], b: list[torch.Tensor], tolerance: float = 1e-6) -> bool:
    difference = sum(float((x - y).square().sum()) for x, y in zip(a, b, strict=True))
    return (difference / sum(float(y.square().sum()) for y in b)) ** 0.5 < tolerance


@pytest.mark.parametrize("reentrant", MODES.values(), ids=MODES)
def test_a_schedule_that_falls_to_zero_under_checkpointing(reentrant: bool) -> None:
    model = checkpointed(reentrant)
    bare = tiny()
    schedule = {"points": [[0, 1.0], [1, 0.0]], "shape": "hold"}
    methods = [
        infosteer.EntropyRegularization(weight=5.0, strength=schedule),
        infosteer.Intervention(fraction=0.3, strength=schedule),
    ]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with infosteer.steer(model, methods) as session:
        for step in range(3):
            session.loss(forward(model)).backward()
            found = gradients_kept(model)
            forward(bare).backward()
            assert same(found, gradients(bare)) == (step > 0)
            optimizer.step()
            model.zero_grad()


def gradients_kept(model: nn.Module) -> list[torch.Tensor]:
    return [p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize("reentrant", MODES.values(), ids=MODES)
def test_a_paused_forward_is_recomputed_plain(reentrant: bool) -> None:
    bare = tiny()
    forward(bare).backward()
    wanted = gradients(bare)
    model = checkpointed(reentrant)
    methods = [infosteer.Intervention(fraction=0.5), infosteer.EntropyRegularization(weight=1.0)]
    with infosteer.steer(model, methods) as session:
        session.loss(forward(model)).backward()
        assert not same(gradients(model), wanted)
        with session.pause():
            loss = session.loss(forward(model))
        loss.backward()
        assert same(gradients(model), wanted)
        session.loss(forward(model)).backward()
        assert not same(gradients(model), wanted)


def test_losses_coupled_separately_after_both_forwards() -> None:
    first, second = (IDS[:1], LABELS[:1]), (IDS[1:], LABELS[1:])
    parts = []
    for pair in (first, second):
        model = tiny()
        with infosteer.steer(model, [infosteer.EntropyRegularization(weight=0.2)]) as session:
            session.loss(forward(model, *pair)).backward()
        parts.append(gradients(model))
    wanted = [a + b for a, b in zip(*parts, strict=True)]
    for swap in (False, True):
        model = tiny()
        with infosteer.steer(model, [infosteer.EntropyRegularization(weight=0.2)]) as session:
            losses = [forward(model, *pair) for pair in (first, second)]
            coupled = [session.loss(loss) for loss in (reversed(losses) if swap else losses)]
            sum(coupled).backward()
        assert same(gradients(model), wanted)


def test_a_loss_that_was_thrown_away_is_not_counted() -> None:
    wanted = tiny()
    with infosteer.steer(wanted, [infosteer.EntropyRegularization(weight=0.2)]) as session:
        value = session.loss(forward(wanted))
        value.backward()
    model = tiny()
    with infosteer.steer(model, [infosteer.EntropyRegularization(weight=0.2)]) as session:
        forward(model, IDS[:1], LABELS[:1])
        loss = session.loss(forward(model))
        assert float(loss.detach()) == float(value.detach())
        loss.backward()
    assert same(gradients(model), gradients(wanted))


def test_an_interrupted_forward_leaves_the_session_usable() -> None:
    model = tiny()
    plain = coefficients(model.eval())[0]
    model.train()
    with infosteer.steer(model, [infosteer.EntropyRegularization(weight=0.3), infosteer.Intervention()]) as session:

        def interrupt(*_: Any) -> None:
            raise KeyboardInterrupt

        handle = model.model.layers[1].register_forward_pre_hook(interrupt)
        with contextlib.suppress(KeyboardInterrupt):
            forward(model)
        handle.remove()
        model.eval()
        assert torch.equal(coefficients(model)[0], plain)
        model.train()
        session.loss(forward(model)).backward()
    found = gradients(model)
    fresh = tiny()
    with infosteer.steer(fresh, [infosteer.EntropyRegularization(weight=0.3), infosteer.Intervention()]) as session:
        session.loss(forward(fresh)).backward()
    assert same(found, gradients(fresh))


@pytest.mark.parametrize("inner", [False, True], ids=["the whole model", "its decoder"])
def test_a_call_nested_in_a_hook_is_its_own(inner: bool) -> None:
    model = tiny()
    nested: list[torch.Tensor] = []

    def look(*_: Any) -> None:
        if nested:
            return
        nested.append(torch.empty(0))
        model.eval()
        with torch.no_grad():
            called = model.model if inner else model
            nested.append(called(input_ids=IDS[:, :4])[0])
        model.train()

    with infosteer.steer(model, [infosteer.Intervention(fraction=0.5, alpha=4.0)]):
        handle = model.model.layers[1].register_forward_hook(look)
        forward(model)
        handle.remove()
    model.eval()
    with torch.no_grad():
        called = model.model if inner else model
        assert torch.equal(nested[1], called(input_ids=IDS[:, :4])[0])


def test_dropped_models_are_freed() -> None:
    gone = []
    for _ in range(3):
        model = tiny()
        session = infosteer.steer(model, [infosteer.Intervention(), infosteer.EntropyRegularization()])
        session.loss(forward(model)).backward()
        torch.optim.SGD(model.parameters(), lr=0.1).step()
        gone.append(weakref.ref(model))
        del model, session
    gc.collect()
    assert [reference() for reference in gone] == [None] * 3
    hooks = optimizers._global_optimizer_pre_hooks
    before = len(hooks)
    infosteer.steer(tiny(), [infosteer.Intervention()]).remove()
    assert len(hooks) == before


def test_nothing_piles_up_in_loops_without_session_loss() -> None:
    model = tiny()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with infosteer.steer(model, [infosteer.Intervention(), infosteer.ProtectMemory()]) as session:
        for _ in range(5):
            forward(model).backward()
            optimizer.step()
        assert not session.calls._pending


def test_optimizers_that_run_the_forward_themselves() -> None:
    model = tiny()
    optimizer = torch.optim.LBFGS([model.lm_head.weight], lr=0.1, max_iter=2)
    with infosteer.steer(model, [infosteer.EntropyRegularization(weight=0.1)]) as session:

        def closure() -> torch.Tensor:
            optimizer.zero_grad()
            loss = session.loss(forward(model))
            loss.backward()
            return loss

        first = float(optimizer.step(closure).detach())
        assert float(optimizer.step(closure).detach()) < first
        assert session.step == 2


def test_a_warm_up_that_is_never_coupled_is_an_error() -> None:
    model = tiny()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    warm_up = {"points": [[0, 0.0], [3, 1.0]]}
    with infosteer.steer(model, [infosteer.EntropyRegularization(strength=warm_up)]):
        forward(model).backward()
        optimizer.step()
        forward(model).backward()
        with pytest.raises(NoEffectError, match="never added"):
            optimizer.step()


def test_a_warm_up_of_an_intervention_is_judged_when_it_begins() -> None:
    model = tiny()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    warm_up = {"points": [[0, 0.0], [2, 1.0]]}
    with infosteer.steer(model, [infosteer.Intervention(strength=warm_up)]) as session:
        for _ in range(4):
            forward(model).backward()
            optimizer.step()
        assert session.effects.edits_changed is True


def test_pausing_covers_scaled_updates_and_the_first_step() -> None:
    model = tiny()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    weight = model.model.layers[0].mlp.down_proj.weight
    methods = [infosteer.ProtectMemory(values=0.5, keys=1.0, gates=1.0), infosteer.EntropyRegularization()]
    with infosteer.steer(model, methods) as session:
        for paused in (True, False):
            before = weight.detach().clone()
            with session.pause() if paused else contextlib.nullcontext():
                session.loss(forward(model)).backward()
                optimizer.step()
            rate = 0.1 if paused else 0.05
            assert torch.allclose(weight, before - rate * weight.grad, atol=1e-7)
            optimizer.zero_grad()


def test_overlapping_protection_is_undone_in_order() -> None:
    model = tiny()
    methods = [infosteer.ProtectMemory(values=0.0, keys=1.0, gates=1.0), infosteer.ProtectMemory()]
    with infosteer.steer(model, methods):
        assert not model.model.layers[0].mlp.down_proj.weight.requires_grad
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_parts_of_a_steered_model_are_steered_already() -> None:
    model = tiny()
    first = infosteer.steer(model, [infosteer.Intervention()])
    with pytest.raises(AttachError, match="steered already"):
        infosteer.steer(model.model, [infosteer.Intervention()])
    first.remove()
    second = infosteer.steer(model, [infosteer.Intervention()])
    first.remove()
    with pytest.raises(AttachError, match="steered already"):
        infosteer.steer(model, [infosteer.Intervention()])
    second.remove()


@pytest.mark.parametrize("labels", [torch.tensor([0, 1, 1]), torch.tensor([0.5, 1.0, 2.0])], ids=["classes", "values"])
def test_classification_heads_count_all_rows_that_are_not_padding(labels: torch.Tensor) -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(**sizes, vocab_size=48, pad_token_id=0, num_labels=1 if labels.is_floating_point() else 2)
    model = LlamaForSequenceClassification(config).train()
    mask = torch.ones_like(IDS)
    mask[1, 6:] = 0
    ids = IDS.masked_fill(mask == 0, 0)
    with infosteer.steer(model, [infosteer.EntropyRegularization(), infosteer.Intervention(fraction=0.2)]) as session:
        session.loss(model(input_ids=ids, attention_mask=mask, labels=labels).loss).backward()
        assert session.sums()["rows"] == float(mask.sum())


def test_fraction_schedules_do_not_stand_in_the_way_of_evaluation() -> None:
    model = tiny().eval()
    schedule = {"points": [[0.0, 1.0], [1.0, 0.0]], "unit": "fraction"}
    for scope in ("train", "always"):
        with infosteer.steer(model, [infosteer.Intervention(strength=schedule, scope=scope)]):
            forward(model)


@pytest.mark.parametrize(
    "call",
    [
        lambda: infosteer.steer("gpt2", []),
        lambda: infosteer.steer(None, []),
        lambda: infosteer.steer(tiny(), [infosteer.Intervention()], measure_every="a"),
        lambda: infosteer.steer(tiny(), [infosteer.Intervention()], measure_every=-3),
        lambda: infosteer.steer(tiny(), [infosteer.Intervention()], total_steps="10"),
        lambda: infosteer.steer(tiny(), [infosteer.Intervention()], total_steps=-1),
        lambda: infosteer.Intervention(fraktion=0.1),
        lambda: infosteer.Intervention(fraction=10**400),
        lambda: infosteer.Intervention(strength=10**400),
        lambda: infosteer.Intervention.preset(["paper"]),
        lambda: infosteer.Intervention.from_config("abc"),
        lambda: infosteer.steer(tiny(), [infosteer.Intervention(layers="9" * 5000)]),
        lambda: infosteer.method_info(["key_lift"]),
        lambda: infosteer.list_methods(None),
        lambda: infosteer.functional.intervene(None, 0.1, 1.0),
        lambda: infosteer.functional.intervene([1.0], 0.1, 1.0),
        lambda: infosteer.functional.key_entropy(None),
        lambda: infosteer.functional.key_entropy(torch.ones(3, 0)),
        lambda: infosteer.functional.information_surrogate(None, None),
    ],
)
def test_wrong_types_are_explained(call: Any) -> None:
    with pytest.raises(InfoSteerError):
        call()


@pytest.mark.parametrize(
    ("loss", "num_items"),
    [
        (3.0, None),
        (None, None),
        ({"loss": 1}, None),
        (torch.ones(1), None),
        (torch.ones(2), None),
        (torch.tensor(3), None),
        (torch.tensor(1.0), "a"),
        (torch.tensor(1.0), [3]),
        (torch.tensor(1.0), torch.ones(2)),
        (torch.tensor(1.0), -3),
        (torch.tensor(1.0), float("nan")),
    ],
)
def test_wrong_losses_are_explained(loss: Any, num_items: Any) -> None:
    with infosteer.steer(tiny(), [infosteer.EntropyRegularization()]) as session, pytest.raises(ConfigError):
        session.loss(loss, num_items=num_items)


def test_num_items_as_a_tensor_of_one_entry() -> None:
    found = []
    for num_items in (12, torch.tensor(12), torch.tensor([12])):
        model = tiny()
        with infosteer.steer(model, [infosteer.EntropyRegularization()]) as session:
            session.loss(forward(model), num_items=num_items).backward()
        found.append(gradients(model))
    assert same(found[1], found[0])
    assert same(found[2], found[0])
