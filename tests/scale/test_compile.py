"""Steered, then compiled: no graph is broken, few are made, and the gradient is right at every loss scale."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from checks import batch, explicit, gradients, off, on, relative_error, tiny
from peft import LoraConfig, get_peft_model
from torch import nn
from torch._dynamo.utils import counters

import infosteer


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


class Counting:
    """A back end that runs graphs as they are, and counts them."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Callable[..., Any]:
        self.graphs += 1
        return graph.forward


def run(model: nn.Module, methods: list[Any] | None, steps: int = 3, measure_every: int = 2) -> Counting:
    """Trains a compiled model for some steps."""
    counted = Counting()
    session = infosteer.steer(model, methods, measure_every=measure_every) if methods is not None else None
    compiled = torch.compile(model, backend=counted)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for _ in range(steps):
        loss = compiled(**batch(), use_cache=False).loss
        (session.loss(loss) if session else loss).backward()
        optimizer.step()
        optimizer.zero_grad()
    if session:
        if measure_every and not methods[0].off:
            assert session.metrics()["infosteer/change"] > 0, "measured within the graph"
        session.remove()
    return counted


def lora(model: nn.Module) -> nn.Module:
    config = LoraConfig(r=2, target_modules=["down_proj", "q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    return get_peft_model(model, config)


@pytest.mark.parametrize("wrap", [lambda model: model, lora], ids=["plain", "LoRA"])
def test_no_graph_is_broken(wrap: Callable[[nn.Module], nn.Module]) -> None:
    """As many graphs as the plain model makes in a step, also in steps that are measured, and no break anywhere."""
    plain = run(wrap(tiny(num_hidden_layers=1)), None, steps=1)
    assert not counters["graph_break"]
    torch._dynamo.reset()
    steered = run(wrap(tiny(num_hidden_layers=1)), on(), steps=1)
    assert not counters["graph_break"], counters["graph_break"]
    assert steered.graphs == plain.graphs == 1


def test_the_number_of_graphs_is_bounded() -> None:
    """One for the first batch, which is judged, one for measured steps and one for all others: a number that moves with
    the steps is no constant of a graph. A compiler gives up on a function that it has to compile in every step."""
    lift = infosteer.Intervention(fraction=0.2, strength={"points": [[0, 0.2], [9, 0.9]]})
    found = run(tiny(num_hidden_layers=1), [lift, infosteer.EntropyRegularization()], steps=7, measure_every=3)
    assert not counters["graph_break"]
    assert found.graphs == 3


def test_a_strength_that_moves_reaches_the_compiled_graph() -> None:
    """Step by step the losses of the eager model."""
    losses: list[list[float]] = [[], []]
    for index, found in enumerate(losses):
        model = tiny(num_hidden_layers=1)
        lift = infosteer.Intervention(fraction=0.2, strength={"points": [[0, 0.0], [2, 1.0], [4, 0.3]]})
        with infosteer.steer(model, lift, measure_every=0) as session:
            call = torch.compile(model, backend="eager") if index else model
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            for _ in range(5):
                loss = session.loss(call(**batch(), use_cache=False).loss)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                found.append(float(loss.detach()))
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_the_first_batch_is_judged_from_within_the_graph(caplog: pytest.LogCaptureFixture) -> None:
    """The same report as without a compiler."""
    reports = []
    for compiled in (False, True):
        caplog.clear()
        model = tiny(num_hidden_layers=1)
        with caplog.at_level("INFO", logger="infosteer"), infosteer.steer(model, on()) as session:
            call = torch.compile(model, backend="eager") if compiled else model
            session.loss(call(**batch(), use_cache=False).loss).backward()
        reports.append([record.getMessage() for record in caplog.records if "first batch" in record.getMessage()])
    assert len(reports[0]) == 2, "an information and a warning"
    assert reports[0] == reports[1]


def compiled_gradients(backend: str) -> None:
    """Three loss scales after one compilation, each against the explicit loss."""
    wanted, model = explicit(tiny(num_hidden_layers=1)), tiny(num_hidden_layers=1)
    with infosteer.steer(model, on(), measure_every=0) as session:
        compiled = torch.compile(model, backend=backend)
        for scale in (1.0, 2.0**12, 3.0, 0.5):
            model.zero_grad()
            (session.loss(compiled(**batch(), use_cache=False).loss) * scale).backward()
            found = {name: gradient / scale for name, gradient in gradients(model).items()}
            assert relative_error(found, wanted) < 1e-5


def test_two_loss_scales_after_compilation() -> None:
    compiled_gradients("aot_eager")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="no C++ compiler here")
def test_two_loss_scales_under_inductor() -> None:
    compiled_gradients("inductor")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="no C++ compiler here")
def test_strength_zero_under_inductor() -> None:
    """The same code is generated: bit-identical weights."""
    states = []
    for methods in (None, off()):
        torch._dynamo.reset()
        model = tiny(num_hidden_layers=1)
        session = infosteer.steer(model, methods) if methods is not None else None
        compiled, optimizer = torch.compile(model), torch.optim.AdamW(model.parameters(), lr=1e-2)
        for _ in range(3):
            loss = compiled(**batch(), use_cache=False).loss
            (session.loss(loss) if session else loss).backward()
            optimizer.step()
            optimizer.zero_grad()
        states.append(model.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_strength_zero_is_bit_identical_when_compiled() -> None:
    losses = []
    for methods in (None, off()):
        torch._dynamo.reset()
        model = tiny(num_hidden_layers=1)
        session = infosteer.steer(model, methods) if methods is not None else None
        compiled, optimizer = torch.compile(model, backend="aot_eager"), torch.optim.AdamW(model.parameters(), lr=1e-2)
        for _ in range(3):
            loss = compiled(**batch(), use_cache=False).loss
            (session.loss(loss) if session else loss).backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(float(loss.detach()))
    assert losses[:3] == losses[3:]


@pytest.mark.parametrize("before", [True, False], ids=["plain compiled first", "plain compiled later"])
@torch._dynamo.config.patch(skip_nnmodule_hook_guards=True)  # as in a new process
def test_two_models_of_one_class_do_not_share_hooks(before: bool) -> None:
    """A compiled reference model beside the steered one, as in preference tuning."""
    wanted = explicit(tiny(num_hidden_layers=1))
    plain, model = tiny(num_hidden_layers=1), tiny(num_hidden_layers=1)
    unsteered = float(plain(**batch(), use_cache=False).loss.detach())
    reference = torch.compile(plain, backend="aot_eager")
    if before:
        reference(**batch(), use_cache=False)
    with infosteer.steer(model, on(), measure_every=0) as session:
        compiled = torch.compile(model, backend="aot_eager")
        session.loss(compiled(**batch(), use_cache=False).loss).backward()
        assert relative_error(gradients(model), wanted) < 1e-5
        found = reference(**batch(), use_cache=False).loss
    assert float(found.detach()) == pytest.approx(unsteered, rel=1e-6)
