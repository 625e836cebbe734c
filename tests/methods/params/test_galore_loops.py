"""GaLore in the loops that it must live in: per layer, resumed, in micro-batches, beside other methods and adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small import IDS, llama, lora, steer, train, weights
from small_trainer import Stop, trainer
from torch import Tensor, nn

import infosteer
from infosteer.core.params import Loop
from infosteer.errors import AttachError, ConfigError
from infosteer.methods.params.galore import GaLore

PROJECTED = ("q_proj.weight", "k_proj.weight", "v_proj.weight", "o_proj.weight", "up_proj.weight", "gate_proj.weight",
             "down_proj.weight")  # fmt: skip


def test_what_is_not_projected_learns_as_ever() -> None:
    plain, found = train(llama(), [], steps=1), train(llama(), [GaLore(rank=3)], steps=1)
    for name, value in plain.items():
        assert torch.equal(found[name], value) == (not name.endswith(PROJECTED)), name
    ffn = train(llama(), [GaLore(rank=3, parts="ffn", layers=[1])], steps=1)
    for name, value in plain.items():
        assert torch.equal(ffn[name], value) == (not (name.endswith(PROJECTED[4:]) and "layers.1" in name)), name


@pytest.mark.parametrize("settings", [{}, {"proj_type": "full", "rotate": True, "update_proj_gap": 2}])
def test_per_layer_steps_are_the_same_and_free_each_gradient(settings: dict[str, Any]) -> None:
    wanted = train(llama(), [GaLore(rank=3, **settings)], steps=4)
    model = llama()
    with steer(model, [GaLore(rank=3, per_layer=True, **settings)]) as session:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
        session.begin(optimizer)
        held = []
        hooks = [p.register_post_accumulate_grad_hook(lambda _: held.append(alive(model))) for p in model.parameters()]
        for _ in range(4):
            model(input_ids=IDS, labels=IDS).loss.backward()
            assert alive(model) == 0
            optimizer.step()
        assert max(held) <= 2, "gradients pile up"
        assert session.step == 4
        assert len(optimizer.param_groups[0]["params"]) == len(list(model.parameters()))
        for hook in hooks:
            hook.remove()
    for name, value in weights(model).items():
        torch.testing.assert_close(value, wanted[name], rtol=1e-12, atol=1e-14)
    model(input_ids=IDS, labels=IDS).loss.backward()
    assert alive(model) == len(list(model.parameters())), "the hooks are gone with the session"


def test_per_layer_steps_with_hooks_of_others_and_an_optimizer_of_ones_own() -> None:
    """Hooks on the optimizer run for each parameter, as the paper's one optimizer a parameter would have them."""

    class Slow(torch.optim.SGD):
        """Its own step, which torch wraps when the first one is made."""

        @torch.no_grad()
        def step(self, closure: Any = None) -> None:
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is not None:
                        p.sub_(0.5 * group["lr"] * p.grad)

    wanted = train(llama(), [GaLore(rank=3)], steps=2, optimizer=Slow, weight_decay=0.0)
    model = llama()
    with steer(model, [GaLore(rank=3, per_layer=True)]) as session:
        optimizer, seen = Slow(model.parameters(), lr=1e-2), []
        optimizer.register_step_post_hook(lambda o, *_: seen.append(sum(len(g["params"]) for g in o.param_groups)))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1.0)
        session.begin(optimizer)
        for _ in range(2):
            model(input_ids=IDS, labels=IDS).loss.backward()
            optimizer.step()
            schedule.step()
        assert session.step == 2
    count = len(list(model.parameters()))
    assert seen == ([1] * count + [count]) * 2
    for name, value in weights(model).items():
        torch.testing.assert_close(value, wanted[name], rtol=1e-12, atol=1e-14)


def alive(model: nn.Module) -> int:
    return sum(p.grad is not None for p in model.parameters())


def test_per_layer_refuses_loops_that_need_all_gradients_by_name(tmp_path: Path) -> None:
    for loop, words in (
        (Loop(accumulation=2), "gradient accumulation"), (Loop(clipping=1.0), "clipping"),
        (Loop(processes=2), "over processes"), (Loop(scaled=True), "loss scaler"),
    ):  # fmt: skip
        model = llama()
        with steer(model, [GaLore(per_layer=True)]) as session, pytest.raises(AttachError, match=words):
            session.begin(torch.optim.AdamW(model.parameters()), loop)
    model = llama()
    with steer(model, [GaLore(per_layer=True)]):
        optimizer = torch.optim.AdamW(model.parameters())
        model(input_ids=IDS, labels=IDS).loss.backward()
        with pytest.raises(AttachError, match=r"session\.begin"):
            optimizer.step()
    with steer(model, [GaLore(per_layer=True)]) as session:
        session.begin(torch.optim.AdamW(model.parameters()))
        model.zero_grad()
        model(input_ids=IDS, labels=IDS).loss.backward()
        with pytest.raises(AttachError, match="second gradient"):
            model(input_ids=IDS, labels=IDS).loss.backward()
    made = trainer(tmp_path)
    session = infosteer.attach(made, [GaLore(per_layer=True)])
    with pytest.raises(AttachError, match="clipping"):  # the trainer's default
        made.train()
    session.remove()
    with pytest.raises(ConfigError, match="same parameters"):
        steer(llama(), [GaLore(per_layer=True), {"method": "protect_memory", "values": 0.5}])


@pytest.mark.parametrize("settings", [{}, {"per_layer": True}], ids=["usual", "per-layer"])
def test_a_killed_training_ends_with_the_same_bits(tmp_path: Path, settings: dict[str, Any]) -> None:
    method = {"method": "galore", "rank": 2, "update_proj_gap": 3, **settings}

    def made(folder: str) -> Any:
        found = trainer(tmp_path / folder)
        if settings:
            found.args.max_grad_norm = 0.0
        infosteer.attach(found, [method])
        return found

    whole, killed = made("whole"), made("killed")
    whole.train()
    killed.add_callback(Stop(5))
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    resumed = made("killed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "killed" / "checkpoint-4"))
    for name, value in weights(resumed.model).items():
        assert torch.equal(value, weights(whole.model)[name]), name
    saved = torch.load(tmp_path / "killed" / "checkpoint-4" / "optimizer.pt", weights_only=True)
    assert any("galore_right" in state or "galore_left" in state for state in saved["state"].values())
    other = trainer(tmp_path / "killed")
    infosteer.attach(other, [{**method, "rank": 3, "per_layer": False}])
    with pytest.raises(AttachError, match="another rank or mode"):
        other.train(resume_from_checkpoint=str(tmp_path / "killed" / "checkpoint-4"))


def test_micro_batches_are_projected_once_together() -> None:
    def run(parts: int) -> dict[str, Tensor]:
        model = llama()
        with steer(model, [GaLore(rank=3)]):
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, eps=1e-30)
            for _ in range(3):
                for rows in IDS.chunk(parts):
                    (model(input_ids=rows, labels=rows).loss / parts).backward()
                optimizer.step()
                optimizer.zero_grad()
        return weights(model)

    whole = run(1)
    for name, value in run(3).items():
        torch.testing.assert_close(value, whole[name], rtol=1e-6, atol=1e-8)


def test_modules_by_the_names_that_trainer_takes() -> None:
    model = llama()
    for targets, wanted in (
        (["attn", "mlp"], PROJECTED), (["q_proj"], ("q_proj.weight",)), (r".*\.(up|down)_proj", PROJECTED[4::2]),
        ("all-linear", (*PROJECTED, "lm_head.weight")),
    ):  # fmt: skip
        with steer(model, [GaLore(rank=3, target_modules=targets)]) as session:
            own = {id(p) for p in session.applied.handles[0].parameters()}
        assert own == {id(p) for n, p in model.named_parameters() if n.endswith(wanted)}
    with pytest.raises(ConfigError, match="no trained matrix has such a name"):
        steer(model, [GaLore(target_modules=["ears"])])


def test_an_optimizer_goes_on_when_the_session_has_ended() -> None:
    model = llama()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    with steer(model, [GaLore(rank=3)]):
        model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
        assert optimizer.state[model.model.layers[0].mlp.up_proj.weight]
    assert model.model.layers[0].mlp.up_proj.weight not in optimizer.state
    assert optimizer.state[model.lm_head.weight]["step"] == 1
    optimizer.step()
    assert optimizer.state[model.model.layers[0].mlp.up_proj.weight]["exp_avg"].shape == (24, 16)


@pytest.mark.parametrize("first", [True, False])
def test_it_composes_with_methods_around_the_step(first: bool) -> None:
    """In either order: what another method holds back is held back of the lifted update."""
    galore, slow = GaLore(rank=3), infosteer.ProtectMemory(values=0.3, keys=1.0, gates=1.0)
    start, alone = weights(llama()), train(llama(), [galore], steps=1)
    both = train(llama(), [galore, slow] if first else [slow, galore], steps=1)
    for name, value in both.items():
        factor = 0.3 if "down_proj" in name else 1.0
        torch.testing.assert_close(value, start[name] + factor * (alone[name] - start[name]))
    frozen = train(llama(), [galore, infosteer.ProtectMemory()] if first else [infosteer.ProtectMemory(), galore])
    for name, value in frozen.items():
        assert torch.equal(value, start[name]) == ("mlp" in name), name
    pulled = train(llama(), [galore, infosteer.RecAdam(k=0.0, pull=0.0, gamma=1e-12)], steps=1, weight_decay=0.0)
    unpulled = train(llama(), [galore], steps=1, weight_decay=0.0)
    for name, value in pulled.items():  # lambda 1/2: half of the lifted update
        torch.testing.assert_close(value, (start[name] + unpulled[name]) / 2, rtol=1e-7, atol=1e-9)
    two = [GaLore(rank=2, parts="ffn"), GaLore(rank=4, parts="attention")]
    found, one = train(llama(), two, steps=1), train(llama(), two[:1], steps=1)
    for name, value in one.items():
        assert torch.equal(found[name], value) == ("self_attn" not in name), name
    with pytest.raises(ConfigError, match="same parameters"):
        steer(llama(), [GaLore(rank=2), GaLore(rank=4, parts="attention")])


def test_adapters_and_what_is_trained_whole_beside_them() -> None:
    model = lora(llama(), ["q_proj", "up_proj"])
    start = weights(model)
    found = train(model, [GaLore(rank=2)], steps=3)
    assert any(not torch.equal(found[n], v) for n, v in start.items())
    assert all(torch.equal(found[n], v) for n, v in start.items() if "lora_" not in n)
    with pytest.raises(AttachError, match="no trained matrix is larger than the rank"):
        steer(lora(llama(), ["q_proj"]), [GaLore(rank=4)])
    whole = lora(llama(), ["q_proj"], modules_to_save=["down_proj"])
    with steer(whole, [GaLore(rank=8)]) as session:
        assert session.metrics()["infosteer/galore/matrices"] == 2


def test_a_step_that_a_scaler_leaves_out_moves_nothing() -> None:
    for fused in (False, True):
        model, scaler = llama().float(), torch.amp.GradScaler("cpu")
        with steer(model, [GaLore(rank=3)]):
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1, fused=fused)
            moved = []
            for scale in (float("inf"), 1.0, float("inf"), 1.0):
                before = weights(model)
                optimizer.zero_grad()
                scaler.scale(model(input_ids=IDS, labels=IDS).loss * scale).backward()
                scaler.step(optimizer)
                scaler.update()
                now = weights(model)
                moved.append(any(not torch.equal(value, before[name]) for name, value in now.items()))
                assert all(bool(value.isfinite().all()) for value in now.values())
        assert moved == [False, True, False, True]
