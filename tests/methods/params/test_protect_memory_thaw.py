"""Protection that ends before training does: strength from 1 to 0 equals updates scaled by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small import IDS, llama, steer, weights

import infosteer


@pytest.mark.parametrize("unit", ["step", "fraction"])
@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_thawing_late_equals_updates_by_hand(optimizer: Any, unit: str) -> None:
    """Frozen for three of six steps, thawed within two, free in the last one."""
    strengths = [1.0, 1.0, 1.0, 1.0, 0.5, 0.0]
    last = 5 if unit == "step" else 1
    points = [[0, 1.0], [last * 3 / 5, 1.0], [last, 0.0]]
    method = infosteer.ProtectMemory(values=0.2, strength={"points": points, "unit": unit})
    steered, bare = llama(), llama()
    loops = {model: optimizer(model.parameters(), lr=1e-2, weight_decay=0.1) for model in (steered, bare)}
    with steer(steered, [method], total_steps=6):
        for strength in strengths:
            before = weights(bare)
            for model, stepper in loops.items():
                stepper.zero_grad()
                model(input_ids=IDS, labels=IDS).loss.backward()
                stepper.step()
            with torch.no_grad():
                for name, parameter in bare.named_parameters():
                    if "mlp" in name:
                        e = 1 + strength * ((0.2 if "down_proj" in name else 0.0) - 1)
                        parameter.copy_(before[name] + e * (parameter - before[name]))
            for name, value in weights(steered).items():
                torch.testing.assert_close(value, weights(bare)[name], rtol=1e-9, atol=1e-12)
