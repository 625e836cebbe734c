"""Self-reinforcement against a loop of single forwards, and counts of repetition by hand."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from infosteer.errors import ConfigError, DataError
from infosteer.evaluation.repetition import repeated_ngrams, repeated_sentences, self_reinforcement
from infosteer.lab.embedded import embedded_base
from infosteer.training.loading import load_tokenizer

SENTENCES = [("The sky is", " blue and wide."), ("One.", " He cooks rice."), ("A b c d e f.", " Yes."), ("", " No.")]


def model_of(tokens: int = 256) -> torch.nn.Module:
    torch.manual_seed(0)
    vocabulary = len(load_tokenizer(str(embedded_base())))
    config = LlamaConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, vocab_size=vocabulary,
        initializer_range=0.5, max_position_embeddings=tokens,
    )  # fmt: skip
    return LlamaForCausalLM(config).train()


def test_every_copy_against_single_forwards() -> None:
    model, tokenizer = model_of(), load_tokenizer(str(embedded_base()))
    found = self_reinforcement(model, tokenizer, SENTENCES, copies=3, batch_size=2)
    assert model.training, "the mode is put back"
    assert found.kept == [0, 1, 2], "a sentence without a beginning is left out"
    model.eval()
    for number, (before, sentence) in enumerate(SENTENCES[:3]):
        context = tokenizer(before)["input_ids"]
        body = tokenizer(sentence, add_special_tokens=False)["input_ids"]
        first: list[float] = []
        for copy in range(3):
            each, best = [], []
            for token in body:
                with torch.no_grad():
                    p = model(input_ids=torch.tensor([context])).logits[0, -1].softmax(-1)
                each.append(float(p[token]))
                best.append(float(p.argmax() == token))
                context = [*context, token]
            first = first or each
            grown = sum(now > then for now, then in zip(each, first, strict=True)) / len(each)
            assert found.probability[number][copy] == pytest.approx(sum(each) / len(each), rel=1e-4)
            assert found.winners[number][copy] == pytest.approx(sum(best) / len(best))
            if copy:
                assert found.increased[number][copy] == pytest.approx(grown)
    means = [sum(row[n] for row in found.probability) / 3 for n in range(3)]
    assert found.mean("probability", 2) == pytest.approx(means[1])
    assert found.ratios() == pytest.approx([means[1] / means[0], means[2] / means[1]])
    assert [row[0] for row in found.increased] == [0, 0, 0]


def test_what_does_not_fit_is_left_out() -> None:
    tokenizer = load_tokenizer(str(embedded_base()))
    found = self_reinforcement(model_of(tokens=26), tokenizer, SENTENCES, copies=6)
    assert found.kept == [1, 2]
    with pytest.raises(DataError, match="no sentence is left"):
        self_reinforcement(model_of(tokens=8), tokenizer, SENTENCES, copies=6)
    with pytest.raises(ConfigError, match="two copies"):
        self_reinforcement(model_of(), tokenizer, SENTENCES, copies=1)


def test_counts_by_hand() -> None:
    assert repeated_ngrams("abcdabcd", 4) == pytest.approx(1 - 4 / 5)
    assert repeated_ngrams("abc", 4) == 0
    assert repeated_ngrams("aaaaaa", 2) == pytest.approx(1 - 1 / 5)
    assert repeated_sentences("A b. A b.  C! A b. rest") == pytest.approx(1 - 3 / 5)
    assert repeated_sentences(" ") == 0
