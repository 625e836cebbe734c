"""The contract of every method under checkpointing, adapters, torch.compile, and two processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from every import edits_weights_at_once, every_model_method, kind
from peft import LoraConfig, get_peft_model
from world import all_methods, batch, gradients, llama, make, relative_error, steer, train

from infosteer.core.surfaces import InterventionMethod, PenaltyMethod, ProbeMethod
from infosteer.errors import AttachError


@every_model_method
@pytest.mark.parametrize("reentrant", [False, True], ids=["non-reentrant", "reentrant"])
def test_checkpointing_does_not_matter(key: str, reentrant: bool) -> None:
    plain = gradients(llama(), [make(key)])
    model = llama()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    model.enable_input_require_grads()
    assert relative_error(gradients(model, [make(key)]), plain) < 1e-5


@every_model_method
def test_before_peft_is_refused_and_after_peft_is_covered(key: str) -> None:
    targets = ["down_proj", "up_proj", "gate_proj", "q_proj"]
    config = LoraConfig(r=4, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM")
    if issubclass(kind(key), (InterventionMethod, PenaltyMethod, ProbeMethod)):
        model = llama()
        with steer(model, [make(key)]):
            wrapped = get_peft_model(model, config)
            with pytest.raises(AttachError, match="wrapped by adapters after it was steered"):
                wrapped(**batch())
    try:
        bare, steered = twins(lambda: get_peft_model(llama(), config), key)
    except AttachError as error:
        pytest.skip(f"refused by name: {error.what}")
    changed = [name for name, value in bare.items() if not torch.equal(value, steered[name])]
    assert bool(changed) != issubclass(kind(key), ProbeMethod)
    if not edits_weights_at_once(key):
        assert all("lora_" in name for name in changed), "only adapters are trained"


def twins(build: Any, key: str) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Final states of two equal models, trained without and with the method."""
    torch.manual_seed(0)
    first, second = build(), build()
    second.load_state_dict(first.state_dict())
    return train(first, None)[1], train(second, [make(key)])[1]


def test_one_compile_for_all_methods_and_several_loss_scales() -> None:
    """Attached before torch.compile: the same gradients as eager, whatever the loss is multiplied by afterwards."""
    torch._dynamo.reset()
    eager = gradients(llama(num_hidden_layers=1), all_methods())
    model, rows = llama(num_hidden_layers=1), batch(all_methods())
    with steer(model, all_methods()) as session:
        compiled = torch.compile(model, backend="aot_eager")
        for scale in (1.0, 2.0**12, 3.0):
            model.zero_grad()
            (session.loss(compiled(**rows, use_cache=False).loss) * scale).backward()
            found = {n: p.grad / scale for n, p in model.named_parameters() if p.grad is not None}
            assert relative_error(found, eager) < 1e-5


def test_attached_after_compile_is_refused() -> None:
    with pytest.raises(AttachError, match="compiled already"):
        steer(torch.compile(llama(), backend="eager"), all_methods())
    model = llama()
    model.compile(backend="eager")
    with pytest.raises(AttachError, match="compiled already"):
        steer(model, all_methods())


def test_two_processes_equal_one_for_all_methods(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1]), "WORLD_SIZE": "2"}
    command = [sys.executable, str(Path(__file__).with_name("world.py")), str(tmp_path / "out.pt")]
    processes = [
        subprocess.Popen(
            command,
            env={**os.environ, **address, "RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=240)[0] for process in processes]
    assert all(process.returncode == 0 for process in processes), "\n".join(o[-3000:] for o in outputs)
    for key, found in torch.load(tmp_path / "out.pt", weights_only=True).items():
        assert relative_error(found, gradients(llama(), [make(key)])) < 3e-5, key  # other GEMM shapes
