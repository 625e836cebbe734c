"""Engines in one process: offloaded checkpoints, shards put in the place of parameters, kernels and 4-bit weights."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from checks import batch, explicit, full, gradients, off, on, relative_error, shard, tiny
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    CheckpointImpl,
    checkpoint_wrapper,
    offload_wrapper,
)

import infosteer
from infosteer.errors import ArchitectureError, AttachError, SiteError


@pytest.fixture
def process_group() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def wrap_layers(wrapper: Callable[[nn.Module], nn.Module]) -> Callable[[nn.Module], None]:
    def wrap(model: Any) -> None:
        for index, layer in enumerate(model.model.layers):
            model.model.layers[index] = wrapper(layer)

    return wrap


WRAPPED: dict[str, Callable[[nn.Module], None]] = {
    "offload_wrapper": wrap_layers(offload_wrapper),
    "checkpoint_wrapper": wrap_layers(lambda m: checkpoint_wrapper(m, CheckpointImpl.NO_REENTRANT)),
    "offloaded checkpoints": wrap_layers(lambda m: offload_wrapper(checkpoint_wrapper(m, CheckpointImpl.NO_REENTRANT))),
    "transformers": lambda model: model.gradient_checkpointing_enable({"use_reentrant": False}),
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_checkpoints_and_offload(kind: str) -> None:
    """Whoever checkpoints, and wherever saved tensors lie meanwhile: the gradient of the explicit loss."""
    model = tiny()
    WRAPPED[kind](model)
    with infosteer.steer(model, on()) as session, torch.autograd.graph.save_on_cpu():
        session.loss(model(**batch(), use_cache=False).loss).backward()
    clean = {name.replace("_checkpoint_wrapped_module.", ""): value for name, value in gradients(model).items()}
    assert relative_error(clean, explicit()) < 1e-5


def trained(model: nn.Module, methods: list[Any], steps: int = 2) -> dict[str, torch.Tensor]:
    with infosteer.steer(model, methods) as session:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for _ in range(steps):
            session.loss(model(**batch(), use_cache=False).loss).backward()
            optimizer.step()
            optimizer.zero_grad()
    return {name: full(value) for name, value in model.named_parameters()}


def test_steering_a_sharded_model_leaves_it_trainable(process_group: None) -> None:
    """A forward leaves FSDP2's root whole; an optimizer made then would hold tensors that nobody trains."""
    assert relative_error(trained(shard(tiny(), "cpu"), on()), trained(tiny(), on())) < 1e-5


def test_protection_follows_into_the_shards(process_group: None) -> None:
    """Whole projections at a factor, steered before fully_shard: the weights of the unsharded run, and thawed after."""
    slow, frozen = infosteer.ProtectMemory(values=0.25, keys=0.0, gates=1.0), "model.layers.0.mlp.up_proj.weight"
    wanted = trained(tiny(), [slow])
    model = tiny()
    session = infosteer.steer(model, [slow])
    shard(model, "cpu")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(2):
        session.loss(model(**batch(), use_cache=False).loss).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert relative_error({name: full(value) for name, value in model.named_parameters()}, wanted) < 1e-6
    assert not model.get_parameter(frozen).requires_grad
    session.remove()
    assert model.get_parameter(frozen).requires_grad


def test_methods_that_cannot_follow_are_refused(process_group: None) -> None:
    for methods, message in (
        ([{"method": "recadam"}], "parameters were replaced after the method acted on them"),
        ([{"method": "weight_interpolation"}], "parameters were replaced after the method acted on them"),
        ([{"method": "protect_random"}], "parts of a parameter cannot be protected"),
    ):
        model = tiny()
        session = infosteer.steer(model, methods, total_steps=4)
        shard(model, "cpu")
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        session.loss(model(**batch(), use_cache=False).loss).backward()
        with pytest.raises(AttachError, match=message):
            optimizer.step()
        session.remove()


def flat_step(model: nn.Module, groups: int = 2) -> Callable[[], None]:
    """A stand-in for ZeRO-2: an optimizer steps on flat copies, one group at a time, which are copied back."""
    parameters = list(model.parameters())
    flats = [torch.cat([p.detach().flatten() for p in parameters[i::groups]]) for i in range(groups)]
    sizes = [[p.numel() for p in parameters[i::groups]] for i in range(groups)]
    optimizer = torch.optim.SGD([{"params": [flat]} for flat in flats], lr=0.1)
    for i, flat in enumerate(flats):
        for parameter in parameters[i::groups]:
            fragment = types.SimpleNamespace(get_hp_fragment=lambda flat=flat: flat[:1])
            parameter._hp_mapping = fragment

    def step() -> None:
        every = optimizer.param_groups
        for i, flat in enumerate(flats):
            flat.grad = torch.cat([p.grad.flatten() for p in parameters[i::groups]])
            optimizer.param_groups = [every[i]]
            optimizer.step()
        optimizer.param_groups = every
        for i, flat in enumerate(flats):
            for p, piece in zip(parameters[i::groups], flat.split(sizes[i]), strict=True):
                p.data.copy_(piece.view_as(p))
                p.grad = None

    return step


def test_steps_on_partitions_are_counted_once() -> None:
    """An optimizer that steps once for every group makes one step of training; schedules follow it."""
    model = tiny()
    with infosteer.steer(model, on()) as session:
        step = flat_step(model)
        for count in range(3):
            assert session.step == count
            session.loss(model(**batch(), use_cache=False).loss).backward()
            step()
        assert session.step == 3


def test_scaled_updates_on_partitions_are_refused() -> None:
    model = tiny()
    with infosteer.steer(model, [infosteer.ProtectMemory(values=0.5, keys=1.0, gates=1.0)]):
        step = flat_step(model)
        model(**batch(), use_cache=False).loss.backward()
        with pytest.raises(AttachError, match=r"cannot act on their updates[\s\S]*protect_memory[\s\S]*factor 0"):
            step()


def test_a_forward_that_a_kernel_replaced_is_refused() -> None:
    """As hub kernels do it: the class and the name stay, the forward of the instance is another one."""
    model = tiny()
    mlp = model.model.layers[1].mlp

    def fused(self: Any, h: torch.Tensor) -> torch.Tensor:
        k = F.silu(F.linear(h, self.gate_proj.weight)) * F.linear(h, self.up_proj.weight)
        return F.linear(k, self.down_proj.weight)

    mlp.forward = types.MethodType(fused, mlp)
    with pytest.raises(SiteError, match=r"fired 0 times[\s\S]*hub kernel"):
        infosteer.steer(model, on())


def test_liger(monkeypatch: pytest.MonkeyPatch) -> None:
    """Liger's own modules and patch, with its product computed by PyTorch: its kernels need a GPU."""
    swiglu = pytest.importorskip("liger_kernel.transformers.swiglu", reason="pip install liger-kernel")
    from liger_kernel.transformers import apply_liger_kernel_to_llama
    from liger_kernel.transformers.tiled_mlp import LigerTiledSwiGLUMLP

    monkeypatch.setattr(swiglu, "_swiglu_dispatch", lambda gate, up, *_: F.silu(gate) * up)
    model: Any = tiny()
    kept = {"rope": False, "cross_entropy": False, "fused_linear_cross_entropy": False, "rms_norm": False}
    apply_liger_kernel_to_llama(model=model, swiglu=True, **kept)
    assert model.model.layers[0].mlp._get_name() == "LigerSwiGLUMLP"
    with infosteer.steer(model, on()) as session:
        session.loss(model(**batch(), use_cache=False).loss).backward()
    assert relative_error(gradients(model), explicit()) < 1e-5
    tiled: Any = tiny()
    tiled.model.layers[0].mlp = LigerTiledSwiGLUMLP(tiled.config)
    with pytest.raises(ArchitectureError, match="LigerTiledSwiGLUMLP"):
        infosteer.steer(tiled, on())


class Linear4bit(nn.Linear):
    """Named like bitsandbytes' layer: packed bytes, and on a CPU repacked for good when it is evaluated."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=False)
        self.steps = linear.weight.detach().abs().amax() / 7
        levels = (linear.weight.detach() / self.steps).round().add(8).to(torch.uint8).flatten()
        self.weight = nn.Parameter((levels[::2] * 16 + levels[1::2]).unsqueeze(1), requires_grad=False)
        self.packed = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert not (self.packed and self.training), "packed for inference by somebody's evaluation"
        self.packed = self.packed or not self.training
        levels = torch.stack([self.weight[:, 0] // 16, self.weight[:, 0] % 16], -1).float().flatten() - 8
        return F.linear(x, (levels * self.steps).view(self.out_features, self.in_features))


def four_bits(make: Callable[[nn.Linear], nn.Module]) -> nn.Module:
    """A LoRA model over linears of four bits."""
    model: Any = tiny(hidden_size=64, intermediate_size=128)
    for layer in model.model.layers:
        for holder in (layer.self_attn, layer.mlp):
            for name, linear in list(holder.named_children()):
                if isinstance(linear, nn.Linear):
                    setattr(holder, name, make(linear))
    torch.manual_seed(1)
    config = LoraConfig(r=4, target_modules=["down_proj", "q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    return get_peft_model(model, config).train()


def check_four_bits(make: Callable[[nn.Linear], nn.Module]) -> None:
    model = four_bits(make)
    with infosteer.steer(model, on()) as session:
        session.loss(model(**batch(), use_cache=False).loss).backward()
    assert relative_error(gradients(model), explicit(four_bits(make))) < 1e-5
    states = []
    for methods in (None, off()):
        model = four_bits(make)
        session = infosteer.steer(model, methods) if methods is not None else None
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
        for _ in range(3):
            loss = model(**batch(), use_cache=False).loss
            (session.loss(loss) if session else loss).backward()
            optimizer.step()
            optimizer.zero_grad()
        states.append({name: p.detach().clone() for name, p in model.named_parameters()})
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_four_bit_weights_and_lora() -> None:
    check_four_bits(Linear4bit)


def test_bitsandbytes_four_bits_and_lora() -> None:
    bnb = pytest.importorskip("bitsandbytes", reason="pip install bitsandbytes")

    def make(linear: nn.Linear) -> nn.Module:
        made = bnb.nn.Linear4bit(linear.in_features, linear.out_features, False, torch.float32, quant_type="nf4")
        made.weight = bnb.nn.Params4bit(linear.weight.data.clone(), requires_grad=False, quant_type="nf4")
        return made.to("cpu")

    check_four_bits(make)
