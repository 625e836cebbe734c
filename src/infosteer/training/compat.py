"""All that depends on the versions of transformers, TRL and accelerate (read at transformers 5.23, TRL 1.16)."""

from __future__ import annotations

import contextlib
import importlib.metadata
import itertools
import logging
from collections.abc import Iterator
from typing import Any

import torch
from accelerate.optimizer import AcceleratedOptimizer

from infosteer.core.params import Loop
from infosteer.errors import AttachError, ConfigError

logger = logging.getLogger(__name__)
PACKAGES = ("infosteer", "torch", "transformers", "trl", "peft", "accelerate", "datasets")


def versions() -> dict[str, str]:
    """Versions of the packages that decide what a training run does; absent ones are left out."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def loss_factor(trainer: Any, num_items: torch.Tensor | int | None) -> float:
    """What a penalty that was divided by ``num_items`` (or by its own token count) is multiplied by, so that it ends up
    as a mean over all tokens of the optimizer step.

    ``num_items`` counts the tokens of every process and micro-batch, and DDP averages gradients over processes, hence
    the number of processes. Where the trainer divides the loss by the accumulation steps afterwards (DPO), a term that
    ``num_items`` has divided already is multiplied by them; where it has divided the loss by them itself (GRPO), a term
    that only its own count has divided is divided by them too. The rule for who divides is that of ``training_step``.
    """
    steps = float(getattr(trainer, "current_gradient_accumulation_steps", None) or 1)
    scaled = getattr(trainer, "loss_is_scaled_for_ga", None)
    if scaled is None:
        scaled = getattr(trainer, "model_accepts_loss_kwargs", False) and num_items is not None
    if num_items is None:
        return 1.0 / steps if scaled else 1.0
    processes = max(trainer.accelerator.num_processes, trainer.args.n_gpu)
    averaged = getattr(trainer.args, "average_tokens_across_devices", False)
    return (processes if averaged else 1.0) * (1.0 if scaled else steps)


@contextlib.contextmanager
def compact_loss(wanted: bool) -> Iterator[None]:
    """While this is open, and if it is wanted, TRL's loss computes logits on a CPU for labelled positions only.

    TRL multiplies hidden states with the output embeddings inside its loss: on a GPU where a label is, elsewhere at
    every position, for accelerators that compile anew for every shape. A CPU does not, and with short answers behind
    long prompts most of that work is for positions without loss. Left out are terms that are zero: loss and gradients
    are the same up to rounding. A warning says so where no loss has asked.

    Raises: ConfigError where this version of TRL does not let others decide.
    """
    if not wanted:
        yield
        return
    from trl.trainer import utils

    decide = getattr(utils, "_use_triton", None)  # asked by the loss alone; the kernels ask a name of their own
    if decide is None:
        raise ConfigError(
            "This version of TRL does not let others say where its loss computes logits.",
            where="train.compact_loss",
            got=True,
            fix="leave it off, or install TRL as in requirements.lock",
        )

    asked = False

    def at_labels(device: torch.device) -> bool:
        nonlocal asked
        asked = True
        return device.type == "cpu" or decide(device)

    utils._use_triton = at_labels
    try:
        yield
    finally:
        utils._use_triton = decide
    if not asked:
        logger.warning("train.compact_loss had no effect: the trainer's loss computes its logits in another way")


def is_measured_step(trainer: Any) -> bool:
    """Whether the optimizer step now under way ends in a log."""
    args, state = trainer.args, trainer.state
    step = state.global_step + 1
    if step == 1 and args.logging_first_step:
        return True
    strategy = str(getattr(args.logging_strategy, "value", args.logging_strategy))
    if strategy == "steps":
        every = state.logging_steps or args.logging_steps
        return bool(every) and step % max(1, int(every)) == 0
    if strategy == "epoch" and state.max_steps and state.num_train_epochs:
        return step % max(1, round(state.max_steps / state.num_train_epochs)) == 0
    return False


def task_batches(trainer: Any, count: int) -> list[Any]:
    """At most ``count`` batches as the trainer's collator makes them, of rows spread evenly over its data set.

    They are the same on every process and in every run, whatever was drawn before: no sampler takes part.
    """
    rows, size = trainer.train_dataset, trainer.args.per_device_train_batch_size
    try:
        total = len(rows)
        wanted = min(total, count * size)
        chosen = [rows[index * total // wanted] for index in range(wanted)]
    except TypeError:  # a stream has no length
        chosen = list(itertools.islice(rows, count * size))
    collate = trainer._get_collator_with_removed_columns(trainer.data_collator, description="training")
    return [collate(chosen[start : start + size]) for start in range(0, len(chosen), size)]


def loop_of(trainer: Any) -> Loop:
    """What its settings say of the trainer's loop."""
    return Loop(
        accumulation=trainer.args.gradient_accumulation_steps,
        clipping=float(trainer.args.max_grad_norm or 0.0),
        processes=trainer.accelerator.num_processes,
        scaled=trainer.accelerator.scaler is not None,
    )


def bare_optimizer(optimizer: Any) -> torch.optim.Optimizer:
    """The torch optimizer within accelerate's wrapper."""
    found: torch.optim.Optimizer = optimizer.optimizer if isinstance(optimizer, AcceleratedOptimizer) else optimizer
    return found


def refuse_trainer(trainer: Any) -> None:
    """Refuses trainers in which hooks would be ignored or wrong.

    Raises:
        AttachError: naming the argument and the way out.
        ConfigError: an object that is no transformers trainer.
    """
    needed = ("args", "model", "compute_loss", "accelerator", "add_callback", "state")
    missing = [name for name in needed if not hasattr(trainer, name)]
    if missing:
        raise ConfigError(
            "expected a transformers or TRL trainer instance",
            got=type(trainer).__name__,
            expected=f"an object with {', '.join(needed)}",
        )
    args = trainer.args
    if trainer.model is None or getattr(trainer, "model_init", None) is not None:
        raise AttachError(
            "the trainer makes a new model when it starts (model_init)", fix="build it with a model, then attach"
        )
    if getattr(trainer, "is_in_train", False):
        raise AttachError("the trainer is training already", fix="attach before trainer.train()")
    if args.n_gpu > 1:
        raise AttachError(
            "DataParallel copies the model for every forward, hooks and all",
            where="one process, several GPUs",
            got=f"n_gpu={args.n_gpu}",
            fix="launch one process a GPU: accelerate launch script.py, or set CUDA_VISIBLE_DEVICES",
        )
    if getattr(args, "compute_loss_func", None) is not None or getattr(trainer, "compute_loss_func", None) is not None:
        raise AttachError(
            "compute_loss_func makes TRL run a second forward in every step",
            where="compute_loss_func",
            fix="subclass the trainer and override compute_loss instead",
        )
