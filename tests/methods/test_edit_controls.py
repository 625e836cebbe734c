"""The controls of key_lift against row by row computations in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from steered import batch, keys_of, llama, watch
from torch import Tensor

import infosteer
from infosteer.errors import ConfigError
from infosteer.functional import intervene
from infosteer.methods.interventions.key_damp import KeyDamp, damp
from infosteer.methods.interventions.key_dropout import KeyDropout, drop
from infosteer.methods.interventions.key_noise import KeyNoise, add_noise
from infosteer.methods.interventions.key_random import KeyRandom, overwrite_random
from infosteer.ops.counter import uniform
from infosteer.ops.intervene import overwrite
from infosteer.ops.select import smallest

SHAPE = (3, 5, 17)
REFERENCES = ("magnitude_mean", "mean")


def coefficients(shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def by_hand(
    k: Tensor, chosen: list[list[int]], alpha: float, reference: str, strength: float = 1.0, detach: bool = False
) -> Tensor:
    """The overwrite, one entry at a time; differentiable."""
    rows = []
    for row, indices in zip(k.reshape(-1, k.shape[-1]), chosen, strict=True):
        mean = sum(x.abs() if reference == "magnitude_mean" else x for x in row) / len(row)
        mean = mean.detach() if detach else mean
        entries = list(row)
        for i in indices:
            sign = -1.0 if reference == "magnitude_mean" and float(row[i].detach()) < 0 else 1.0
            entries[i] = row[i] + strength * (alpha * mean * sign - row[i])
        rows.append(torch.stack(entries))
    return torch.stack(rows).view(k.shape)


def assert_same_with_gradient(k: Tensor, found: Any, wanted: Any) -> None:
    """Two functions of k agree in value and in the gradient of a random projection."""
    left, right = k.clone().requires_grad_(True), k.clone().requires_grad_(True)
    project = torch.randn_like(k)
    a, b = found(left), wanted(right)
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    (a * project).sum().backward()
    (b * project).sum().backward()
    torch.testing.assert_close(left.grad, right.grad, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize(("detach", "strength"), [(False, 1.0), (True, 1.0), (False, 0.3)])
def test_overwriting_given_entries(reference: str, detach: bool, strength: float) -> None:
    k = coefficients()
    index = torch.rand(SHAPE).argsort(-1)[..., :4]
    assert_same_with_gradient(
        k,
        lambda x: overwrite(x, index, 1.7, reference, detach, strength),
        lambda x: by_hand(x, index.reshape(-1, 4).tolist(), 1.7, reference, strength, detach),
    )


def test_overwriting_the_smallest_is_the_intervention() -> None:
    k = torch.randn(4, 50)
    for order in ("magnitude", "signed"):
        wanted = intervene(k, fraction=0.1, alpha=2.0, order=order)
        assert torch.equal(overwrite(k, smallest(k, 5, order), alpha=2.0), wanted)
    assert overwrite(k, smallest(k, 5), strength=0.0) is k
    assert overwrite(k, smallest(k, 0)) is k


def test_overwriting_refuses_what_does_not_fit() -> None:
    k = torch.randn(2, 3, 6)
    for index in (
        torch.zeros(2, 3, 1, dtype=torch.int32),
        torch.zeros(3, 2, 1, dtype=torch.long),
        torch.zeros(2, 3, 7, dtype=torch.long),
        torch.zeros(6, 1, dtype=torch.long),
    ):
        with pytest.raises(ConfigError, match="index"):
            overwrite(k, index)
    good = torch.zeros(2, 3, 1, dtype=torch.long)
    for wrong in ({"alpha": math.inf}, {"reference": "median"}, {"strength": math.nan}):
        with pytest.raises(ConfigError):
            overwrite(k, good, **wrong)
    with pytest.raises(ConfigError):
        overwrite(torch.ones(2, 3, 6, dtype=torch.long), good)


@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize(("fraction", "m"), [(0.001, 1), (0.25, 4), (1.0, 17)])
def test_random_entries_are_overwritten(reference: str, fraction: float, m: int) -> None:
    k, keys = coefficients(), keys_of(SHAPE)
    drawn = uniform(keys, 17, seed=3).tolist()
    chosen = [sorted(range(17), key=lambda i, row=row: (row[i], i))[:m] for row in drawn]
    assert_same_with_gradient(
        k,
        lambda x: overwrite_random(x, keys, fraction, 1.5, reference, seed=3),
        lambda x: by_hand(x, chosen, 1.5, reference),
    )


def test_random_entries_are_exactly_m_even_and_follow_the_key() -> None:
    k = torch.randn(4000, 20)
    keys = keys_of(k.shape)
    edited = overwrite_random(k, keys, fraction=0.1)
    changed = edited != k
    assert set(changed.sum(-1).tolist()) == {2}
    counts = changed.sum(0).double()  # 400 of each, standard deviation 19
    assert (counts - 400).abs().max() < 5 * 19
    order = torch.randperm(4000)
    assert torch.equal(overwrite_random(k[order], keys[order], fraction=0.1), edited[order])
    other = overwrite_random(k, keys, fraction=0.1, seed=1) != k
    both = float((changed & other).sum()) / 8000
    assert both == pytest.approx(0.1, abs=0.02), "another seed draws other entries"


@pytest.mark.parametrize("order", ["magnitude", "signed"])
@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize(("alpha", "strength", "detach"), [(1.0, 1.0, False), (0.0, 1.0, True), (2.0, 0.5, False)])
def test_the_largest_are_damped(order: str, reference: str, alpha: float, strength: float, detach: bool) -> None:
    k = coefficients()
    k[0, 0] = k[0, 0].round()  # equal entries: lowest index first
    size = k.abs() if order == "magnitude" else k
    chosen = [sorted(range(17), key=lambda i, row=row: (-row[i], i))[:4] for row in size.reshape(-1, 17).tolist()]
    assert_same_with_gradient(
        k,
        lambda x: damp(x, 0.25, alpha, order, reference, detach, strength),
        lambda x: by_hand(x, chosen, alpha, reference, strength, detach),
    )


def test_damping_leaves_nan_for_last_and_refuses_unknown_orders() -> None:
    k = torch.tensor([[1.0, math.nan, -3.0, 2.0]])
    index = (damp(k, 0.25, alpha=0.0) != k)[0] & ~k[0].isnan()
    assert index.tolist() == [False, False, True, False]
    with pytest.raises(ConfigError, match="order"):
        damp(k, order="smallest")


@pytest.mark.parametrize("order", ["magnitude", "signed"])
@pytest.mark.parametrize("strength", [1.0, 0.25])
def test_noise_is_as_long_as_the_lifts_change(order: str, strength: float) -> None:
    k = coefficients((40, 60))
    settings: dict[str, Any] = {"fraction": 0.2, "alpha": 1.4, "order": order, "reference": "mean"}
    noise = add_noise(k, keys_of(k.shape), **settings, strength=strength) - k
    wanted = strength * (intervene(k, **settings) - k).norm(dim=-1)
    torch.testing.assert_close(noise.norm(dim=-1), wanted, rtol=1e-9, atol=0)
    assert (noise != 0).all()


def test_noise_relative_to_the_row_is_gaussian_and_passes_gradient_through() -> None:
    k = coefficients((300, 200)).requires_grad_(True)
    noisy = add_noise(k, keys_of(k.shape), norm="relative", relative=0.1)
    noise = (noisy - k).detach()
    torch.testing.assert_close(noise.norm(dim=-1), 0.1 * k.detach().norm(dim=-1), rtol=1e-9, atol=0)
    unit = noise / noise.square().mean(-1, keepdim=True).sqrt()
    assert abs(float(unit.mean())) < 0.02
    assert float(unit.pow(4).mean()) == pytest.approx(3, abs=0.1)  # the fourth moment of a normal number
    cosine = torch.nn.functional.cosine_similarity(noise, k.detach(), dim=-1)
    assert float(cosine.square().mean()) == pytest.approx(1 / 200, rel=0.3), "no preferred direction"
    grad = torch.randn_like(noise)
    (noisy * grad).sum().backward()
    torch.testing.assert_close(k.grad, grad)


def test_noise_keeps_rows_without_change_and_refuses_unknown_norms() -> None:
    k = torch.zeros(2, 8)
    assert torch.equal(add_noise(k, keys_of(k.shape)), k)
    assert add_noise(k, keys_of(k.shape), strength=0.0) is k
    with pytest.raises(ConfigError, match="norm"):
        add_noise(k, keys_of(k.shape), norm="max")
    assert KeyNoise(norm="relative", relative=0.0).idle
    assert KeyNoise(fraction=0.0).idle
    assert not KeyNoise(norm="relative", fraction=0.0).idle


@pytest.mark.parametrize(("rate", "strength"), [(0.3, 1.0), (0.3, 0.4), (0.99, 1.0)])
def test_dropout_by_hand(rate: float, strength: float) -> None:
    k, keys = coefficients(), keys_of(SHAPE)
    drawn = uniform(keys, 17, seed=2).view(SHAPE).double()

    def wanted(x: Tensor) -> Tensor:
        dropped = torch.where(drawn < rate, torch.zeros_like(x), x / (1 - rate))
        return x + strength * (dropped - x)

    assert_same_with_gradient(k, lambda x: drop(x, keys, rate, strength, seed=2), wanted)


def test_dropout_keeps_the_mean_and_cannot_drop_everything() -> None:
    k = torch.ones(2000, 50)
    edited = drop(k, keys_of(k.shape), rate=0.2)
    assert float((edited == 0).float().mean()) == pytest.approx(0.2, abs=0.01)
    assert float(edited.mean()) == pytest.approx(1.0, abs=0.01)
    assert drop(k, keys_of(k.shape), rate=0.0) is k
    for wrong in (1.0, -0.1, math.nan, "0.1"):
        with pytest.raises(ConfigError, match="rate"):
            KeyDropout(rate=wrong)


def test_half_precision_is_drawn_alike() -> None:
    k = torch.randn(6, 64)
    keys = keys_of(k.shape)
    for dtype in (torch.bfloat16, torch.float16):
        small = k.to(dtype)
        assert torch.equal(
            overwrite_random(small, keys, 0.1) != small, overwrite_random(small.float(), keys, 0.1) != small
        )
        assert torch.equal(drop(small, keys, 0.1) == 0, drop(k, keys, 0.1) == 0)
        noisy = add_noise(small, keys, norm="relative", relative=0.5)
        torch.testing.assert_close(
            noisy.float(), add_noise(small.float(), keys, norm="relative", relative=0.5), rtol=0.01, atol=0.01
        )


@pytest.mark.parametrize(
    "method",
    [
        KeyRandom(fraction=0.25),
        KeyDamp(fraction=0.25),
        KeyNoise(fraction=0.25),
        KeyDropout(rate=0.25),
    ],
    ids=lambda m: type(m).__name__,
)
def test_in_a_model_draws_differ_by_layer_and_step_and_repeat_in_a_recompute(method: Any) -> None:
    rows, model, plain = batch(), llama(), llama()
    with infosteer.steer(model, [method]) as session:
        seen, bare = watch(model), watch(plain)
        for m in (model, model, plain):
            m(**rows, use_cache=False)
        session.step = 1
        model(**rows, use_cache=False)
    first, again, later = (seen[0][i] for i in range(3))
    assert torch.equal(first, again)
    assert not torch.equal(first, bare[0][0])
    if type(method).random:
        assert not torch.equal(first, later)
        k = torch.randn(36, 24)
        draws = [method.edit(k, _context(layer, rows)) for layer in (0, 1)]
        assert not torch.equal(*draws)
    else:
        assert torch.equal(first, later)


@pytest.mark.parametrize("name", ["KeyRandom", "KeyDamp", "KeyNoise", "KeyDropout"])
def test_they_steer_generation_on_request(name: str) -> None:
    settings = {"rate": 0.6} if name == "KeyDropout" else {"fraction": 0.6, "alpha": 3.0}
    model = llama().eval()
    inputs = {key: value[:1] for key, value in batch().items() if key != "labels"}
    plain = model.generate(**inputs, max_new_tokens=8, do_sample=False, pad_token_id=0)
    with infosteer.steer(model, [getattr(infosteer, name)(scope="evaluation", **settings)]):
        texts = [model.generate(**inputs, max_new_tokens=8, do_sample=False, pad_token_id=0) for _ in range(2)]
    assert torch.equal(*texts)
    assert not torch.equal(texts[0], plain)


def _context(layer: int, rows: dict[str, Tensor]) -> Any:
    from infosteer.core.contract import Context
    from infosteer.ops.counter import row_keys

    return Context(layer=layer, step=0, strength=1.0, keys=row_keys(rows["input_ids"], rows["attention_mask"]))
