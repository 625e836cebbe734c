"""The embedded base: size, loading by plain transformers, stored facts, and a card that quotes its own report."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open

from infosteer.lab import embedded_base, load
from infosteer.lab.facts import make_world
from infosteer.lab.measures import complete
from infosteer.lab.report import measure_recall


@pytest.fixture(scope="module")
def base():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = embedded_base()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def report():
    return json.loads((embedded_base() / "pretraining.json").read_text())


def test_files_and_size() -> None:
    files = {file.name: file.stat().st_size for file in embedded_base().iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "README.md"} <= set(files)
    assert not any(name.endswith((".bin", ".pt", ".pkl")) for name in files)
    assert sum(files.values()) <= 12_000_000
    with safe_open(embedded_base() / "model.safetensors", "pt") as weights:
        assert {str(weights.get_tensor(name).dtype) for name in weights.keys()} == {"torch.bfloat16"}  # noqa: SIM118


def test_architecture(base) -> None:
    model, tokenizer = base
    assert model.config.model_type == "llama"
    assert model.config.max_position_embeddings >= 1024
    assert model.config.tie_word_embeddings
    assert model.config.vocab_size == len(tokenizer)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert sum(p.numel() for p in model.parameters()) <= 5_800_000


def test_it_stores_the_facts(base) -> None:
    model, tokenizer = base
    assert measure_recall(model, tokenizer, make_world(), people=40, seed=5)["all"] >= 0.9


def test_the_recall_sets_agree_with_what_is_stored(base) -> None:
    model, tokenizer = base
    for key in ("facts/recall", "facts/recall_unasked"):
        rows = load(key, limit=150)
        got = complete(model, tokenizer, [row["prompt"] for row in rows], stop=rows[0]["stop"][0])
        assert sum(g == row["answer"] for g, row in zip(got, rows, strict=True)) >= 0.9 * len(rows)


def test_completion_agrees_with_generate(base) -> None:
    model, tokenizer = base
    prompts = [row["prompt"] for row in load("facts/recall", limit=5)]
    for prompt, answer in zip(prompts, complete(model, tokenizer, prompts), strict=True):
        ids = tokenizer(prompt, return_tensors="pt")
        out = model.generate(**ids, max_new_tokens=8, do_sample=False)[0, ids.input_ids.shape[1] :]
        assert tokenizer.decode(out, skip_special_tokens=True).split(".")[0].strip() == answer


def test_it_knows_the_facts_and_not_a_changed_world(base) -> None:
    model, tokenizer = base
    other = make_world(7, 40)
    assert measure_recall(model, tokenizer, other, people=40)["all"] < 0.15


def test_it_reads_long_texts(base) -> None:
    model, tokenizer = base
    text = " ".join(row["text"] for row in load("facts/biographies", limit=20))
    ids = torch.tensor([tokenizer(text).input_ids[:1024]])
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0].float()
    loss = torch.nn.functional.cross_entropy(logits[:-1], ids[0, 1:], reduction="none")
    assert loss[900:].mean() < 1.5 * loss[100:225].mean()


def test_report_and_card(report) -> None:
    assert report["recall"]["all"] >= 0.9
    assert report["bits_per_byte"]["model"] < report["bits_per_byte"]["bigram"]
    assert report["cpu_seconds"] <= 60 * 60 * 2
    card = (embedded_base() / "README.md").read_text()
    for number in (
        f"**{100 * report['recall']['all']:.1f} %**",
        f"**{report['bits_per_byte']['model']:.3f} bits per byte**",
        f"{report['bits_per_byte']['bigram']:.3f}",
        f"{report['parameters'] / 1e6:.2f} million",
        f"{report['cpu_seconds'] / 60:.0f} CPU minutes",
    ):
        assert number in card
    assert "/" not in report["config"]["general_text"]
