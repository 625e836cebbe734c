"""The session: when methods act, what is measured, what is refused, what is left behind."""

from __future__ import annotations

import copy
import logging
import pickle
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

import infosteer
from infosteer.errors import AttachError, ConfigError, NoEffectError, SiteError


def tiny(layers: int = 3) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=48,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config).train()


IDS = torch.randint(0, 48, (3, 9), generator=torch.Generator().manual_seed(2))
LABELS = IDS.clone()
LABELS[0, :4] = -100
LABELS[2, 6:] = -100


def coefficients(model: torch.nn.Module) -> list[torch.Tensor]:
    """k as the down projections get it, behind any steering hook."""
    seen: list[torch.Tensor] = []
    downs = [m for n, m in model.named_modules() if n.endswith("mlp.down_proj")]
    handles = [m.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach())) for m in downs]
    try:
        model(input_ids=IDS, labels=LABELS)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def test_only_chosen_layers_are_edited() -> None:
    model = tiny()
    plain = coefficients(model)
    with infosteer.steer(model, [infosteer.Intervention(fraction=0.25, layers="1")]):
        steered = coefficients(model)
    assert torch.equal(plain[0], steered[0])
    changed = plain[1] != steered[1]
    assert torch.equal(changed.sum(-1), torch.full((3, 9), 10))  # round(0.25 * 40)
    wanted = plain[1].abs().mean(-1, keepdim=True) * torch.where(plain[1] < 0, -1.0, 1.0)
    assert torch.allclose(steered[1][changed], wanted.expand_as(plain[1])[changed])


def test_scopes() -> None:
    for scope, in_eval, in_no_grad in [("train", False, False), ("policy", False, True), ("always", True, True)]:
        model = tiny()
        plain = coefficients(model)[0]
        with infosteer.steer(model, [infosteer.Intervention(fraction=0.3, scope=scope, layers="0")]):
            assert not torch.equal(coefficients(model)[0], plain)
            with torch.no_grad():
                assert torch.equal(coefficients(model)[0], plain) is not in_no_grad
            model.eval()
            assert torch.equal(coefficients(model)[0], plain) is not in_eval


def test_policy_scope_leaves_the_reference_pass_of_peft_alone() -> None:
    model = get_peft_model(tiny(), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)).train()
    with model.disable_adapter():
        plain = coefficients(model)[0]
    with infosteer.steer(model, [infosteer.Intervention(fraction=0.3, scope="policy", layers="0")]), torch.no_grad():
        with model.disable_adapter():
            assert torch.equal(coefficients(model)[0], plain)
        policy = coefficients(model)[0]
    with torch.no_grad():
        assert not torch.equal(coefficients(model)[0], policy)


def test_generation_with_a_cache_under_scope_always() -> None:
    model = tiny().eval()
    arguments: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    plain = model.generate(IDS[:1], **arguments)
    with infosteer.steer(model, [infosteer.Intervention(fraction=0.6, alpha=5.0, scope="always")]):
        cached = model.generate(IDS[:1], use_cache=True, **arguments)
        assert torch.equal(cached, model.generate(IDS[:1], use_cache=False, **arguments))
        assert not torch.equal(cached, plain)
    assert torch.equal(model.generate(IDS[:1], **arguments), plain)


def test_pause_and_resume() -> None:
    model = tiny()
    plain = coefficients(model)[0]
    with infosteer.steer(model, [infosteer.Intervention(fraction=0.3)]) as session:
        with session.pause():
            assert torch.equal(coefficients(model)[0], plain)
        assert not torch.equal(coefficients(model)[0], plain)
        session.pause()
        assert torch.equal(coefficients(model)[0], plain)
        session.resume()
        assert not torch.equal(coefficients(model)[0], plain)


def test_loss_value_and_gradient_equal_the_explicit_loss() -> None:
    model = tiny()
    seen: list[torch.Tensor] = []
    for layer in model.model.layers:
        layer.mlp.down_proj.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    task = model(input_ids=IDS, labels=LABELS).loss
    counted = torch.zeros_like(LABELS, dtype=torch.bool)
    counted[:, :-1] = LABELS[:, 1:] != -100
    entropy = sum(torch.distributions.Categorical(probs=k.abs()).entropy()[counted].sum() for k in seen)
    explicit = task - 0.07 * entropy / counted.sum()
    explicit.backward()
    wanted = [p.grad.clone() for p in model.parameters()]

    model = tiny()
    with infosteer.steer(model, [infosteer.EntropyRegularization(weight=0.07)]) as session:
        loss = session.loss(model(input_ids=IDS, labels=LABELS).loss)
        assert float(loss.detach()) == pytest.approx(float(explicit.detach()), rel=1e-6)
        loss.backward()
        penalty = session.metrics()["infosteer/penalty"]
    assert penalty == pytest.approx(float((explicit - task).detach()), rel=1e-5)
    for parameter, gradient in zip(model.parameters(), wanted, strict=True):
        assert torch.allclose(parameter.grad, gradient, rtol=1e-4, atol=1e-6 * float(gradient.abs().max()))


def test_labels_given_by_position_and_rows_without_labels() -> None:
    """Without labels every row that is not padding counts."""
    model, mask = tiny(), torch.ones_like(IDS)
    mask[1, 5:] = 0
    with infosteer.steer(model, [infosteer.EntropyRegularization(weight=1.0)]) as session:
        logits = model(input_ids=IDS, attention_mask=mask).logits
        value = float((session.loss(logits.mean()) - logits.mean()).detach())
        entropies = session.sums()
    total = sum(v for k, v in entropies.items() if k.startswith("entropy/"))
    assert entropies["rows"] == float(mask.sum())
    assert value == pytest.approx(-total / float(mask.sum()), rel=1e-5)


def test_two_forwards_before_one_backward() -> None:
    """As in pairwise losses: each call's penalty is divided by its own tokens."""
    first, second = (IDS[:1], LABELS[:1]), (IDS[1:], LABELS[1:])
    parts = []
    for ids, labels in (first, second):
        model = tiny()
        with infosteer.steer(model, [infosteer.EntropyRegularization(weight=0.2)]) as session:
            session.loss(model(input_ids=ids, labels=labels).loss).backward()
        parts.append([p.grad.clone() for p in model.parameters()])
    for checkpointing in (False, True):
        model = tiny()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        with infosteer.steer(model, [infosteer.EntropyRegularization(weight=0.2)]) as session:
            losses = [model(input_ids=i, labels=y, use_cache=False).loss for i, y in (first, second)]
            session.loss(sum(losses)).backward()
        for parameter, a, b in zip(model.parameters(), *parts, strict=True):
            assert torch.allclose(parameter.grad, a + b, rtol=1e-4, atol=1e-7)
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
    model.enable_input_require_grads()
    with infosteer.steer(model, [infosteer.EntropyRegularization(weight=0.2)]) as session:
        losses = [model(input_ids=i, labels=y, use_cache=False).loss for i, y in (first, second)]
        with pytest.raises(AttachError, match="reentrant"):
            session.loss(sum(losses))


def test_a_no_grad_pass_between_forward_and_backward_does_not_disturb_recomputes() -> None:
    """DPO runs a reference pass there."""
    found = []
    for between in (False, True):
        model = tiny()
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": True})
        model.enable_input_require_grads()
        methods = [infosteer.Intervention(fraction=0.2), infosteer.EntropyRegularization(weight=0.2)]
        with infosteer.steer(model, methods) as session:
            loss = session.loss(model(input_ids=IDS, labels=LABELS, use_cache=False).loss)
            if between:
                with torch.no_grad():
                    model(input_ids=IDS[:, :5])
            loss.backward()
        found.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_grad_scaler_at_two_scales() -> None:
    gradients = []
    for scale in (1.0, 2.0**16, 3.0):
        model = tiny()
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with infosteer.steer(model, [infosteer.EntropyRegularization(weight=0.5)]) as session:
            scaler.scale(session.loss(model(input_ids=IDS, labels=LABELS).loss)).backward()
            scaler.unscale_(optimizer)
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    for gradient in gradients[1:]:
        assert float((gradient - gradients[0]).norm() / gradients[0].norm()) < 1e-6


def test_strength_schedule_follows_optimizer_steps() -> None:
    schedule = {"points": [[0, 0.0], [2, 1.0]]}
    model = tiny()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    values = []
    methods = [infosteer.EntropyRegularization(weight=1.0, strength=schedule)]
    with infosteer.steer(model, methods, measure_every=1) as session:
        for _ in range(4):
            session.loss(model(input_ids=IDS, labels=LABELS).loss).backward()
            values.append(session.metrics()["infosteer/penalty"])
            optimizer.step()
        assert session.step == 4
    assert values[0] == 0.0
    assert values[1] == pytest.approx(0.5 * values[2], rel=1e-6)
    assert values[2] == pytest.approx(values[3], rel=1e-6)


def test_metrics_are_those_of_the_rows_that_carry_loss() -> None:
    model = tiny()
    counted = torch.zeros_like(LABELS, dtype=torch.bool)
    counted[:, :-1] = LABELS[:, 1:] != -100
    plain = coefficients(model)
    with infosteer.steer(model, [infosteer.Intervention(fraction=0.2, order="signed", reference="mean")]) as session:
        steered = coefficients(model)
        metrics = session.metrics()
    for layer, k in enumerate(steered):
        entropy = torch.distributions.Categorical(probs=k.abs()).entropy()[counted].mean()
        if layer == 0:  # later layers see what earlier edits changed
            change = (k - plain[0]).abs()[counted].mean()
            assert float(change) > 0
        assert metrics[f"infosteer/entropy/layer_{layer}"] == pytest.approx(float(entropy), rel=1e-5)
    assert metrics["infosteer/change"] > 0
    assert 0 < metrics["infosteer/sign_change"] <= 0.2 + 1e-6


def test_large_edits_are_announced(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny()
    with caplog.at_level(logging.INFO), infosteer.steer(model, [infosteer.Intervention.preset("paper", fraction=0.1)]):
        model(input_ids=IDS, labels=LABELS)
    assert "not minor" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO), infosteer.steer(model, [infosteer.Intervention(fraction=0)]):
        model(input_ids=IDS, labels=LABELS)
    assert "is off" in caplog.text
    assert "not minor" not in caplog.text


def test_sessions_that_saw_no_training_step_warn(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), infosteer.steer(tiny(), [infosteer.Intervention()]):
        pass
    assert "without having seen a training step" in caplog.text


def test_refusals() -> None:
    model = tiny()
    with pytest.raises(ConfigError, match="layers"):
        infosteer.steer(model, [infosteer.Intervention(layers="0-9")])
    assert not model.model.layers[0].mlp.down_proj._forward_pre_hooks
    session = infosteer.steer(model, [infosteer.Intervention()])
    with pytest.raises(AttachError, match="steered already"):
        infosteer.steer(model, [infosteer.Intervention()])
    session.remove()
    infosteer.steer(model, [infosteer.Intervention()]).remove()


def test_a_site_that_falls_silent_is_an_error() -> None:
    model = tiny()
    with infosteer.steer(model, [infosteer.Intervention()]):
        mlp = model.model.layers[1].mlp
        mlp.forward = lambda x: torch.nn.functional.linear(
            mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x), mlp.down_proj.weight
        )
        with pytest.raises(SiteError, match=r"silent now[\s\S]*layers\.1"):
            model(input_ids=IDS, labels=LABELS)


def test_labels_that_do_not_line_up() -> None:
    model = tiny()
    with (
        infosteer.steer(model, [infosteer.EntropyRegularization()]),
        pytest.raises(AttachError, match="do not line up"),
    ):
        model(input_ids=IDS, attention_mask=torch.ones(3, 9), shift_labels=torch.zeros(3, 5, dtype=torch.long))


def test_forgetting_session_loss_is_an_error() -> None:
    model = tiny()
    with infosteer.steer(model, [infosteer.EntropyRegularization()]):
        model(input_ids=IDS, labels=LABELS).loss.backward()
        with pytest.raises(NoEffectError, match=r"session\.loss"):
            torch.optim.SGD(model.parameters(), lr=0.1).step()


def test_other_models_optimizers_are_left_alone() -> None:
    model, other = tiny(), tiny()
    with infosteer.steer(model, [infosteer.EntropyRegularization()]) as session:
        other(input_ids=IDS, labels=LABELS).loss.backward()
        torch.optim.SGD(other.parameters(), lr=0.1).step()
        assert session.step == 0


def test_copies_and_pickles_are_plain_models() -> None:
    model = tiny()
    plain = coefficients(model)[0]
    with infosteer.steer(model, [infosteer.Intervention(fraction=0.3)]):
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(coefficients(twin)[0], plain)
        assert not torch.equal(coefficients(model)[0], plain)


def test_a_failing_forward_leaves_the_session_usable() -> None:
    model = tiny()
    with infosteer.steer(model, [infosteer.EntropyRegularization(weight=0.1)]) as session:
        with pytest.raises(IndexError):
            model(input_ids=torch.full((1, 4), 9999), labels=torch.zeros(1, 4, dtype=torch.long))
        loss = session.loss(model(input_ids=IDS, labels=LABELS).loss)
        loss.backward()
        assert float(loss.detach()) == pytest.approx(
            float(model(input_ids=IDS, labels=LABELS).loss.detach()) + session.metrics()["infosteer/penalty"], rel=1e-5
        )


def test_edits_apply_in_order_and_penalties_see_them() -> None:
    model = tiny()
    methods = [
        infosteer.EntropyRegularization(weight=1.0, layers="0"),
        infosteer.Intervention(fraction=0.5, layers="0"),
        infosteer.Intervention(fraction=0.1, alpha=3.0, layers="0"),
    ]
    k = coefficients(model)[0]
    wanted = infosteer.functional.intervene(infosteer.functional.intervene(k, 0.5, 1.0), 0.1, 3.0)
    with infosteer.steer(model, methods) as session:
        assert torch.equal(coefficients(model)[0], wanted)
        counted = torch.zeros_like(LABELS, dtype=torch.bool)
        counted[:, :-1] = LABELS[:, 1:] != -100
        entropy = infosteer.functional.key_entropy(wanted)[counted].mean()
        assert session.metrics()["infosteer/penalty"] == pytest.approx(-float(entropy), rel=1e-5)
