"""Half precision: bf16 autocast, and fp16 with a gradient scaler, whose scale changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from checks import batch, explicit_loss, gradients, off, on, relative_error, tiny
from torch import nn

import infosteer


def autocast(dtype: torch.dtype) -> torch.autocast:
    return torch.autocast("cpu", dtype=dtype)


@pytest.mark.parametrize(
    ("compute", "stored"),
    [(torch.bfloat16, torch.float32), (torch.float16, torch.float32), (None, torch.bfloat16)],
    ids=["bf16 autocast", "fp16 autocast", "bf16 weights"],
)
def test_gradient_in_half_precision(compute: torch.dtype | None, stored: torch.dtype) -> None:
    context = torch.autocast("cpu", dtype=compute, enabled=compute is not None)
    model, reference = tiny().to(stored), tiny().to(stored)
    with infosteer.steer(model, on()) as session, context:
        loss = session.loss(model(**batch(), use_cache=False).loss)
    loss.backward()
    with context:
        wanted = explicit_loss(reference, batch())
    wanted.backward()
    assert float(loss) == pytest.approx(float(wanted), rel=2e-2)
    assert relative_error(gradients(model), gradients(reference)) < 2e-2


def penalty_alone(model: nn.Module, scaler: Any, optimizer: Any) -> dict[str, torch.Tensor]:
    """The penalty's unscaled gradient: the task loss is multiplied by zero, but carries the penalty's."""
    with infosteer.steer(model, infosteer.EntropyRegularization(weight=0.5)) as session, autocast(torch.float16):
        loss = session.loss(model(**batch(), use_cache=False).loss * 0)
        scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    return gradients(model)


@pytest.mark.parametrize("scale", [2.0**16, 2.0**10, 3.0])
def test_the_scaler_reaches_the_penalty(scale: float) -> None:
    """fp16 gradients at 2^16 and elsewhere, unscaled, are those of fp32."""
    models = [tiny(), tiny()]
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in models]
    wanted = penalty_alone(models[0], torch.amp.GradScaler("cpu", enabled=False), optimizers[0])
    found = penalty_alone(models[1], torch.amp.GradScaler("cpu", init_scale=scale), optimizers[1])
    assert relative_error(found, wanted) < 2e-2


def train(
    methods: list[Any] | None, *, growth: int = 1, spoil: int = -1
) -> tuple[dict[str, torch.Tensor], list[float]]:
    """Five fp16 steps with a scale that doubles after every good step and halves after the spoilt one."""
    model = tiny()
    session = infosteer.steer(model, methods) if methods is not None else None
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**13, growth_interval=1)
    scales = []
    for step in range(5):
        scales.append(scaler.get_scale())
        with autocast(torch.float16):
            loss = model(**batch(), use_cache=False).loss
            loss = session.loss(loss) if session else loss
        scaler.scale(loss * (float("inf") if step == spoil else 1.0)).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    if session:
        assert session.step == 4, "a step that the scaler left out is none"
    return {name: value.detach().clone() for name, value in model.state_dict().items()}, scales


def test_strength_zero_is_bit_identical_at_a_changing_scale() -> None:
    bare, scales = train(None, spoil=2)
    steered, same = train(off(), spoil=2)
    assert scales == same == [2.0**13, 2.0**14, 2.0**15, 2.0**14, 2.0**15]
    assert all(torch.equal(value, steered[name]) for name, value in bare.items())


def test_a_changing_scale_changes_no_gradient() -> None:
    """Unscaled, every step has the explicit loss's gradient from the same weights; scales go up, down and up."""
    model, reference = tiny(), tiny()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**13, growth_interval=1)
    with infosteer.steer(model, on()) as session:
        for step in range(4):
            reference.load_state_dict(model.state_dict())
            reference.zero_grad()
            with autocast(torch.float16):
                (explicit_loss(reference, batch()) * 2.0**10).backward()
            wanted = {name: gradient / 2.0**10 for name, gradient in gradients(reference).items()}
            with autocast(torch.float16):
                loss = session.loss(model(**batch(), use_cache=False).loss)
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            assert relative_error(gradients(model), wanted) < 2e-2
            scaler.step(optimizer)
            scaler.update(2.0**5 if step == 1 else None)
            optimizer.zero_grad()
