"""TRL's trainer for one run of a recipe, made from our settings and rows that are encoded already."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from infosteer.core.marks import PREFIX
from infosteer.errors import ConfigError, InfoSteerError
from infosteer.training.callbacks import checkpoint_callback
from infosteer.training.encode import Encoded
from infosteer.training.loading import load_model
from infosteer.training.new_tokens import copy_token_rows, embed_new_tokens, end_at, refuse_frozen, silence
from infosteer.training.settings import TrainSettings

_DDP_TIMEOUT_S = 6 * 3600  # other ranks wait while the first one evaluates


def build_trainer(
    model: str,
    tokenizer: Any,
    encoded: Encoded,
    settings: TrainSettings,
    seed: int,
    output_dir: Path,
    *,
    new_tokens: Sequence[int] = (),
    methods: Sequence[Any] = (),
    ordered: bool = False,
) -> Any:
    """The trainer of one arm and seed around a freshly loaded model; nothing is attached yet.

    Args:
        new_tokens: numbers of the special tokens that methods added.
        methods: those of the arm; some copy or silence rows of the embeddings.
        ordered: whether the rows are seen in the order given.

    Raises:
        ConfigError: settings that the trainer refuses, and parameters that are sharded.
        InfoSteerError: models that cannot be loaded.
    """
    import torch
    from datasets import Dataset
    from transformers.trainer_callback import PrinterCallback
    from trl import SFTConfig, SFTTrainer

    from infosteer.training.collate import MarkCollator

    on_gpu = torch.accelerator.is_available()
    bf16 = settings.bf16
    if bf16 is None:
        bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    marked = any(name.startswith(PREFIX) for name in encoded.rows[0])
    if marked and settings.packing:
        raise ConfigError(
            "TRL's packing drops what methods marked tokens with.",
            where="train.packing",
            got=True,
            fix="set train.padding_free instead",
        )
    report_to = settings.report_to if isinstance(settings.report_to, str) else list(settings.report_to)
    try:
        arguments = SFTConfig(
            output_dir=str(output_dir),
            seed=seed,
            data_seed=seed,
            train_sampling_strategy="sequential" if ordered else "random",
            learning_rate=settings.learning_rate,
            num_train_epochs=settings.num_train_epochs,
            max_steps=settings.max_steps if settings.max_steps > 0 else -1,
            per_device_train_batch_size=settings.per_device_train_batch_size,
            gradient_accumulation_steps=settings.gradient_accumulation_steps,
            warmup_steps=settings.warmup_steps if settings.warmup_steps < 1 else int(settings.warmup_steps),
            weight_decay=settings.weight_decay,
            lr_scheduler_type=settings.lr_scheduler_type,
            max_grad_norm=settings.max_grad_norm,
            optim=settings.optim,
            gradient_checkpointing=None,  # type: ignore[arg-type]  # old name of the next; TRL's default for it would win
            activation_checkpointing=settings.gradient_checkpointing,
            activation_checkpointing_kwargs={"use_reentrant": False} if settings.gradient_checkpointing else None,
            bf16=bf16,
            use_cpu=not on_gpu,
            dataloader_pin_memory=on_gpu,
            # rows are tokenised and cut by encode_rows; only packing is left to TRL
            dataset_kwargs=None if settings.packing else {"skip_prepare_dataset": True},
            max_length=settings.max_length if settings.packing else None,
            packing=settings.packing,
            padding_free=settings.padding_free,
            remove_unused_columns=not marked,
            logging_steps=settings.logging_steps,
            logging_nan_inf_filter=False,
            save_strategy="no" if settings.save_steps is None else "steps",
            save_steps=settings.save_steps or 500,
            save_total_limit=2,
            report_to=report_to,
            disable_tqdm=True,
            log_level="error",
            ddp_timeout=_DDP_TIMEOUT_S,
        )
        refuse_frozen(new_tokens, settings.peft, methods)
        base = load_model(model, dtype=settings.dtype)
        embed_new_tokens(base, tokenizer, new_tokens)
        copy_token_rows(base, tokenizer, methods)
        end_at(base, tokenizer, methods)
        silence(base, tokenizer, methods)
        trainer = SFTTrainer(
            model=base,
            args=arguments,
            train_dataset=Dataset.from_list(encoded.rows),
            processing_class=tokenizer,
            peft_config=_peft_config(settings),
        )
    except InfoSteerError:
        raise
    except (ValueError, TypeError, ImportError, KeyError) as error:
        raise ConfigError(
            "The trainer does not take these settings.", where="train", got=f"{type(error).__name__}: {error}"
        ) from error
    if str(trainer.accelerator.distributed_type).rpartition(".")[2] not in ("NO", "MULTI_GPU", "MULTI_CPU"):
        raise ConfigError(
            "`infosteer run` shards no parameters: every process must hold the whole model to evaluate it.",
            got=trainer.accelerator.distributed_type,
            expected="one process, or data parallel processes (DDP)",
            fix="for FSDP or DeepSpeed call infosteer.attach(trainer, ...) in a script of your own",
        )
    if marked:
        trainer.data_collator = MarkCollator(trainer.data_collator)
    trainer.remove_callback(PrinterCallback)
    if settings.save_steps is not None:
        trainer.add_callback(checkpoint_callback())
    return trainer


def _peft_config(settings: TrainSettings) -> Any:
    if settings.peft is None:
        return None
    from peft import LoraConfig

    target = settings.peft.target_modules
    return LoraConfig(
        r=settings.peft.r,
        lora_alpha=settings.peft.alpha,
        lora_dropout=settings.peft.dropout,
        target_modules=target if isinstance(target, str) else list(target),
        task_type="CAUSAL_LM",
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the libraries' bars and notes for a while; what users must know is raised or logged by InfoSteer."""
    import datasets
    from transformers.utils import logging as transformers_logging

    level = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    dataset_bars = datasets.are_progress_bars_disabled()
    trl_logger = logging.getLogger("trl")
    trl_level = trl_logger.level
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    datasets.disable_progress_bars()
    trl_logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        trl_logger.setLevel(trl_level)
        if bars:
            transformers_logging.enable_progress_bar()
        if not dataset_bars:
            datasets.enable_progress_bars()
