"""Tiny models, tokenizers and data for tests of runs: seconds on one core, nothing from a network."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def make_tokenizer(*, chat: bool = False) -> PreTrainedTokenizerFast:
    """Bytes as tokens, an end token and a padding token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(["<pad>", "<end>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<pad>")
    if chat:
        fast.chat_template = TEMPLATE
    return fast


SHAPE = {
    "vocab_size": 258,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}


def save_model(folder: Path, family: str = "Llama", *, chat: bool = False, **changes: Any) -> Path:
    """A random model of a family (``Llama``, ``Qwen2``, ``Gemma2``) with a byte tokenizer, saved to a folder."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**{**SHAPE, **changes})
    model = getattr(transformers, f"{family}ForCausalLM")(config)
    model.save_pretrained(folder)
    make_tokenizer(chat=chat).save_pretrained(folder)
    return folder


def write_rows(path: Path, count: int = 24, seed: int = 0) -> Path:
    """Prompt/completion rows of a simple rule, as JSON lines."""
    draw = random.Random(seed)
    with path.open("w") as file:
        for _ in range(count):
            letter = draw.choice("abcdef")
            file.write(json.dumps({"prompt": f"{letter}{draw.randrange(10)} -> ", "completion": letter.upper()}) + "\n")
    return path


def recipe(folder: Path, **changes: Any) -> dict[str, Any]:
    """A recipe over a saved tiny model and rows in ``folder``: plain and intervention, two seeds, a few steps."""
    if not (folder / "model").exists():
        save_model(folder / "model")
        write_rows(folder / "train.jsonl")
        write_rows(folder / "test.jsonl", count=8, seed=1)
    base: dict[str, Any] = {
        "name": "tiny",
        "model": str(folder / "model"),
        "data": {"train": str(folder / "train.jsonl")},
        "train": {
            "learning_rate": 1e-3,
            "max_steps": 4,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 1,
            "warmup_steps": 0,
            "logging_steps": 2,
            "gradient_checkpointing": False,
            "save_model": False,
        },
        "arms": {"plain": [], "lift": [{"method": "key_lift", "fraction": 0.1}]},
        "seeds": [1, 2],
        "evaluate": {"id": {"source": str(folder / "test.jsonl"), "max_new_tokens": 3}},
    }
    for key, value in changes.items():
        base[key] = {**base[key], **value} if isinstance(base.get(key), dict) and key in ("train", "data") else value
    return base
