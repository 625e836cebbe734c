"""What the contract suite runs every method on: tiny models of three layouts, one batch, and a plain training loop.

As a script (``python world.py OUT.pt``) it is one of the two processes that all methods share.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM

import infosteer
from infosteer.core.marks import MarkingMethod, column
from infosteer.core.registry import build_method, method_info

KEYS = infosteer.list_methods()
MODEL_KEYS = [key for key in KEYS if not key.startswith("data/")]  # data methods act before there is a trainer
VOCABULARY = 48


def llama(**changes: Any) -> nn.Module:
    settings = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = LlamaConfig(**{**settings, "num_key_value_heads": 2, "vocab_size": VOCABULARY, **changes})
    config.initializer_range = 0.2
    return seeded(lambda: LlamaForCausalLM(config))


def gpt2() -> nn.Module:
    config = GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=VOCABULARY, n_positions=32, initializer_range=0.2)
    config.resid_pdrop = config.embd_pdrop = config.attn_pdrop = 0.1
    config.bos_token_id = config.eos_token_id = 0
    return seeded(lambda: GPT2LMHeadModel(config))


def phi3() -> nn.Module:
    settings = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = Phi3Config(**settings, num_key_value_heads=2, vocab_size=VOCABULARY, pad_token_id=0)
    config.initializer_range = 0.2
    return seeded(lambda: Phi3ForCausalLM(config))


FAMILIES: dict[str, Callable[[], nn.Module]] = {"llama": llama, "gpt2": gpt2, "phi3": phi3}


def seeded(build: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return build().train()


def settings_of(key: str) -> dict[str, Any]:
    """The method's mapping in its own recipe: settings with which it has an effect."""
    recipe = yaml.safe_load(method_info(key).recipe.read_text(encoding="utf-8"))
    for arm in recipe["arms"].values():
        for mapping in arm["methods"] if isinstance(arm, dict) else arm:
            if method_info(mapping["method"]).key == key:
                return dict(mapping)
    raise AssertionError(f"the recipe of {key} has no arm that uses it")


def make(key: str, **changes: Any) -> Any:
    return build_method({**settings_of(key), **changes})


def batch(methods: Sequence[Any] = (), count: int = 8, length: int = 12) -> dict[str, torch.Tensor]:
    """Rows of unequal length, padded right, prompts ignored; with marks for those of the methods that mark tokens.

    The marks are -1, 0, 1, 2 in turn: what they mean is the method's own business, as is what it makes of them.
    """
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(1, VOCABULARY, (count, length), generator=generator)
    mask = torch.ones_like(ids)
    labels = ids.clone()
    for row in range(count):
        stop = length - (row * 3) % 7
        mask[row, stop:], ids[row, stop:], labels[row, stop:] = 0, 0, -100
        labels[row, : 1 + row % 3] = -100
    marks = ((torch.arange(count * length).reshape(count, length) % 4 - 1) * mask).float()
    marked = {column(m.label()): marks for m in methods if isinstance(m, MarkingMethod) and m.marking}
    return {"input_ids": ids, "attention_mask": mask, "labels": labels, **marked}


def token_count(rows: dict[str, torch.Tensor]) -> int:
    return int((rows["labels"][:, 1:] != -100).sum())


def gradients(
    model: nn.Module, methods: list[Any], *, micro: int = 8, forward: Any = None, task: float = 1.0
) -> dict[str, torch.Tensor]:
    """Gradient of task loss and penalties over the batch, in micro-batches of ``micro`` rows, methods attached."""
    rows = batch(methods)
    total = token_count(rows)
    model.zero_grad()
    with steer(model, methods) as session:
        call = forward(model) if forward else model
        for start in range(0, 8, micro):
            part = {name: value[start : start + micro] for name, value in rows.items()}
            loss = call(**part, use_cache=False).loss * (token_count(part) / total) * task
            session.loss(loss, num_items=total).backward()
    return {name: p.grad.detach().clone() for name, p in model.named_parameters() if p.grad is not None}


def train(model: nn.Module, methods: list[Any] | None, steps: int = 3) -> tuple[list[float], dict[str, torch.Tensor]]:
    """A few AdamW steps with clipping; losses and final state. ``methods=None`` is the bare loop."""
    context: Any = steer(model, methods) if methods is not None else contextlib.nullcontext()
    losses = []
    with context as session:
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.1)
        torch.manual_seed(11)  # dropout
        for _ in range(steps):
            loss = model(**batch(methods or ()), use_cache=False).loss
            losses.append(float(loss.detach()))
            (session.loss(loss) if session else loss).backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
        if session:
            session.finish()
    return losses, {name: value.detach().clone() for name, value in model.state_dict().items()}


def steer(model: nn.Module, methods: list[Any]) -> Any:
    """A session on the model, with the batch as calibration text and as the task."""
    inputs = {name: batch()[name] for name in ("input_ids", "attention_mask")}
    return infosteer.steer(model, methods, calibration=[inputs], task=[batch()])


def relative_error(got: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> float:
    assert got.keys() == wanted.keys()
    difference = sum(float((got[n].double() - g.double()).square().sum()) for n, g in wanted.items())
    return float((difference / sum(float(g.double().square().sum()) for g in wanted.values())) ** 0.5)


def all_methods() -> list[Any]:
    return [make(key) for key in MODEL_KEYS]


def main(out: str) -> None:
    """One of two processes: each method on half of the batch, gradients averaged as DDP does."""
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, results = dist.get_rank(), {}
    for key in MODEL_KEYS:
        model, method = llama(), make(key)
        rows = batch([method])
        mine = {name: value[rank::2] for name, value in rows.items()}
        with steer(model, [method]) as session:
            wrapped = nn.parallel.DistributedDataParallel(model)
            share = token_count(mine) / token_count(rows)
            loss = wrapped(**mine, use_cache=False).loss * share
            (session.loss(loss, num_items=token_count(rows)) * 2).backward()  # DDP divides by the number of processes
        results[key] = {n: p.grad.detach().clone() for n, p in model.named_parameters() if p.grad is not None}
    if rank == 0:
        torch.save(results, Path(out))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main(sys.argv[1])
