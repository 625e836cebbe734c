"""Edit and entropy inside the gated activation: the same training as with hooks, and the hooks' way where it must be.

Kernels need a GPU. Here the question whether one takes the rows is answered yes, and ``ops.gated`` computes in PyTorch;
``tests/ops/triton_cases/session_cases.py`` has a session on the kernels themselves.
"""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from tests.models.tiny_models import TEXT, tiny, tokens
from torch import nn
from transformers.models.llama.modeling_llama import LlamaMLP

import infosteer
from infosteer.core import firing, fused
from infosteer.core.fused import FusedForward
from infosteer.core.hooks import SiteHook
from infosteer.core.plans import SitePlan

LIFT, ENTROPY = {"method": "key_lift", "fraction": 0.2}, {"method": "key_entropy", "weight": 0.5}
BOTH = [LIFT, ENTROPY]
# Gated families whose forward is more than down(act(gate) * up), or has gate and up in one projection.
APART = {"falcon_h1", "gemma3n_text", "glm", "glm4", "phi3", "seed_oss"}


@pytest.fixture
def _taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "kernels_take", lambda k: True)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, _taken: None) -> list[int]:
    """The layers that were computed in one go."""
    found: list[int] = []
    whole = firing.fire_gated

    def counted(call: Any, plan: Any, *given: Any) -> Any:
        found.append(plan.site.layer)
        return whole(call, plan, *given)

    monkeypatch.setattr("infosteer.core.session.fire_gated", counted)
    return found


def fused_sites(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(vars(module).get("forward"), FusedForward)]


def task_loss(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    loss: torch.Tensor
    if model.get_output_embeddings() is None:  # a text decoder without a head
        loss = model(input_ids=ids)[0].square().mean()
    else:
        loss = model(input_ids=ids, labels=ids).loss
    return loss


def steps(model: nn.Module, methods: list[dict[str, Any]], count: int = 2, **settings: Any) -> list[list[Any]]:
    """Loss, metrics and gradients of a few steps; the first is measured."""
    found = []
    ids = tokens()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with infosteer.steer(model.train(), copy.deepcopy(methods), **settings) as session:
        for _ in range(count):
            optimizer.zero_grad()
            torch.manual_seed(0)
            loss = session.loss(task_loss(model, ids))
            loss.backward()
            gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
            found.append([loss.detach(), dict(session.metrics()), *gradients])
            optimizer.step()
    return found


def same(left: list[list[Any]], right: list[list[Any]], tolerance: float = 2e-5) -> None:
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        assert one[1].keys() == other[1].keys()
        for key in one[1]:
            assert one[1][key] == pytest.approx(other[1][key], rel=1e-4, abs=1e-6), key
        torch.testing.assert_close([one[0], *one[2:]], [other[0], *other[2:]], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("model_type", sorted(TEXT))
def test_every_family_trains_as_with_hooks(model_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = steps(tiny(model_type), BOTH)
    monkeypatch.setattr(fused, "kernels_take", lambda k: True)
    model = tiny(model_type)
    gated = [site.gated for site in infosteer.locate(model)]
    with infosteer.steer(model, copy.deepcopy(BOTH)):
        names = fused_sites(model)
        assert len(names) in (0, sum(gated))
        if model_type in APART or not any(gated):
            assert not names
        elif model_type in ("llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2", "gemma3_text", "olmo2", "smollm3"):
            assert names
    assert not fused_sites(model)
    same(steps(model, BOTH), expected)


@pytest.mark.usefixtures("_taken")
@pytest.mark.parametrize("methods", [[LIFT], [ENTROPY], BOTH, [{**LIFT, "order": "signed", "reference": "mean"}]])
def test_measured_steps_go_apart_and_others_in_one(methods: list[dict[str, Any]], calls: list[int]) -> None:
    steps(tiny("llama"), methods, count=3)
    assert calls == [0, 1] * 2  # not in the first step, which is measured
    with_layers = [{**method, "layers": [1]} for method in methods]
    calls.clear()
    steps(tiny("llama"), with_layers, count=2)
    assert calls == [1]


@pytest.mark.parametrize(
    "methods",
    [
        [LIFT, {"method": "key_noise", "fraction": 0.1}],
        [{**LIFT, "tokens": "answer"}],
        [{**LIFT, "entropy_low": 0.1}],
        [{**LIFT, "shield": True}],
        [ENTROPY, {"method": "key_entropy", "weight": 0.1}],
        [{"method": "key_norm"}],
        [LIFT, {"method": "key_norm"}],
        [{"method": "key_random"}],
    ],
    ids=str,
)
def test_what_a_kernel_does_not_do_as_a_whole_is_left_to_the_hooks(
    methods: list[dict[str, Any]], calls: list[int]
) -> None:
    model = tiny("llama")
    with infosteer.steer(model, copy.deepcopy(methods)):
        assert not fused_sites(model)
    steps(model, methods)
    assert not calls


def test_a_probe_sees_the_coefficients(calls: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    methods = [*BOTH, {"method": "knowledge_entropy", "every": 2}]
    found = steps(tiny("llama"), methods, count=4)
    assert calls == [0, 1] * 2  # steps 1 and 3
    monkeypatch.setattr(fused, "kernels_take", lambda k: False)
    same(found, steps(tiny("llama"), methods, count=4))


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_recompute_takes_the_way_of_its_forward(reentrant: bool, calls: list[int]) -> None:
    model = tiny("llama")
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    found = steps(model, BOTH, count=3)
    assert len(calls) == 8  # two layers, forward and recompute, two steps
    plain = tiny("llama")
    plain.enable_input_require_grads()
    same(found, steps(plain, BOTH, count=3))


@pytest.mark.parametrize("watched", ["act_fn", "down_proj"])
def test_a_hook_of_the_users_own_still_sees_what_it_saw(watched: str, calls: list[int]) -> None:
    model, seen = tiny("llama"), []
    module = getattr(model.model.layers[0].mlp, watched)
    module.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach().clone()))
    found = steps(model, BOTH)
    assert calls == [1]
    assert len(seen) >= 2
    same(found, steps(tiny("llama"), BOTH))


def test_only_the_calls_in_scope_are_edited(calls: list[int]) -> None:
    model, ids = tiny("llama").eval(), tokens()
    plain = model(input_ids=ids).logits
    with infosteer.steer(model, copy.deepcopy(BOTH)) as session:
        assert torch.equal(model(input_ids=ids).logits, plain)
        with session.pause():
            assert torch.equal(model.train()(input_ids=ids).logits, plain)
        assert not calls
        assert torch.equal(model.eval().model.layers[0].mlp(torch.ones(1, 2, 32)), tiny_mlp(model))
    everywhere = [{**LIFT, "scope": "always"}]
    with infosteer.steer(model, everywhere):
        edited = model(input_ids=ids).logits
    assert calls == [0, 1]
    assert not torch.equal(edited, plain)


def tiny_mlp(model: nn.Module) -> torch.Tensor:
    mlp = model.model.layers[0].mlp
    out: torch.Tensor = type(mlp).forward(mlp, torch.ones(1, 2, 32))
    return out


@pytest.mark.usefixtures("_taken")
def test_copies_are_plain_models() -> None:
    model, ids = tiny("llama").eval(), tokens()
    plain = model(input_ids=ids).logits
    with infosteer.steer(model, [{**LIFT, "scope": "always"}]):
        assert fused_sites(model)
        assert not torch.equal(model(input_ids=ids).logits, plain)
        twin = copy.deepcopy(model)
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        loaded = torch.load(file, weights_only=False)
        for other in (twin, loaded):
            assert torch.equal(other(input_ids=ids).logits, plain)
            assert other.model.layers[0].mlp.forward.module is other.model.layers[0].mlp
            with torch.no_grad():
                other.model.layers[0].mlp.down_proj.weight.zero_()
        assert not torch.equal(model(input_ids=ids).logits, plain)
    assert not fused_sites(model)
    assert torch.equal(model(input_ids=ids).logits, plain)


def test_adapters_with_dropout_keep_their_numbers(calls: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    peft = pytest.importorskip("peft")

    def adapted() -> nn.Module:
        torch.manual_seed(3)
        config = peft.LoraConfig(
            r=4, lora_dropout=0.3, target_modules=["gate_proj", "up_proj", "down_proj"], init_lora_weights=False
        )
        model: nn.Module = peft.get_peft_model(tiny("llama"), config)
        return model

    found = steps(adapted(), BOTH, count=3)
    assert calls == [0, 1] * 2
    monkeypatch.setattr(fused, "kernels_take", lambda k: False)
    same(found, steps(adapted(), BOTH, count=3))


class Clamped(LlamaMLP):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj((self.act_fn(self.gate_proj(x)) * self.up_proj(x)).clamp(-20, 20))


class SiLU(nn.Module):
    """Of the right name, and another function."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(1.702 * x)


@pytest.mark.usefixtures("_taken")
def test_what_only_seems_to_be_the_product_keeps_its_forward() -> None:
    model = tiny("llama")
    model.model.layers[0].mlp.__class__ = Clamped
    model.model.layers[1].mlp.act_fn = SiLU()
    with infosteer.steer(model, copy.deepcopy(BOTH)):
        assert not fused_sites(model)
    with infosteer.steer(tiny("seed_oss").eval(), copy.deepcopy(BOTH)) as session:
        assert not fused_sites(session.model)  # its dropout is off in evaluation


@pytest.mark.parametrize("how", ["activation", "class", "backward hook"])
def test_what_is_patched_later_is_called(how: str, calls: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = tiny("llama").train(), []
    act, mlp, ids = model.model.layers[0].mlp.act_fn, model.model.layers[0].mlp, tokens()
    with infosteer.steer(model, [LIFT], measure_every=0) as session:
        session.loss(task_loss(model, ids)).backward()  # the first batch is looked at whatever is measured
        if how == "activation":
            own = act.forward
            monkeypatch.setattr(act, "forward", lambda x: seen.append(1) or own(x))
        elif how == "class":
            forward = LlamaMLP.forward
            monkeypatch.setattr(LlamaMLP, "forward", lambda self, x: seen.append(self is mlp) or forward(self, x))
        else:
            hook = torch.nn.modules.module.register_module_full_backward_hook(
                lambda module, *_: seen.append(1) if module is act else None
            )
        calls.clear()
        task_loss(model, ids).backward()
        if how == "backward hook":
            hook.remove()
    assert any(seen)
    assert 0 not in calls


@pytest.mark.usefixtures("_taken")
def test_a_copy_of_a_steered_model_can_be_steered() -> None:
    model = tiny("llama")
    with infosteer.steer(model, copy.deepcopy(BOTH)):
        twin = copy.deepcopy(model)
    with infosteer.steer(twin, copy.deepcopy(BOTH)) as session:
        assert all(module.forward.session is session for module in (layer.mlp for layer in twin.model.layers))
    assert not fused_sites(twin)


@pytest.mark.usefixtures("_taken")
def test_weights_that_lie_elsewhere_keep_their_forward() -> None:
    model = tiny("llama")
    model.model.layers[0].mlp.up_proj.weight.data = torch.empty(0)  # as ZeRO-3 leaves them between two uses
    hooks = [firing_hook(model, layer) for layer in (0, 1)]
    assert [fused.fuse(hook.session, hook.plan.site, hook) is None for hook in hooks] == [True, False]


def firing_hook(model: nn.Module, layer: int) -> Any:
    site = infosteer.locate(model)[layer]
    return SiteHook(None, SitePlan(site=site))


@pytest.mark.usefixtures("_taken")
def test_a_forward_that_somebody_else_put_there_stays() -> None:
    model = tiny("llama")
    mlp = model.model.layers[0].mlp
    mlp.forward = lambda x: type(mlp).forward(mlp, x)
    mine = mlp.forward
    with infosteer.steer(model, copy.deepcopy(BOTH)):
        assert fused_sites(model) == ["model.layers.1.mlp"]
    assert mlp.forward is mine
    session = infosteer.steer(tiny("llama"), copy.deepcopy(BOTH))
    last = session.model.model.layers[1].mlp
    wrapped = last.forward
    last.forward = lambda x: wrapped(x)
    session.remove()
    assert torch.equal(last(torch.ones(1, 2, 32)), type(last).forward(last, torch.ones(1, 2, 32)))


def test_a_compiled_model_keeps_its_classes_forward(calls: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    def compiled(take: bool) -> torch.Tensor:
        monkeypatch.setattr(fused, "kernels_take", lambda k: take)
        model, ids = tiny("llama").train(), tokens()
        with infosteer.steer(model, [LIFT], measure_every=0):
            run = torch.compile(model, backend="aot_eager")
            for _ in range(2):
                loss = run(input_ids=ids, labels=ids).loss
            loss.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    torch.testing.assert_close(compiled(True), compiled(False))
    assert not calls


def test_half_precision_in_autocast(calls: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    def run(take: bool) -> list[torch.Tensor]:
        monkeypatch.setattr(fused, "kernels_take", lambda k: take)
        model, ids = tiny("llama").train(), tokens()
        with infosteer.steer(model, copy.deepcopy(BOTH)) as session:
            for _ in range(2):
                model.zero_grad()
                with torch.autocast("cpu", torch.bfloat16):
                    loss = session.loss(model(input_ids=ids, labels=ids).loss)
                loss.backward()
                with torch.no_grad():
                    session.step += 1  # no optimizer counts here; the next call is not measured
        return [loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]

    torch.testing.assert_close(run(True), run(False), rtol=2e-2, atol=2e-2)
    assert calls
