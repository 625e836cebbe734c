"""Token information: exact cases, the Jensen-Shannon divergence, the null that removes its bias, and the probe."""

from __future__ import annotations

import math

import pytest
import torch
from probed import entropy, llama, read
from torch import Tensor

from infosteer.errors import ConfigError
from infosteer.methods.probes.token_information import TokenInformation, TokenObserver, token_information


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
