"""Texts as sequences of words, and hashes of all their n-grams, fast enough for whole training sets.

A word's hash is 64 bits of BLAKE2b; an n-gram's is ``sum_j w_j B^(n-1-j) mod 2^64`` with an odd constant B. Two n-grams
of which one has a word that the other lacks collide with probability 2^-64; two orders of the same words, below 2^-50.
With a million n-grams of test rows against ten billion of training text, 0.001 false matches are expected.

Symbols: W words of a text or of a batch of texts.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]

# Scripts that put no space between words: every character counts as one.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
)
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")
# Characters that are not drawn, or turn the direction of text: they must not tell two equal words apart.
_UNDRAWN = re.compile("[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff]")
_ASCII_WORD = re.compile(r"[a-z0-9]+")
_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, and 5 modulo 8
_VOCABULARY = 1_000_000  # words whose hashes are kept


def words(text: str) -> list[str]:
    """The words of a text: Unicode compatibility forms made one (NFKC), case folded, and no punctuation.

    White space, punctuation, underscores, marks of direction and zero-width characters vanish. In scripts without
    spaces between words every character is a word.
    """
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    folded = unicodedata.normalize("NFKC", _UNDRAWN.sub("", text)).casefold()
    return _WORD.findall(unicodedata.normalize("NFKC", folded))


class WordHashes(dict[str, int]):
    """word -> its hash, worked out when it is first asked for; emptied before it holds too many."""

    def __missing__(self, word: str) -> int:
        if len(self) >= _VOCABULARY:
            self.clear()
        digest = hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        self[word] = found = int.from_bytes(digest, "little")
        return found

    def of(self, texts: Sequence[Sequence[str]]) -> tuple[Hashes, npt.NDArray[np.int64]]:
        """Hashes of all words (W,) of some texts in a row, and which text each is of (W,)."""
        flat = np.fromiter((self[word] for text in texts for word in text), dtype=np.uint64)
        owners = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
        return flat, owners


def ngram_hashes(flat: Hashes, owners: npt.NDArray[np.int64], n: int) -> tuple[Hashes, npt.NDArray[np.int64]]:
    """Hashes of the n-grams that lie within one text, and which text each is of; texts shorter than n have none."""
    count = len(flat) - n + 1
    if count < 1:
        return np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.int64)
    found = flat[:count].copy()
    for j in range(1, n):
        found *= _BASE  # wraps at 2^64
        found += flat[j : j + count]
    inside = owners[:count] == owners[n - 1 :]
    return found[inside], owners[:count][inside]
