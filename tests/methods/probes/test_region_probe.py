"""Regions of magnitude: the sketch's quantiles against exact ones, shares, and where the borders come from."""

from __future__ import annotations

import math

import pytest
import torch
from probed import batch, coefficients, llama, read

import infosteer
from infosteer.errors import ConfigError
from infosteer.methods.probes.region_shift import MagnitudeSketch, RegionShift, region_shares


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
