"""Texts for ``benchmarks/flux_claim.py``: what is read, what tokens are counted on, and how tokens lie in a text."""

from __future__ import annotations

import collections
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

TRAINED_ROWS, HELD_OUT_ROWS = 600, 700  # of the UltraFeedback file: the first ones are trained on, those after 700 read
LONGEST = 900  # characters of a text


def corpus(name: str, data: Path, limit: int) -> tuple[list[str], list[str]]:
    """Texts to read, none of which any SFT run saw, and a disjoint text of the same kind to count tokens on."""
    if name == "lab":
        from infosteer.lab import load

        read = [row["text"] for row in load("facts/biographies", limit=limit)]
        counted = [row["text"] for row in load("facts/texts")]
    elif name == "ultrafeedback":
        from infosteer.training.rows import read_rows

        rows = read_rows(data / "instruct" / "ultrafeedback_1k.jsonl.gz", format="instruction_output")
        texts = [row["prompt"] + row["completion"] for row in rows]
        held_out = [text for text in texts[HELD_OUT_ROWS:] if in_ascii(text)]
        random.Random(0).shuffle(held_out)
        read, counted = held_out[:limit], texts[:TRAINED_ROWS]
    else:
        read, counted = english(data / "text", limit)
    return [cut(text, LONGEST) for text in read], counted


def english(folder: Path, limit: int) -> tuple[list[str], list[str]]:
    """Half encyclopaedia, which the base never read, half documents of stories and web pages kept from pretraining."""
    from infosteer.inspection.labelled import read_texts
    from infosteer.lab.corpus import is_held_out

    draw = random.Random(0)
    passages = read_texts(folder / "wikipedia_passages.txt.xz")
    draw.shuffle(passages)
    half = limit - limit // 2
    read, counted = passages[:half], passages[half : half + 1_000]
    for count, name in ((limit // 4, "stories_gutenberg"), (limit // 2 - limit // 4, "digitalgov")):
        documents = read_texts(folder / f"{name}.txt.xz")
        draw.shuffle(documents)
        kept = [text for text in documents if is_held_out(text) and len(text) > LONGEST]
        read += [text[text.find(" ", draw.randrange(len(text) - LONGEST)) + 1 :] for text in kept[:count]]
        counted += [text[:20_000] for text in documents if not is_held_out(text)][:100]
    return read, counted


def in_ascii(text: str) -> bool:
    """Whether nearly all of it is ASCII: other scripts have no classes here, and a token for every byte."""
    return sum(char.isascii() for char in text) > 0.95 * len(text)


def cut(text: str, longest: int) -> str:
    """The text's beginning, whole words, at most so many characters."""
    return text if len(text) <= longest else text[:longest].rpartition(" ")[0]


def token_pieces(tokenizer: Any, text: str) -> tuple[list[int], list[str]]:
    """Ids and the characters that each adds; a byte of a character that an earlier token began adds none."""
    encoded = tokenizer(text, return_offsets_mapping=True, add_special_tokens=True)
    pieces, end = [], 0
    for start, stop in encoded["offset_mapping"]:
        pieces.append(text[max(start, end) : stop])
        end = max(end, stop)
    return list(encoded["input_ids"]), pieces


def log_frequencies(tokenizer: Any, texts: Sequence[str], size: int) -> np.ndarray:
    """ln of each token's share of the counted text, one added to every count."""
    counts = np.ones(size)
    for start in range(0, len(texts), 64):
        for ids in tokenizer(list(texts[start : start + 64]), verbose=False)["input_ids"]:
            for token, count in collections.Counter(ids).items():
                counts[token] += count
    return np.log(counts / counts.sum())
