"""RecAdam against an optimizer written out from the paper's lines, its limits, and what it does to a tiny model."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small import IDS, llama, lora, steer, train, weights
from small_trainer import Stop, trainer
from torch import Tensor, nn

import infosteer
from infosteer.errors import ConfigError, NoEffectError
from infosteer.methods.params.recadam import RecAdam, annealed


def by_hand(
    model: nn.Module,
    coefficient: Callable[[int], float],
    *,
    steps: int = 4,
    gamma: float = 20.0,
    w: float = 1.0,
    rate: Callable[[int], float] = lambda t: 1e-2,
    decay: float = 0.1,
    betas: tuple[float, float] = (0.9, 0.999),
) -> dict[str, Tensor]:
    """Adam with recall, step by step on every weight; eps is 0 here and in the optimizer under test."""
    anchor = weights(model)
    moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in anchor.items()}
    for t in range(1, steps + 1):
        model.zero_grad()
        model(input_ids=IDS, labels=IDS).loss.backward()
        with torch.no_grad():
            for name, p in model.named_parameters():
                m, v = moments[name]
                m.mul_(betas[0]).add_((1 - betas[0]) * p.grad)
                v.mul_(betas[1]).add_((1 - betas[1]) * p.grad**2)
                eta = rate(t) * math.sqrt(1 - betas[1] ** t) / (1 - betas[0] ** t)
                p -= eta * coefficient(t) * torch.where(v > 0, m / v.sqrt(), 0)
                p -= rate(t) * (w - coefficient(t)) * gamma * (p - anchor[name])
                p -= rate(t) * decay * p
    return weights(model)


def adam(model: nn.Module, **settings: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), **{"lr": 1e-2, "weight_decay": 0.1, "eps": 1e-30, **settings})


def steered(
    model: nn.Module, method: Any, *, steps: int = 4, rate: Callable[[int], float] | None = None, **settings: Any
) -> dict[str, Tensor]:
    with steer(model, [method]):
        optimizer = adam(model, **settings)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, (lambda t: rate(t + 1) / 1e-2) if rate else lambda t: 1.0
        )
        for _ in range(steps):
            optimizer.zero_grad()
            model(input_ids=IDS, labels=IDS).loss.backward()
            optimizer.step()
            schedule.step()
    return weights(model)


def close(found: dict[str, Tensor], wanted: dict[str, Tensor], rtol: float = 1e-9) -> None:
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=rtol, atol=1e-11, msg=name)


@pytest.mark.parametrize(
    ("settings", "coefficient"),
    [
        ({"k": 0.8, "t0": 2.0}, lambda t: 1 / (1 + math.exp(-0.8 * (t - 2)))),
        ({"k": 0.8, "t0": 2.0, "w": 0.6}, lambda t: 0.6 / (1 + math.exp(-0.8 * (t - 2)))),
        ({"k": 0.0}, lambda t: 0.5),
        ({"anneal": "linear", "t0": 3.0}, lambda t: min(1.0, t / 3)),
        ({"anneal": "linear", "t0": 3.0, "w": 0.5}, lambda t: 0.5 * min(1.0, t / 3)),
        ({"anneal": "constant", "w": 0.7}, lambda t: 0.7),
    ],
)
def test_it_is_the_papers_update(settings: dict[str, Any], coefficient: Callable[[int], float]) -> None:
    w = settings.get("w", 1.0)
    wanted = by_hand(llama(), coefficient, w=w, decay=0.0)
    close(steered(llama(), RecAdam(gamma=20.0, **settings), weight_decay=0.0), wanted)
    # with decay, which torch applies before its update and the paper after the pull
    close(steered(llama(), RecAdam(gamma=20.0, **settings)), by_hand(llama(), coefficient, w=w))


def test_the_rate_of_the_pull_follows_the_schedule() -> None:
    def rate(t: int) -> float:
        return 1e-2 * (0.2, 1.0, 0.7, 0.4)[min(t, 4) - 1]

    wanted = by_hand(llama(), lambda t: 1 / (1 + math.exp(-(t - 3))), rate=rate, gamma=10.0)
    close(steered(llama(), RecAdam(gamma=10.0, k=1.0, t0=3.0), rate=rate), wanted)
    # pull 0.1 of the way at the highest rate 1e-2 is gamma 10
    close(steered(llama(), RecAdam(pull=0.1, k=1.0, t0=3.0), rate=rate), wanted)


@pytest.mark.parametrize("method", [RecAdam(w=0.0), RecAdam(strength=0.0), RecAdam(anneal="constant")])
def test_limits_that_are_the_plain_optimizer(method: RecAdam) -> None:
    found, wanted = train(llama(), [method]), train(llama(), [])
    for name, value in wanted.items():
        assert torch.equal(found[name], value)
    assert method.off


def test_strength_scales_both() -> None:
    """At s the task's factor is 1 + s (lambda - 1) and the pull s (w - lambda)."""
    wanted = by_hand(llama(), lambda t: 1 + 0.4 * (0.5 - 1), gamma=20.0)  # 0.4 (1 - 0.5) = 1 - 0.8
    close(steered(llama(), RecAdam(gamma=20.0, k=0.0, strength=0.4)), wanted)


def test_lambda() -> None:
    assert annealed(250) == 0.5
    assert [annealed(t, k=1e4, t0=10.0) for t in (1, 10, 11)] == [0.0, 0.5, 1.0]
    assert annealed(10**9, k=1e6) == 1.0
    assert annealed(1, k=1e6, t0=1e9) == 0.0
    values = [annealed(t, k=0.3, t0=20.0) for t in range(1, 60)]
    assert values == sorted(values)
    assert values[0] < 0.01 < 0.99 < values[-1]
    assert annealed(3, "linear", t0=0.0, w=0.5) == 0.5


def test_without_a_task_gradient_the_distance_contracts() -> None:
    """By 1 - lr gamma (1 - lambda) a step."""
    model = llama()
    start = weights(model)
    with steer(model, [RecAdam(gamma=4.0, k=0.0)]) as session:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        distances = [session.metrics()["infosteer/recadam/distance"]]
        for _ in range(3):
            for parameter in model.parameters():
                parameter.grad = torch.zeros_like(parameter)
            optimizer.step()
            distances.append(session.metrics()["infosteer/recadam/distance"])
        assert session.metrics()["infosteer/recadam/task_weight"] == 0.5
    by_hand = math.sqrt(sum(float((value - start[name]).square().sum()) for name, value in weights(model).items()))
    assert distances[-1] == pytest.approx(by_hand)
    for before, after in itertools.pairwise(distances):
        assert after == pytest.approx(before * (1 - 0.1 * 4.0 * 0.5))


def test_a_pull_that_would_overshoot_is_held(caplog: pytest.LogCaptureFixture) -> None:
    model = llama()
    start = weights(model)
    with caplog.at_level(logging.WARNING, "infosteer"):
        found = steered(model, RecAdam.preset("paper", t0=1e6), weight_decay=0.0)
    assert "overshoot" in caplog.text
    assert caplog.text.count("overshoot") == 1
    close(found, start)  # all the way back, in every step


def test_weights_without_an_anchor_learn_as_ever() -> None:
    method = RecAdam(unanchored=["lm_head.*", "*.q_proj.weight"], pull=1.0, t0=1e6)
    model = llama()
    start = weights(model)
    found = train(model, [method], steps=1)
    plain = train(llama(), [], steps=1)
    for name, value in found.items():
        free = "lm_head" in name or "q_proj.weight" in name
        torch.testing.assert_close(
            value, plain[name] if free else start[name] * (1 - 1e-2 * 0.1), rtol=1e-9, atol=1e-12
        )
    with pytest.raises(ConfigError, match="no trained parameter has such a name"):
        steer(llama(), [RecAdam(unanchored=["score.*"])])


def test_decay_within_the_gradient_is_part_of_the_update() -> None:
    """SGD and Adam add it to the gradient: their whole step is the task's."""
    for optimizer in (torch.optim.SGD, torch.optim.Adam):
        start = weights(llama())
        plain = train(llama(), [], steps=1, optimizer=optimizer)
        found = train(llama(), [RecAdam(k=0.0, gamma=1e-12)], steps=1, optimizer=optimizer)
        for name, value in found.items():
            torch.testing.assert_close(value, (start[name] + plain[name]) / 2, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_a_scaler_leaves_out_moves_nothing(fused: bool) -> None:
    model = llama().float()
    scaler = torch.amp.GradScaler("cpu")
    with steer(model, [RecAdam(k=0.0, pull=0.5)]):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1, fused=fused)
        moved = []
        for scale in (1.0, float("inf"), 1.0):
            before = weights(model)
            optimizer.zero_grad()
            scaler.scale(model(input_ids=IDS, labels=IDS).loss * scale).backward()
            scaler.step(optimizer)
            scaler.update()
            moved.append(any(not torch.equal(value, before[name]) for name, value in weights(model).items()))
    assert moved == [True, False, True]


def test_where_the_anchor_is_kept_and_how() -> None:
    wanted = train(llama(), [RecAdam(k=0.0)])
    close(train(llama(), [RecAdam(k=0.0, keep="cpu")]), wanted)
    rounded = train(llama(), [RecAdam(k=0.0, anchor_dtype="bfloat16")])
    for name, value in wanted.items():
        assert (rounded[name] - value).abs().max() < 0.01
    assert any(not torch.equal(rounded[name], value) for name, value in wanted.items())


def test_a_random_start_is_pulled_to_the_pretrained_weights() -> None:
    model = llama()
    start = weights(model)
    with steer(model, [RecAdam(start="random", seed=4, pull=0.5, t0=1e6)]) as session:
        random_weights = weights(model)
        for name, value in random_weights.items():
            assert torch.equal(value, start[name]) == (value.dim() < 2)
            assert value.dim() < 2 or float(value.std() / start[name].std()) == pytest.approx(1.0, abs=0.2)
        optimizer = adam(model, weight_decay=0.0)
        distances = []
        for _ in range(5):
            distances.append(session.metrics()["infosteer/recadam/distance"])
            model(input_ids=IDS, labels=IDS).loss.backward()
            optimizer.step()
        assert distances[4] < 0.1 * distances[0]
    same = llama()
    steer(same, [RecAdam(start="random", seed=4)])
    assert all(torch.equal(value, random_weights[name]) for name, value in weights(same).items())


@pytest.mark.parametrize("size", ["1GB", "10KB"], ids=["one file", "shards"])
def test_another_models_weights_as_the_anchor(tmp_path: Path, size: str) -> None:
    base, tuned = llama(), llama()
    train(tuned, [], steps=3)
    base.save_pretrained(tmp_path, max_shard_size=size)
    wanted = weights(base)
    found = train(tuned, [RecAdam(anchor=str(tmp_path), pull=1.0, t0=1e6)], steps=1, weight_decay=0.0)
    close(found, wanted)  # all the way to it in one step
    with steer(llama(), [RecAdam(anchor=str(tmp_path), start="random", t0=2.0)]) as session:
        assert session.metrics()["infosteer/recadam/distance"] > 1
    with pytest.raises(ConfigError, match="another shape"):
        steer(llama(vocab_size=44), [RecAdam(anchor=str(tmp_path))])
    with pytest.raises(ConfigError, match="lacks weights"):
        steer(llama(num_hidden_layers=3), [RecAdam(anchor=str(tmp_path))])
    with pytest.raises(ConfigError, match="lacks weights"):
        steer(lora(llama(), ["q_proj"]), [RecAdam(anchor=str(tmp_path))])
    for broken in (tmp_path / "absent", tmp_path / "text"):
        (tmp_path / "text").mkdir(exist_ok=True)
        (tmp_path / "text" / "model.safetensors").write_text("no tensors")
        with pytest.raises(ConfigError, match="no saved model"):
            steer(llama(), [RecAdam(anchor=str(broken))])


def test_limits_of_the_annealing() -> None:
    """Steep at t0 = 0, or long after t0, it is the plain optimizer; flat it is a mixture of both by half."""
    plain = train(llama(), [], weight_decay=0.0)
    close(train(llama(), [RecAdam(k=1e6, t0=0.0)], weight_decay=0.0), plain)
    flat = train(llama(), [RecAdam(k=1e-12, t0=3.0)])
    close(flat, train(llama(), [RecAdam(k=0.0)]))
    assert any(not torch.equal(flat[name], value) for name, value in plain.items())


def test_t0_as_a_share_of_all_steps() -> None:
    found, wanted = llama(), train(llama(), [RecAdam(t0=2.0, k=1.0)])
    with steer(found, [RecAdam(t0=0.5, k=1.0)], total_steps=4):
        optimizer = torch.optim.AdamW(found.parameters(), lr=1e-2, weight_decay=0.1)
        for _ in range(3):
            found(input_ids=IDS, labels=IDS).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    assert all(torch.equal(value, wanted[name]) for name, value in weights(found).items())
    with pytest.raises(ConfigError, match=r"number of steps(.|\n)*total_steps"):
        train(llama(), [RecAdam()])


def test_adapters_are_pulled_to_nothing() -> None:
    model = lora(llama(), ["q_proj", "up_proj"])
    start = weights(model)
    found = train(model, [RecAdam(pull=1.0, t0=1e6)], weight_decay=0.0)
    for name, value in found.items():
        torch.testing.assert_close(value, start[name])
    model = llama().requires_grad_(False)
    with steer(model, [RecAdam(t0=2.0)]):
        optimizer = torch.optim.SGD(model.lm_head.requires_grad_(True).parameters(), lr=0.1)
        with pytest.raises(NoEffectError, match="recadam"):
            optimizer.step()


def test_in_a_trainer_and_after_a_kill(tmp_path: Path) -> None:
    """The step and the anchor survive: the same bits as without the kill."""
    method = {"method": "recadam", "k": 1.0, "t0": 3.0}
    whole = trainer(tmp_path / "whole")
    infosteer.attach(whole, [method])
    whole.train()
    killed = trainer(tmp_path / "killed")
    killed.add_callback(Stop(5))
    infosteer.attach(killed, [method])
    with pytest.raises(KeyboardInterrupt):
        killed.train()
    resumed = trainer(tmp_path / "killed")
    infosteer.attach(resumed, [method])
    resumed.train(resume_from_checkpoint=str(tmp_path / "killed" / "checkpoint-4"))
    plain = trainer(tmp_path / "plain")
    plain.train()
    for name, value in weights(resumed.model).items():
        assert torch.equal(value, weights(whole.model)[name]), name
    assert any(not torch.equal(value, weights(whole.model)[name]) for name, value in weights(plain.model).items())


def cycle(step: int, count: int = 12) -> Tensor:
    """Sequences that count on by ``step``: a task of its own for each step. Shape (count, 8)."""
    return torch.stack([1 + (torch.arange(8) * step + i * 3) % 38 for i in range(count)])


def test_it_forgets_less_at_about_equal_gain() -> None:
    def learn(model: nn.Module, ids: Tensor, steps: int, methods: list[Any]) -> list[float]:
        distances, start = [], weights(model)
        with steer(model, methods):
            optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.0)
            for _ in range(steps):
                model(input_ids=ids, labels=ids).loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                moved = sum(float((value - start[name]).square().sum()) for name, value in weights(model).items())
                distances.append(math.sqrt(moved))
        return distances

    def loss(model: nn.Module, ids: Tensor) -> float:
        with torch.no_grad():
            return float(model(input_ids=ids, labels=ids).loss)

    base = llama(hidden_size=32, intermediate_size=64).float()
    learn(base, cycle(1), 120, [])
    state = {name: value.clone() for name, value in base.state_dict().items()}
    before, results = loss(base, cycle(1)), {}
    for name, methods in (("plain", []), ("recadam", [RecAdam(pull=0.02, k=0.02, t0=60.0)])):
        base.load_state_dict(state)
        distances = learn(base, cycle(5, 4), 80, methods)
        results[name] = loss(base, cycle(5, 4)), loss(base, cycle(1)) - before, distances
    plain, recadam = results["plain"], results["recadam"]
    assert recadam[0] < 0.25
    assert recadam[1] < 0.7 * plain[1], results
    assert all(ours < theirs for ours, theirs in zip(recadam[2], plain[2], strict=True))


def test_unsound_settings_are_refused() -> None:
    for wrong in (
        {"anneal": "cosine"}, {"k": -1}, {"pull": 1.5}, {"gamma": -1}, {"w": -1}, {"start": "zero"}, {"keep": "disk"},
        {"unanchored": "lm_head"}, {"unanchored": [3]}, {"anchor_dtype": "int8"},
    ):  # fmt: skip
        with pytest.raises(ConfigError):
            RecAdam(**wrong)
    assert RecAdam.preset("paper").gamma == 5000
