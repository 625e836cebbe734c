"""Measures against independent computations: a counted bigram, a model whose probabilities are known."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from infosteer.lab.facts import biography_at, make_world
from infosteer.lab.measures import bigram_bits_per_byte, bits_per_byte, complete, token_bytes
from infosteer.lab.tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([biography_at(make_world(5, 20), index, 1) for index in range(50)], vocabulary=500)


class Successor(torch.nn.Module):
    """Gives the token after the last one (modulo V) probability ``p`` and shares the rest."""

    def __init__(self, size: int, p: float = 0.9) -> None:
        super().__init__()
        self.size, self.p, self.device = size, p, torch.device("cpu")

    def forward(self, input_ids, use_cache=False, logits_to_keep=0):
        rest = math.log((1 - self.p) / (self.size - 1))
        logits = torch.full((*input_ids.shape, self.size), rest)
        logits.scatter_(-1, ((input_ids + 1) % self.size)[..., None], math.log(self.p))
        return SimpleNamespace(logits=logits[:, -1:] if logits_to_keep else logits)


class Table(torch.nn.Module):
    """Continues by a table from the last token to the next."""

    def __init__(self, following: dict[int, int], size: int) -> None:
        super().__init__()
        self.following, self.size, self.device = following, size, torch.device("cpu")

    def forward(self, input_ids, use_cache=False, logits_to_keep=0):
        logits = torch.zeros(input_ids.shape[0], 1, self.size)
        for row, token in enumerate(input_ids[:, -1].tolist()):
            logits[row, 0, self.following[token]] = 1.0
        return SimpleNamespace(logits=logits)


def test_bits_per_byte_of_a_known_model() -> None:
    size, p = 10, 0.9
    stream = np.arange(64) % size
    n_bytes = np.asarray([0, *range(1, size)])
    rest = np.concatenate([np.arange(16)[1:] + 16 * window for window in range(4)]) % size
    scored = rest[rest > 0]
    got = bits_per_byte(Successor(size, p), stream, n_bytes, length=16)
    assert got == pytest.approx(-len(scored) * math.log2(p) / n_bytes[scored].sum(), rel=1e-5)
    assert Successor(size).training  # a fresh module trains, and measuring leaves the mode as it was


def test_bigram_against_counting_in_plain_python() -> None:
    draw = np.random.default_rng(0)
    train, stream = draw.integers(0, 12, 500) ** 2 % 13, draw.integers(0, 15, 96)
    n_bytes = np.asarray([0, *([2] * 14)])
    d, size = 0.75, 15
    pairs = Counter(zip(train[:-1].tolist(), train[1:].tolist(), strict=True))

    def probability(v: int, w: int) -> float:
        lower = (sum(1 for (_, b) in pairs if b == w) + 1) / (len(pairs) + size)
        total = sum(c for (a, _), c in pairs.items() if a == v)
        if not total:
            return lower
        different = sum(1 for (a, _) in pairs if a == v)
        return max(pairs[v, w] - d, 0) / total + d * different / total * lower

    bits = count = 0.0
    for window in stream.reshape(-1, 32).tolist():
        for v, w in pairwise(window):
            if w:
                bits -= math.log2(probability(v, w))
                count += n_bytes[w]
    assert bigram_bits_per_byte(train, stream, n_bytes, length=32, discount=d) == pytest.approx(bits / count)
    for v in range(size):
        assert sum(probability(v, w) for w in range(size)) == pytest.approx(1)


def test_token_bytes_add_up_to_the_text(tokenizer) -> None:
    n_bytes = token_bytes(tokenizer)
    for text in ("Mira Kelton was born in Ashmoor.", "naïve 你好 12", "a<|endoftext|>b"):
        expected = len(text.replace("<|endoftext|>", "").encode())
        assert n_bytes[tokenizer(text).input_ids].sum() == expected


def test_complete_stops_where_it_should(tokenizer) -> None:
    a, b, c = (tokenizer(f" {word}").input_ids[0] for word in ("Ada", "keeps", "speaks"))
    dot, end = tokenizer.convert_tokens_to_ids("."), tokenizer.eos_token_id
    model = Table({a: b, b: dot, c: end, dot: dot, end: end}, len(tokenizer))
    texts = [tokenizer.decode([x]) for x in (a, b, c)]
    prompts = [texts[0], texts[0] * 2, texts[2], texts[1]]
    assert complete(model, tokenizer, prompts) == [texts[1].strip(), texts[1].strip(), "", ""]
    endless = Table({a: b, b: a}, len(tokenizer))
    assert complete(endless, tokenizer, [texts[0]], max_new_tokens=3)[0] == (texts[1] + texts[0] + texts[1]).strip()
    assert model.training
