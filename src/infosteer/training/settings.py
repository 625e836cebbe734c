"""Settings of a training run: what the ``train`` section of a recipe may say, with the paper's values as defaults.

Imports nothing heavy, so that a recipe can be checked without waiting for torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


def setting(default: Any, help: str, **bounds: Any) -> Any:
    """A dataclass field that carries its own help text and bounds (``minimum``, ``above``, ``maximum``)."""
    return field(default=default, metadata={"help": help, **bounds})


@dataclass(frozen=True, kw_only=True, slots=True)
class PeftSettings:
    """Low-rank adapters instead of all weights (peft's ``LoraConfig``)."""

    method: Literal["lora"] = setting("lora", "the adapter")
    r: int = setting(16, "rank", minimum=1)
    alpha: int = setting(32, "scale numerator: the update is multiplied by alpha / r", minimum=1)
    dropout: float = setting(0.0, "dropout on the adapter's input", minimum=0.0, maximum=1.0)
    target_modules: str | tuple[str, ...] = setting(
        "all-linear", "module names to adapt; `all-linear` takes every linear layer except the head"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainSettings:
    """How every arm is trained. Defaults follow Appendix A of the paper where it states a value."""

    stage: Literal["sft", "pretrain"] = setting(
        "sft", "supervised fine-tuning; `pretrain` recipes have keys of their own"
    )
    learning_rate: float = setting(5e-5, "peak learning rate (paper: 5e-5)", above=0.0)
    num_train_epochs: float = setting(1.0, "passes over the training rows (paper: 1)", above=0.0)
    max_steps: int = setting(-1, "optimiser steps; a positive number overrides the epochs", minimum=-1)
    per_device_train_batch_size: int = setting(4, "rows per device and forward (paper: 4)", minimum=1)
    gradient_accumulation_steps: int = setting(16, "forwards per optimiser step (paper: 16)", minimum=1)
    max_length: int | None = setting(
        256, "longest sequence in tokens, the rest is cut (paper: 256); null cuts nothing", minimum=2
    )
    warmup_steps: float = setting(
        100, "steps of linear warm-up (paper: 100); a number below 1 is a share of all steps", minimum=0.0
    )
    weight_decay: float = setting(0.01, "decoupled weight decay (paper: 0.01)", minimum=0.0)
    lr_scheduler_type: str = setting("linear", "schedule after the warm-up, a name known to transformers")
    max_grad_norm: float = setting(1.0, "gradient clipping (paper: 1.0); 0 switches it off", minimum=0.0)
    optim: str = setting("adamw_torch_fused", "optimiser, a name known to transformers")
    gradient_checkpointing: bool = setting(True, "recompute activations in the backward pass (paper: on)")
    bf16: bool | None = setting(
        None, "bfloat16 mixed precision; null means on where the GPU supports it (paper: on), off on CPU"
    )
    dtype: Literal["float32", "bfloat16"] = setting("float32", "type of the trained weights themselves")
    packing: bool = setting(False, "pack several rows into one sequence of max_length tokens")
    padding_free: bool = setting(False, "flatten a batch instead of padding it")
    completion_only_loss: bool = setting(True, "loss on the answer only; false puts the prompt into the loss too")
    compact_loss: bool = setting(
        False, "on a CPU compute logits where labels are and nowhere else, as TRL does on GPUs; equal up to rounding"
    )
    logging_steps: int = setting(10, "optimiser steps between two log lines", minimum=1)
    save_steps: int | None = setting(
        None,
        "optimiser steps between two trainer checkpoints; null saves none, a killed arm then starts over",
        minimum=1,
    )
    save_model: bool = setting(True, "keep the final model of every arm and seed under checkpoints/")
    report_to: str | tuple[str, ...] = setting("none", "experiment trackers known to transformers, e.g. tensorboard")
    peft: PeftSettings | None = field(
        default=None, metadata={"help": "train an adapter instead of all weights; null trains all weights"}
    )
