"""The probes of key coefficients against explicit float64 computations, on made-up rows and through a model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

import infosteer
from infosteer.core.surfaces import Observer, ProbeMethod
from infosteer.core.usage import memory_usage
from infosteer.errors import ConfigError
from infosteer.methods.probes.information_flux import FluxObserver, InformationFlux, information_flux
from infosteer.methods.probes.knowledge_entropy import KnowledgeEntropy, KnowledgeEntropyObserver, knowledge_entropy
from infosteer.methods.probes.region_shift import MagnitudeSketch, RegionObserver, RegionShift, region_shares
from infosteer.methods.probes.token_information import TokenInformation, TokenObserver, token_information

V = 40
OBSERVERS: list[Callable[[], Observer]] = [
    FluxObserver,
    KnowledgeEntropyObserver,
    lambda: RegionObserver(cutoffs={0: (0.3, 1.0)}),
    TokenObserver,
]


def llama(**changes: Any) -> LlamaForCausalLM:
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
    torch.manual_seed(0)
    config = LlamaConfig(**{**shape, "num_key_value_heads": 2, "vocab_size": V, **changes})
    config.initializer_range = 0.3
    return LlamaForCausalLM(config)


def batch() -> dict[str, Tensor]:
    ids = torch.randint(1, V, (4, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, 5:], mask[3, 3:] = 0, 0
    return {"input_ids": ids * mask, "attention_mask": mask}


def coefficients(model: Any, inputs: dict[str, Tensor]) -> list[Tensor]:
    """k of every layer, (B, T, M), by hooks of our own."""
    found: list[Tensor] = []
    hooks = [
        layer.mlp.down_proj.register_forward_pre_hook(lambda _, args: found.append(args[0].detach().double()))
        for layer in model.model.layers
    ]
    with torch.no_grad():
        model(**inputs, use_cache=False)
    for hook in hooks:
        hook.remove()
    return found


def entropy(weights: Tensor) -> Tensor:
    p = weights / weights.sum(-1, keepdim=True)
    return -torch.where(p > 0, p * p.log(), 0.0).sum(-1)


def read(model: Any, probe: Any, **arguments: Any) -> dict[str, float]:
    """The metrics of a probe over one evaluated batch, without the prefix of the log."""
    with infosteer.steer(model.eval(), [probe], **arguments) as session, torch.no_grad():
        model(**batch(), use_cache=False)
        found = session.metrics()
    assert all(key.startswith(f"infosteer/{type(probe).label()}/") for key in found)
    return {key.split("/", 2)[2]: value for key, value in found.items()}


# -- information flux -----------------------------------------------------------------------------------------------


def test_flux_of_layers_of_unequal_width() -> None:
    layers = [torch.randn(2, 5, 16), torch.randn(2, 5, 64)]
    layers[0][0, 0] = 0
    wanted = [entropy(k.double().abs()) for k in layers]
    wanted[0][0, 0] = 0
    torch.testing.assert_close(information_flux(layers).double(), (wanted[0] + wanted[1]) / 2, rtol=1e-5, atol=1e-6)
    shares = (wanted[0] / math.log(16) + wanted[1] / math.log(64)) / 2
    torch.testing.assert_close(information_flux(layers, normalized=True).double(), shares, rtol=1e-5, atol=1e-6)
    one_hot = torch.eye(7)[:3] * -5.0
    assert information_flux([one_hot]).abs().max() < 1e-6
    assert torch.allclose(information_flux([torch.full((3, 7), -2.0)]), torch.tensor(math.log(7)))


def test_flux_refuses_what_is_no_layer() -> None:
    with pytest.raises(ConfigError, match="no layer"):
        information_flux([])
    with pytest.raises(ConfigError, match="same tokens"):
        information_flux([torch.randn(2, 3), torch.randn(3, 3)])


def test_flux_probe_counts_tokens_and_no_padding() -> None:
    model = llama()
    found = read(model, InformationFlux(scope="always"))
    kept = batch()["attention_mask"] != 0
    layers = [float(entropy(k.abs())[kept].mean()) for k in coefficients(model, batch())]
    assert [found[f"nats/layer_{layer}"] for layer in range(3)] == pytest.approx(layers, rel=1e-5)
    assert found["nats"] == pytest.approx(sum(layers) / 3, rel=1e-5)
    assert found["normalised"] == pytest.approx(sum(layers) / 3 / math.log(48), rel=1e-5)


def test_flux_of_the_edited_coefficients_and_only_there() -> None:
    model = llama()
    plain = read(model, InformationFlux(scope="always"))
    lift = infosteer.Intervention(fraction=0.5, scope="always", layers=[1])
    with infosteer.steer(model, [lift, InformationFlux(scope="always")]) as session, torch.no_grad():
        model(**batch(), use_cache=False)
        lifted = session.metrics()
    assert lifted["infosteer/information_flux/nats/layer_0"] == plain["nats/layer_0"]
    assert lifted["infosteer/information_flux/nats/layer_1"] > plain["nats/layer_1"] + 0.05


def test_observers_say_nothing_before_they_have_seen_a_counted_row() -> None:
    for observer in (
        FluxObserver(),
        KnowledgeEntropyObserver(),
        RegionObserver(cutoffs={0: (0.1, 1.0)}),
        TokenObserver(),
    ):
        assert observer.metrics() == {}
        observer.begin(torch.ones(1, 3, dtype=torch.long))
        observer.see(0, torch.full((3, 4), math.nan), torch.zeros(3))
        assert observer.metrics() == {}


def test_rows_that_do_not_count_may_hold_anything() -> None:
    k, weight, ids = torch.randn(6, 8), torch.tensor([1.0, 0, 1, 1, 0, 1]), torch.tensor([[3, 4, 3], [4, 5, 4]])
    bad = torch.where(weight[:, None] == 0, math.nan, k)
    for make in (
        FluxObserver,
        KnowledgeEntropyObserver,
        lambda: RegionObserver(cutoffs={0: (0.3, 1.0)}),
        TokenObserver,
    ):
        found = []
        for rows in (k, bad):
            observer = make()
            observer.begin(ids)
            observer.see(0, rows, weight)
            found.append(observer.metrics())
        assert found[0] == pytest.approx(found[1], rel=1e-6)
        assert all(math.isfinite(value) for value in found[0].values())


# -- knowledge entropy ----------------------------------------------------------------------------------------------


def test_knowledge_entropy_is_that_of_the_average_and_not_the_average() -> None:
    """Sharp tokens that use different memories: high here, 0 by token."""
    observer = KnowledgeEntropyObserver()
    observer.begin(torch.arange(8)[None])
    observer.see(0, torch.eye(8) * torch.linspace(-1, 1, 8)[:, None].sign() * 3, None)
    found = observer.metrics()
    assert found["total"] == pytest.approx(math.log(8), abs=1e-12)
    assert found["effective_fraction"] == pytest.approx(1.0)
    assert found["token_entropy"] == pytest.approx(0.0, abs=1e-6)


def test_knowledge_entropy_probe() -> None:
    model = llama()
    found = read(model, KnowledgeEntropy(scope="always"))
    kept = batch()["attention_mask"].double()
    total, single, fraction = 0.0, 0.0, 0.0
    for layer, k in enumerate(coefficients(model, batch())):
        means = (k.abs() * kept[..., None]).sum(1) / kept.sum(1, keepdim=True)  # by sequence
        value = float(entropy(means.mean(0)))
        assert found[f"nats/layer_{layer}"] == pytest.approx(value, abs=1e-9)
        total, fraction = total + value, fraction + math.exp(value) / 48 / 3
        single += float(entropy(k.abs())[kept != 0].mean()) / 3
    assert found["total"] == pytest.approx(total, abs=1e-9)
    assert found["normalised"] == pytest.approx(total / 3 / math.log(48), abs=1e-9)
    assert found["effective_fraction"] == pytest.approx(fraction, abs=1e-9)
    assert found["token_entropy"] == pytest.approx(single, rel=1e-5)
    use = memory_usage(model, infosteer.locate(model), [batch()])
    assert knowledge_entropy(use).total == pytest.approx(total, abs=1e-9)


def test_knowledge_entropy_over_batches_equals_one_batch() -> None:
    inputs = batch()
    rows = torch.randn(4, 9, 16)
    whole, parts = KnowledgeEntropyObserver(), KnowledgeEntropyObserver()
    mask = inputs["attention_mask"].float()
    whole.begin(inputs["input_ids"])
    whole.see(2, rows.reshape(-1, 16), mask.reshape(-1))
    for i in range(4):
        parts.begin(inputs["input_ids"][i : i + 1])
        parts.see(2, rows[i], mask[i])
    assert parts.metrics() == pytest.approx(whole.metrics(), rel=1e-12, abs=1e-12)


def test_knowledge_entropy_refuses_what_is_no_average() -> None:
    for bad in ({}, {0: torch.tensor([1.0, -1.0])}, {0: torch.tensor([1.0, math.nan])}, {0: torch.ones(2, 2)}):
        with pytest.raises(ConfigError):
            knowledge_entropy(bad)


# -- regions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spread", [1e-30, 1e-4, 1.0, 1e20])
def test_quantiles_of_the_sketch(spread: float) -> None:
    x = torch.randn(50_000, generator=torch.Generator().manual_seed(3)).double() ** 3 * spread
    sketch, shuffled = MagnitudeSketch(), MagnitudeSketch()
    for part in x.float().split(999):
        sketch.add(part)
    shuffled.add(x.float()[torch.randperm(50_000)].view(100, 500))
    for q in (0.001, 0.25, 0.5, 0.75, 0.999):
        exact = float(torch.quantile(x.abs(), q, interpolation="lower"))
        assert sketch.quantile(q) == pytest.approx(exact, rel=2**-8)
        assert sketch.quantile(q) == shuffled.quantile(q)
    assert sketch.total == 50_000
    assert sketch.counts is not None
    assert sketch.counts.numel() == 65_536


def test_quantiles_at_the_edges() -> None:
    sketch = MagnitudeSketch()
    assert math.isnan(sketch.quantile(0.5))
    sketch.add(torch.tensor([0.0, -0.0, 0.0, 2.0]))
    assert sketch.quantile(0.25) == 0.0
    assert sketch.quantile(1.0) == pytest.approx(2.0, rel=2**-8)
    sketch.add(torch.tensor([math.inf, -math.inf, math.nan] * 10))
    assert sketch.quantile(0.5) == math.inf
    half = MagnitudeSketch()
    half.add(torch.full((10,), 0.1, dtype=torch.bfloat16))
    assert half.quantile(0.5) == pytest.approx(0.1, rel=2**-7)


def test_region_shares() -> None:
    k = torch.tensor([[0.0, 0.1, -0.2, 0.3, -0.4, 5.0, -math.inf, math.nan]])
    assert region_shares(k, (0.2, 0.4)).tolist() == [[0.25, 0.375, 0.375]]
    assert region_shares(torch.zeros(2, 3, 4), (0.0, 0.0)).tolist() == [[[0.0, 1.0, 0.0]] * 3] * 2


def test_regions_are_fixed_on_the_calibration_text_before_training() -> None:
    model = llama()
    tied = read(model, RegionShift(scope="always"), calibration=[batch()])
    assert [tied[name] for name in ("low", "middle", "high")] == pytest.approx([0.25, 0.5, 0.25], abs=2e-3)
    lift = infosteer.Intervention(fraction=0.2, alpha=3.0, scope="always")
    with infosteer.steer(model, [lift, RegionShift(scope="always")], calibration=[batch()]) as session, torch.no_grad():
        model(**batch(), use_cache=False)
        found = session.metrics()
    kept = batch()["attention_mask"] != 0
    for layer, k in enumerate(coefficients(model, batch())[:1]):  # later layers read what the edit has changed
        rows = k[kept].abs()
        low, high = torch.quantile(rows.flatten(), 0.25), torch.quantile(rows.flatten(), 0.75)
        edited = infosteer.functional.intervene(k[kept].float(), fraction=0.2, alpha=3.0).double().abs()
        for name, share in (("low", edited < low), ("high", edited > high)):
            value = found[f"infosteer/region_shift/{name}/layer_{layer}"]
            assert value == pytest.approx(float(share.double().mean()), abs=4e-3)
    assert found["infosteer/region_shift/low"] < 0.2


def test_regions_from_the_first_step_move_with_training() -> None:
    model, inputs = llama().train(), {**batch(), "labels": batch()["input_ids"]}
    with infosteer.steer(model, [RegionShift(reference="first_step", every=1)]) as session:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        seen = []
        for _ in range(3):
            session.loss(model(**inputs, use_cache=False).loss).backward()
            seen.append(session.probes.metrics())
            optimizer.step()
            with torch.no_grad():
                for layer in model.model.layers:
                    layer.mlp.up_proj.weight.mul_(4.0)
    assert seen[0] == {}
    name = "infosteer/region_shift/high/layer_0"
    assert 0.6 < seen[1][name] < seen[2][name]


def test_regions_ask_for_a_calibration_text() -> None:
    with pytest.raises(ConfigError, match="calibration text"):
        infosteer.steer(llama(), [RegionShift()])
    for bad in ({"low": 75.0, "high": 25.0}, {"low": 0.0}, {"high": 100.0}, {"reference": "guess"}):
        with pytest.raises(ConfigError):
            RegionShift(**bad)


# -- token information ----------------------------------------------------------------------------------------------


def test_tokens_with_memories_of_their_own() -> None:
    """Four equally frequent tokens on disjoint memories: ln 4, whatever each spreads over."""
    tokens = torch.arange(4).repeat(50)
    k = torch.zeros(200, 32)
    for row, token in enumerate(tokens.tolist()):
        k[row, 8 * token : 8 * token + 8] = -1.5
    assert float(token_information(k, tokens)) == pytest.approx(math.log(4), abs=1e-6)
    assert float(token_information(torch.ones(200, 32), tokens)) == pytest.approx(0.0, abs=1e-6)
    unequal = torch.tensor([0] * 30 + [1] * 10)
    two = torch.eye(2)[unequal]
    share = torch.tensor([0.75, 0.25])
    assert float(token_information(two, unequal)) == pytest.approx(float(entropy(share)), abs=1e-6)


def test_information_is_the_jensen_shannon_divergence() -> None:
    k, tokens = torch.randn(60, 16).double(), torch.arange(60) % 3
    p = k.abs() / k.abs().sum(-1, keepdim=True)
    means = torch.stack([p[tokens == x].mean(0) for x in range(3)])
    wanted = entropy(means.mean(0)) - entropy(means).mean()
    assert float(token_information(k, tokens)) == pytest.approx(float(wanted), abs=1e-6)


def observe(types: int, batches: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
    observer = TokenObserver(types=types)
    for ids, k in batches:
        observer.begin(ids)
        observer.see(0, k, None)
    return observer.metrics()


def test_the_null_removes_the_bias_and_little_of_the_signal() -> None:
    draw = torch.Generator().manual_seed(4)
    profiles = torch.rand(5, 64, generator=draw) ** 4

    def made(signal: bool) -> list[tuple[Tensor, Tensor]]:
        batches = []
        for _ in range(20):
            ids = torch.randint(0, 5, (2, 30), generator=draw)
            noise = torch.rand(60, 64, generator=draw) ** 2
            batches.append((ids, (profiles[ids.flatten()] if signal else profiles.mean(0)) * noise))
        return batches

    nothing, something = observe(5, made(False)), observe(5, made(True))
    assert nothing["plug_in"] > 1e-4  # the bias is there
    assert abs(nothing["nats"]) < 0.15 * nothing["plug_in"]
    p = profiles / profiles.sum(-1, keepdim=True)
    exact = float(entropy(p.mean(0)) - entropy(p).mean())  # as the number of rows grows
    assert something["nats"] == pytest.approx(exact, rel=0.05)
    assert something["normalised"] == pytest.approx(something["nats"] / math.log(5), rel=0.02)


def test_the_same_mix_for_all_tokens_lowers_it_although_entropy_rises() -> None:
    draw = torch.Generator().manual_seed(5)
    ids = torch.randint(0, 4, (1, 400), generator=draw)
    own = torch.rand(4, 64, generator=draw) ** 6
    k = own[ids.flatten()] * torch.rand(400, 64, generator=draw)
    mixed = k + 5.0
    assert entropy(mixed).mean() > entropy(k).mean()
    assert observe(4, [(ids, mixed)])["nats"] < 0.05 * observe(4, [(ids, k)])["nats"]


def test_token_probe_picks_frequent_tokens_and_leaves_the_random_state_alone() -> None:
    ids = torch.tensor([[7, 7, 7, 9, 9, 3, 2, 2, 2, 2]])
    observer, k = TokenObserver(types=2), torch.rand(10, 6)
    before = torch.get_rng_state()
    observer.begin(ids)
    observer.see(0, k, None)
    assert torch.equal(torch.get_rng_state(), before)
    assert observer.tokens is not None
    assert observer.tokens.tolist() == [2, 7]
    chosen = torch.tensor([0, 1, 2, 6, 7, 8, 9])
    plug_in = float(token_information(k[chosen], ids[0, chosen]))
    assert observer.metrics()["plug_in"] == pytest.approx(plug_in, abs=1e-9)
    observer.reset()
    assert observer.metrics() == {}
    observer.begin(None)
    observer.see(0, k, None)
    assert observer.metrics() == {}
    with pytest.raises(ConfigError):
        TokenInformation(types=2.5)
    with pytest.raises(ConfigError):
        token_information(k, torch.zeros(3, dtype=torch.long))


def test_token_probe_in_a_model() -> None:
    model = llama()
    found = read(model, TokenInformation(types=4, scope="always"))
    assert set(found) == {"nats", "plug_in", "null", "normalised", *(f"nats/layer_{i}" for i in range(3))}
    assert 0 < found["plug_in"] < math.log(4)


# -- what observers are told ------------------------------------------------------------------------------------------


class Diary(Observer):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, object]] = []

    def begin(self, ids: Tensor | None) -> None:
        self.told.append(("begin", None if ids is None else tuple(ids.shape)))

    def see(self, layer: int, k: Tensor, weight: Tensor | None) -> None:
        assert not k.requires_grad
        self.told.append(("see", layer))

    def calibrated(self) -> None:
        self.told.append(("calibrated", None))

    def metrics(self) -> dict[str, float]:
        return {}

    def reset(self) -> None:
        self.told.append(("reset", None))


@dataclasses.dataclass(kw_only=True)
class Watch(ProbeMethod):
    calibrates = True

    def observer(self, sites: Any) -> Observer:
        return Diary()


@pytest.mark.parametrize("reentrant", [None, False, True])
def test_each_forward_begins_once_and_recomputes_are_not_shown(reentrant: bool | None) -> None:
    model = llama().train()
    if reentrant is not None:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
        model.enable_input_require_grads()
    inputs = {**batch(), "labels": batch()["input_ids"]}
    with infosteer.steer(model, [Watch(every=1, layers=[0, 2])], calibration=[batch()]) as session:
        for _ in range(2):
            session.loss(model(**inputs, use_cache=False).loss).backward()
        model(inputs_embeds=model.get_input_embeddings()(inputs["input_ids"]), attention_mask=inputs["attention_mask"])
    (diary,) = session.probes.observers.values()
    assert isinstance(diary, Diary)
    forward = [("begin", (4, 9)), ("see", 0), ("see", 2)]
    unknown = [("begin", None), ("see", 0), ("see", 2)]
    assert diary.told == [*forward, ("calibrated", None), ("reset", None), *forward, *forward, *unknown]


def test_probes_leave_training_as_it_is() -> None:
    found = []
    for probes in ([], [InformationFlux(every=1), KnowledgeEntropy(every=1), TokenInformation(every=1)]):
        model, inputs = llama().train(), {**batch(), "labels": batch()["input_ids"]}
        with infosteer.steer(model, [infosteer.EntropyRegularization(), *probes]) as session:
            session.loss(model(**inputs, use_cache=False).loss).backward()
        found.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
