"""What a language model of the lab is measured by: recall by completion, bits per byte, and the bigram to beat."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


@torch.no_grad()
def complete(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[str],
    *,
    stop: str = ".",
    max_new_tokens: int = 8,
    batch_size: int = 256,
) -> list[str]:
    """Continue prompts greedily up to ``stop`` or the end token; returns the text in between, stripped.

    Prompts of equal length share a batch, so no padding enters. The whole prefix is run again for every new token: at
    these lengths that costs less than a cache is worth.
    """
    encoded = [tokenizer(prompt, add_special_tokens=False).input_ids for prompt in prompts]
    by_length: dict[int, list[int]] = defaultdict(list)
    for index, ids in enumerate(encoded):
        by_length[len(ids)].append(index)
    stops = {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(stop)}
    answers = [""] * len(prompts)
    was_training = model.training
    model.eval()
    for indices in by_length.values():
        for start in range(0, len(indices), batch_size):
            part = indices[start : start + batch_size]
            ids = torch.tensor([encoded[i] for i in part], device=model.device)
            prompt_length, done = ids.shape[1], torch.zeros(len(part), dtype=torch.bool, device=model.device)
            for _ in range(max_new_tokens):
                following = model(input_ids=ids, use_cache=False, logits_to_keep=1).logits[:, -1].argmax(-1)
                ids = torch.cat([ids, following[:, None]], dim=1)
                done |= torch.isin(following, torch.tensor(sorted(stops), device=model.device))
                if bool(done.all()):
                    break
            for row, i in zip(ids[:, prompt_length:].tolist(), part, strict=True):
                end = next((place for place, token in enumerate(row) if token in stops), len(row))
                answers[i] = str(tokenizer.decode(row[:end])).strip()
    model.train(was_training)
    return answers


def token_bytes(tokenizer: PreTrainedTokenizerFast) -> np.ndarray:
    """Bytes of text that each token stands for; special tokens stand for none."""
    special = set(tokenizer.all_special_ids)
    names = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    # In byte-level BPE every character of a token's name is one byte.
    return np.asarray([0 if i in special else len(name) for i, name in enumerate(names)])


def _windows(stream: np.ndarray, length: int) -> np.ndarray:
    return stream[: len(stream) // length * length].reshape(-1, length).astype(np.int64)


@torch.no_grad()
def bits_per_byte(
    model: PreTrainedModel, stream: np.ndarray, n_bytes: np.ndarray, *, length: int = 1024, batch_size: int = 8
) -> float:
    """Bits per byte of text of a model: ``sum of -log2 p(token | window so far) / sum of bytes``.

    Args:
        model: causal language model.
        stream: (N,) token ids, cut into windows of ``length``; the first token of a window is context only.
        n_bytes: (V,) bytes of each token; tokens of 0 bytes (special ones) are not scored.
        length: tokens of a window.
        batch_size: windows at a time.
    """
    nats, total = 0.0, 0
    was_training = model.training
    model.eval()
    rows = _windows(stream, length)
    for start in range(0, len(rows), batch_size):
        ids = torch.from_numpy(rows[start : start + batch_size]).to(model.device)
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits.float()
        targets = ids[:, 1:]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        weight = n_bytes[targets.flatten().cpu().numpy()]
        nats += float(loss.double().cpu().numpy()[weight > 0].sum())
        total += int(weight.sum())
    model.train(was_training)
    return nats / math.log(2) / total


def bigram_bits_per_byte(
    train: np.ndarray, stream: np.ndarray, n_bytes: np.ndarray, *, length: int = 1024, discount: float = 0.75
) -> float:
    """Bits per byte of a Kneser-Ney smoothed token bigram model on the very tokens that ``bits_per_byte`` scores.

    ``p(w | v) = max(c(v, w) - d, 0) / c(v) + d * n(v, .) / c(v) * p_cont(w)`` and
    ``p_cont(w) = (n(., w) + 1) / (n(., .) + V)``, where c counts pairs, n counts different pairs and d is ``discount``;
    an unseen v falls back to ``p_cont``. Source: Kneser and Ney 1995, interpolated form.
    """
    size = len(n_bytes)
    codes = train[:-1].astype(np.int64) * size + train[1:]
    pairs, counts = np.unique(codes, return_counts=True)
    context = np.bincount(pairs // size, weights=counts, minlength=size)
    followers = np.bincount(pairs // size, minlength=size)
    continuation = (np.bincount(pairs % size, minlength=size) + 1) / (len(pairs) + size)

    rows = _windows(stream, length)
    v, w = rows[:, :-1].ravel(), rows[:, 1:].ravel()
    place = np.minimum(np.searchsorted(pairs, v * size + w), len(pairs) - 1)
    c = np.where(pairs[place] == v * size + w, counts[place], 0)
    seen = np.maximum(context[v], 1)
    p = np.where(
        context[v] > 0,
        np.maximum(c - discount, 0) / seen + discount * followers[v] / seen * continuation[w],
        continuation[w],
    )
    weight = n_bytes[w]
    return float(-np.log2(p)[weight > 0].sum() / weight.sum())
