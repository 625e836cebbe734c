"""A tiny tokenizer, tiny models (random ones, and one that was taught its answers), and small things to ask them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from infosteer.experiments.suite.run import run_suite

from .harness_tasks import write_tasks
from .suite_inputs import asked, write_data

TAUGHT = {
    "Q: who paints?\nA:": " Ann Lee",
    "Q: who sings very long songs in the evening?\nA:": " Bob",
    "Q: where?\nA:": " in Paris.",
    "Q: how many?\nA:": " The answer is 42.",
}
CORPUS = [
    *(prompt + answer for prompt, answer in TAUGHT.items()),
    "The quick brown fox jumps over the lazy dog. the answer is true. the answer is false.",
    "answer1 answer2 answer3 option one option two a true story, numbers 0 1 2 3 4 5 6 7 8 9.",
]


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(CORPUS * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def tiny(kind: str, vocab_size: int, *, positions: int = 128, seed: int = 0) -> torch.nn.Module:
    """A random model of the named family, two layers of width 32, weights large enough to have opinions."""
    sizes = {
        "llama": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2},
        "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": positions},
        "opt": {"hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 64, "num_hidden_layers": 2},
        "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 2},
        "gpt_neox": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2},
        "mistral": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "sliding_window": 6},
    }[kind]
    if kind == "mistral":
        sizes = {**sizes, "num_key_value_heads": 2}
    if kind in ("llama", "opt", "gpt_neox", "mistral"):
        sizes = {**sizes, "max_position_embeddings": positions, "num_attention_heads": 2}
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    config = AutoConfig.for_model(kind, vocab_size=vocab_size, **sizes, **ids)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8.0)
    return model.eval()


@pytest.fixture(scope="session")
def random_model(tokenizer: PreTrainedTokenizerFast) -> torch.nn.Module:
    return tiny("llama", len(tokenizer))


@pytest.fixture(scope="session")
def taught_model(tokenizer: PreTrainedTokenizerFast) -> torch.nn.Module:
    """A model trained for a second or two until it gives the answers of TAUGHT, each closed by the end token."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=128,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    batch = tokenizer([q + a + "</s>" for q, a in TAUGHT.items()], padding=True, return_tensors="pt")
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    for _ in range(60):
        loss = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.2  # what is left is the first token of each question
    return model.eval()


@pytest.fixture(scope="module")
def task_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tasks for lm-eval, of every kind."""
    return write_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="session")
def world(
    tmp_path_factory: pytest.TempPathFactory, taught_model: torch.nn.Module, tokenizer: PreTrainedTokenizerFast
) -> Path:
    """A saved model, its rows, and a data folder; read only."""
    folder = tmp_path_factory.mktemp("world")
    taught_model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    write_data(folder / "data")
    rows = [{"prompt": p, "completion": a} for p, a in TAUGHT.items()]
    rows.append({"prompt": "Q: who paints?\nA:", "completion": " Bob"})
    (folder / "taught.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="session")
def done(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished evaluation; read only."""
    return run_suite(asked(world), tmp_path_factory.mktemp("done") / "out")
