"""A tiny SFT training that saves checkpoints. Not a test module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback
from trl import SFTConfig, SFTTrainer


class Stop(TrainerCallback):
    """Ends the training as a kill would, after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


def trainer(folder: Path) -> SFTTrainer:
    """Six steps of SFT of a tiny model, with a checkpoint every second one."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, vocab_size=20
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1}, unk_token="<pad>")),
        pad_token="<pad>", eos_token="<eos>", unk_token="<pad>",
    )  # fmt: skip
    rows = [
        {"input_ids": [2 + (i + j) % 18 for j in range(6)], "labels": [2 + (i + j) % 18 for j in range(6)]}
        for i in range(12)
    ]
    arguments = SFTConfig(
        output_dir=str(folder), max_steps=6, per_device_train_batch_size=4, learning_rate=1e-2, save_steps=2,
        save_strategy="steps", report_to="none", use_cpu=True, bf16=False, disable_tqdm=True, logging_strategy="no",
        activation_checkpointing=False, dataset_kwargs={"skip_prepare_dataset": True}, max_length=None, seed=3,
    )  # fmt: skip
    return SFTTrainer(
        model=LlamaForCausalLM(config),
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
