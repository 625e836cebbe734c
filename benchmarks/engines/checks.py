"""One training engine, checked: the penalty's gradient against the explicit loss, and strength 0 against no steering.

    torchrun --nproc-per-node 2 benchmarks/engines/checks.py fsdp2 OUT.json

A check builds a tiny model, lets the engine train it, and returns what was found: ``gradient``, the relative error
``|| got - wanted || / || wanted ||`` over all parameters, and ``identity``, whether three optimizer steps with methods
of strength 0 give the bare loop's weights bit by bit. On the CPU processes talk through gloo, else through NCCL.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

import infosteer

WEIGHT, FRACTION = 0.5, 0.2
VOCABULARY, IGNORED = 48, -100
Tensors = dict[str, torch.Tensor]
Batch = Mapping[str, torch.Tensor]


def tiny(**changes: Any) -> LlamaForCausalLM:
    """A Llama of two layers, the same each time, in training mode."""
    torch.manual_seed(0)
    settings = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    settings |= {"num_key_value_heads": 2, "vocab_size": VOCABULARY, "initializer_range": 0.2, **changes}
    return LlamaForCausalLM(LlamaConfig(**settings)).train()


def batch(count: int = 8, length: int = 10, device: str = "cpu") -> Tensors:
    """Rows of unequal length, padded right, without loss on their first two tokens."""
    ids = torch.randint(1, VOCABULARY, (count, length), generator=torch.Generator().manual_seed(5))
    mask, labels = torch.ones_like(ids), ids.clone()
    for row in range(count):
        stop = length - row % 5
        mask[row, stop:], ids[row, stop:], labels[row, stop:] = 0, 0, IGNORED
    labels[:, :2] = IGNORED
    rows = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    return {name: value.to(device) for name, value in rows.items()}


def token_count(rows: Batch) -> int:
    """Tokens that carry loss."""
    return int((rows["labels"][:, 1:] != IGNORED).sum())


def on() -> list[Any]:
    """An edit, and a penalty on what it leaves."""
    return [infosteer.Intervention(fraction=FRACTION), infosteer.EntropyRegularization(weight=WEIGHT)]


def off() -> list[Any]:
    """The same, and a protection, at strength 0."""
    lift = infosteer.Intervention(fraction=FRACTION, strength=0)
    return [lift, infosteer.EntropyRegularization(weight=WEIGHT, strength=0), infosteer.ProtectMemory(strength=0)]


def explicit_loss(model: nn.Module, rows: Batch) -> torch.Tensor:
    """Task loss and penalty as one number with its graph: a few lines of hooks and plain autograd."""
    seen: list[torch.Tensor] = []

    def edit(_: nn.Module, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        seen.append(infosteer.functional.intervene(args[0], FRACTION, 1.0))
        return (seen[-1],)

    downs = [module for name, module in model.named_modules() if name.endswith("mlp.down_proj")]
    handles = [down.register_forward_pre_hook(edit) for down in downs]
    loss: torch.Tensor = model(**rows, use_cache=False).loss
    for handle in handles:
        handle.remove()
    assert len(seen) == len(downs) > 0
    counted = torch.zeros_like(rows["labels"], dtype=torch.bool)
    counted[:, :-1] = rows["labels"][:, 1:] != IGNORED
    entropy = torch.zeros((), device=loss.device)
    for k in seen:
        wide = k if k.dtype == torch.float64 else k.float()
        share = wide.abs() / wide.abs().sum(-1, keepdim=True)
        entropy = entropy - torch.special.xlogy(share, share).sum(-1)[counted].sum()
    return loss - WEIGHT * entropy / counted.sum()


def gradients(model: nn.Module) -> Tensors:
    return {name: p.grad.detach().clone() for name, p in model.named_parameters() if p.grad is not None}


def explicit(model: nn.Module | None = None, rows: Batch | None = None) -> Tensors:
    """Gradients of the explicit loss on the CPU, in one process."""
    model = tiny() if model is None else model
    explicit_loss(model, batch() if rows is None else rows).backward()
    return gradients(model)


def relative_error(got: Batch, wanted: Batch) -> float:
    """|| got - wanted || / || wanted || over all parameters, which must be the same."""
    assert got.keys() == wanted.keys(), set(got) ^ set(wanted)
    pairs = [(got[name].double().cpu(), value.double().cpu()) for name, value in wanted.items()]
    difference = sum(float((mine - theirs).square().sum()) for mine, theirs in pairs)
    return float((difference / sum(float(theirs.square().sum()) for _, theirs in pairs)) ** 0.5)


@contextlib.contextmanager
def processes(device: str) -> Iterator[None]:
    """The process group that this process belongs to, of one where nobody started more."""
    for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29517", "RANK": "0", "WORLD_SIZE": "1"}.items():
        os.environ.setdefault(name, value)
    if device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("gloo" if device == "cpu" else "nccl")
    try:
        yield
    finally:
        dist.destroy_process_group()


def mine(device: str) -> Tensors:
    """This process's rows of the batch."""
    return {name: value[dist.get_rank() :: dist.get_world_size()].to(device) for name, value in batch().items()}


def full(tensor: Any) -> torch.Tensor:
    """A DTensor put together; anything else as it is."""
    whole: torch.Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return whole.detach().cpu().clone()


def sharded_loss(model: Any, rows: Batch, session: Any) -> torch.Tensor:
    """What a process calls backward on where gradients are averaged over processes."""
    total = token_count(batch())
    loss = model(**rows, use_cache=False).loss * (token_count(rows) / total)
    loss = session.loss(loss, num_items=total) if session else loss
    return loss * dist.get_world_size()


def train(prepare: Callable[[Any], Any], methods: list[Any] | None, device: str, steps: int = 3) -> tuple[Any, Tensors]:
    """Steers, prepares and trains the tiny model; the session, and the first step's gradients or the last weights.

    ``prepare(model)`` is called after steering and gives the module to call.
    """
    model = tiny().to(device)
    session = infosteer.steer(model, methods) if methods is not None else None
    called = prepare(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    found: Tensors = {}
    for step in range(steps):
        sharded_loss(called, mine(device), session).backward()
        if step == 0 and methods and not methods[0].off:
            found = {name: full(p.grad) for name, p in model.named_parameters() if p.grad is not None}
        optimizer.step()
        optimizer.zero_grad()
    assert session is None or session.step == steps
    return session, found or {name: full(p) for name, p in model.named_parameters()}


def findings(run: Callable[[list[Any] | None], Tensors]) -> dict[str, Any]:
    """Both checks by ``run(methods)``: gradients where methods act, else final weights."""
    bare, steered = run(None), run(off())
    same = bare.keys() == steered.keys() and all(torch.equal(value, steered[name]) for name, value in bare.items())
    return {"gradient": relative_error(run(on()), explicit()), "identity": same}


def shard(model: nn.Module, device: str) -> nn.Module:
    """FSDP2 on every layer and on the whole."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device, (dist.get_world_size(),))
    for part in (*model.model.layers, model):  # type: ignore[union-attr,misc]
        fully_shard(part, mesh=mesh)
    return model


def ddp(device: str) -> dict[str, Any]:
    """accelerate's DDP."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=device == "cpu")
    return findings(lambda methods: train(accelerator.prepare, methods, device)[1])


def fsdp2(device: str) -> dict[str, Any]:
    """torch's fully_shard after steering; a protection of whole projections follows into the shards."""
    with processes(device):
        found = findings(lambda methods: train(lambda model: shard(model, device), methods, device)[1])
        slow = [infosteer.ProtectMemory(values=0.25, keys=0.0, gates=1.0)]
        sharded = train(lambda model: shard(model, device), slow, device)[1]
        whole = train(lambda model: nn.parallel.DistributedDataParallel(model), slow, device)[1]
        return {**found, "protection": relative_error(sharded, whole)}


def fsdp2_before(device: str) -> dict[str, Any]:
    """torch's fully_shard before steering."""

    def run(methods: list[Any] | None) -> Tensors:
        model = shard(tiny().to(device), device)
        session = infosteer.steer(model, methods) if methods is not None else None
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for _ in range(3):
            sharded_loss(model, mine(device), session).backward()
            if methods and not methods[0].off:
                return {name: full(p.grad) for name, p in model.named_parameters()}
            optimizer.step()
            optimizer.zero_grad()
        return {name: full(p) for name, p in model.named_parameters()}

    with processes(device):
        return findings(run)


def fsdp2_accelerate(device: str) -> dict[str, Any]:
    """accelerate's FSDP2, which needs an accelerator."""
    from accelerate import Accelerator, FullyShardedDataParallelPlugin

    plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2, auto_wrap_policy="transformer_based_wrap", transformer_cls_names_to_wrap=["LlamaDecoderLayer"]
    )
    accelerator = Accelerator(fsdp_plugin=plugin)

    def run(methods: list[Any] | None) -> Tensors:
        model = tiny()
        session = infosteer.steer(model, methods) if methods is not None else None
        model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=1e-2))
        for _ in range(3):
            accelerator.backward(sharded_loss(model, mine(device), session))
            if methods and not methods[0].off:
                return {name: full(p.grad) for name, p in model.named_parameters()}
            optimizer.step()
            optimizer.zero_grad()
        return {name: full(p) for name, p in model.named_parameters()}

    return findings(run)


def deepspeed(device: str, stage: int) -> dict[str, Any]:
    """DeepSpeed's engine with ZeRO; its optimizer steps on partitions, once for each group of parameters."""
    os.environ.setdefault("DS_ACCELERATOR", device)
    import deepspeed as engine_package
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_grad

    engine_package.init_distributed(dist_backend="gloo" if device == "cpu" else "nccl")
    config = {
        "train_micro_batch_size_per_gpu": 8 // dist.get_world_size(),
        "zero_optimization": {"stage": stage},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }

    def run(methods: list[Any] | None) -> Tensors:
        model = tiny()
        session = infosteer.steer(model, methods) if methods is not None else None
        decayed = [p for p in model.parameters() if p.dim() > 1]
        others = [p for p in model.parameters() if p.dim() <= 1]
        optimizer = torch.optim.AdamW([{"params": decayed}, {"params": others, "weight_decay": 0.0}], lr=1e-2)
        engine, *_ = engine_package.initialize(model=model, optimizer=optimizer, config=config)
        for _ in range(3):
            engine.backward(sharded_loss(engine, mine(device), session))
            if methods and not methods[0].off:
                return {name: full(safe_get_full_grad(p)) for name, p in model.named_parameters()}
            engine.step()
        if session is not None:
            assert session.step == 3, f"{session.step} steps counted"
        return {name: full(safe_get_full_fp32_param(p)) for name, p in model.named_parameters()}

    return findings(run)


CHECKS: dict[str, Callable[[str], dict[str, Any]]] = {
    "ddp": ddp,
    "fsdp2": fsdp2,
    "fsdp2-before": fsdp2_before,
    "fsdp2-accelerate": fsdp2_accelerate,
    "zero-1": lambda device: deepspeed(device, 1),
    "zero-2": lambda device: deepspeed(device, 2),
    "zero-3": lambda device: deepspeed(device, 3),
}


def main(name: str, out: str) -> None:
    """Runs one check in this process; the first one writes what was found."""
    torch.set_num_threads(1)
    found = CHECKS[name]("cuda" if torch.cuda.is_available() else "cpu")
    if int(os.environ.get("RANK", "0")) == 0:
        Path(out).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
