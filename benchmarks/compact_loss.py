"""What ``train.compact_loss`` saves on a CPU: ``python benchmarks/compact_loss.py [--output FILE]``.

On a CPU TRL computes logits at every position of a batch, on a GPU at labelled ones alone; the key makes it do so too.
Steps of TRL's SFTTrainer on rows of the lab (short answers behind questions), interleaved in a rotating order, for all
weights and for LoRA, each against its own plain step without the optimizer's part. Gradients of both are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from datasets import Dataset
from overhead import Step, environment, in_turn, write_json
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from infosteer.lab import embedded_base, load
from infosteer.training.compat import compact_loss

ARMS = {"plain": False, "plain again": False, "compact loss": True}
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def build_trainer(low_rank: bool) -> SFTTrainer:
    """TRL's trainer of the embedded base on rows of the lab, as recipes of the lab set it up."""
    torch.manual_seed(0)
    base = embedded_base()
    return SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
        args=SFTConfig(
            tempfile.mkdtemp(prefix="compact-loss-"),
            use_cpu=True,
            bf16=True,
            activation_checkpointing=False,
            gradient_checkpointing=None,  # type: ignore[arg-type]  # old name of the above, which would win
            per_device_train_batch_size=16,
            max_length=128,
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list([{k: row[k] for k in ("prompt", "completion")} for row in load("facts")]),
        processing_class=AutoTokenizer.from_pretrained(base),
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules=PROJECTIONS) if low_rank else None,
    )


def build_step(trainer: SFTTrainer, batch: Mapping[str, torch.Tensor], compact: bool) -> Step:
    """A forward and backward pass on one batch."""
    count = labelled(batch)
    trainer.model.train()

    def step() -> None:
        trainer.model.zero_grad(set_to_none=True)
        with compact_loss(compact), trainer.compute_loss_context_manager():
            loss = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=count)
        trainer.accelerator.backward(loss)

    return step


def labelled(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """How many positions of a batch carry loss."""
    return (batch["labels"][:, 1:] != -100).sum()


def largest_difference(trainer: SFTTrainer, batch: Mapping[str, torch.Tensor]) -> float:
    """Of any gradient between both ways, as a share of that parameter's largest gradient."""
    found = []
    for compact in (False, True):
        build_step(trainer, batch, compact)()
        found.append({n: p.grad.clone() for n, p in trainer.model.named_parameters() if p.grad is not None})
    return max(
        float((found[0][n] - found[1][n]).abs().max() / found[0][n].abs().max().clamp_min(1e-20)) for n in found[0]
    )


def main() -> None:
    options = argparse.ArgumentParser(description="Times TRL's step with and without train.compact_loss.")
    options.add_argument("--rounds", type=int, default=60)
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--output", type=Path, default=None)
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    time: dict[str, Any] = {}
    for name, low_rank in (("", False), ("LoRA: ", True)):
        trainer = build_trainer(low_rank)
        batch = next(iter(trainer.get_train_dataloader()))
        steps = {arm: build_step(trainer, batch, compact) for arm, compact in ARMS.items()}
        for step in steps.values():
            step()
        time |= {name + arm: row for arm, row in in_turn(steps, chosen.rounds).items() if not name or arm != "plain"}
        if not low_rank:
            difference = largest_difference(trainer, batch)
    measured = {
        "command": shlex.join(["python", "benchmarks/compact_loss.py", *sys.argv[1:]]),
        "batch": {"positions": batch["labels"].numel(), "labelled": int(labelled(batch))},
        "largest_gradient_difference": difference,
        "rounds": chosen.rounds,
        "environment": environment(),
        "time": time,
        "memory": {},
    }
    write_json(measured, chosen.output)
    print(json.dumps(measured, indent=2))


if __name__ == "__main__":
    main()
