"""The n-grams of evaluation rows, and which of them training text has.

Symbols: I items, P parts of all items (a question, an answer), K n-grams of all parts, G different ones among them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from infosteer.evaluation.ngrams import Hashes, WordHashes, ngram_hashes
from infosteer.evaluation.train_texts import TrainText

Ints = npt.NDArray[np.int64]
_CLIP = 300  # characters kept of a training row that shares something


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """An evaluation row.

    Attributes:
        texts: its question, and question with answer.
        parts: words of what n-grams are made of: the question's, and the answer's.
        answer: the right one; None for documents.
    """

    texts: tuple[str, ...]
    parts: tuple[list[str], ...]
    answer: str | None


class NgramIndex:
    """Counts, for every n-gram of some items, under how many different training prompts it occurs."""

    def __init__(self, items: Sequence[Item], sizes: Sequence[int], hashes: WordHashes, *, common: int) -> None:
        self._hashes = hashes
        parts = [part for item in items for part in item.parts]
        self._items = np.repeat(np.arange(len(items)), [len(item.parts) for item in items])  # of each part (P,)
        flat, owners = hashes.of(parts)
        self._tables = {n: _Table(flat, owners, n, common) for n in sizes}
        self._shares: dict[int, npt.NDArray[np.float64]] = {}
        self._prompts: set[int] = set()  # hashes of prompts that share an n-gram which is not common yet
        self._rows: dict[int, tuple[str, str]] = {}  # number of a training row -> place, text
        self._seen = 0

    def see(self, batch: Sequence[tuple[TrainText, list[str]]]) -> None:
        """Look at some training rows, each with the words of its body."""
        self._shares.clear()
        flat, owners = self._hashes.of([body for _, body in batch])
        repeated: dict[int, bool] = {}
        for n, table in self._tables.items():
            for row in table.see(
                *ngram_hashes(flat, owners, n), self._seen, lambda row: self._again(batch, row, repeated)
            ):
                text = batch[row][0]
                self._rows[self._seen + row] = (text.place, text.body[:_CLIP])
        self._seen += len(batch)

    def share(self, item: int, n: int) -> float | None:
        """Share of an item's n-grams that training text has, the larger one of question and answer.

        n-grams of common text count neither way; None for an item that has no n-gram.
        """
        if n not in self._shares:
            by_part = self._tables[n].shares(len(self._items))
            best = np.full(int(self._items[-1]) + 1 if len(self._items) else 0, np.nan)
            np.fmax.at(best, self._items, by_part)
            self._shares[n] = best
        found = float(self._shares[n][item])
        return None if np.isnan(found) else found

    def source(self, item: int) -> tuple[str, str]:
        """Place and text of the training row in which most of an item's n-grams were met first."""
        mine = np.flatnonzero(self._items == item)
        for table in self._tables.values():
            rows = table.first_rows(mine)
            if len(rows):
                return self._rows[int(np.bincount(rows - rows.min()).argmax() + rows.min())]
        raise KeyError(item)

    def _again(self, batch: Sequence[tuple[TrainText, list[str]]], row: int, known: dict[int, bool]) -> bool:
        """Whether an earlier training row had the same prompt."""
        if row not in known:
            text = batch[row][0]
            key = hash(text.wholes[0] if text.wholes else "")
            known[row] = key in self._prompts
            self._prompts.add(key)
        return known[row]


class _Table:
    """n-grams of one length."""

    def __init__(self, flat: Hashes, owners: Ints, n: int, common: int) -> None:
        grams, self._parts = ngram_hashes(flat, owners, n)
        self._common = common
        self._grams, self._which = np.unique(grams, return_inverse=True)  # (G,), (K,)
        self._counts = np.zeros(len(self._grams), dtype=np.int64)  # different prompts
        self._first = np.full(len(self._grams), -1, dtype=np.int64)  # training row

    def see(self, grams: Hashes, rows: Ints, offset: int, again: Callable[[int], bool]) -> list[int]:
        """Count n-grams of a batch. Returns: the rows of it in which some were met for the first time."""
        if not len(self._grams) or not len(grams):
            return []
        place = np.searchsorted(self._grams, grams).clip(max=len(self._grams) - 1)
        hit = self._grams[place] == grams
        place, rows = place[hit], rows[hit]
        fresh = self._first[place] < 0
        # Written backwards, so that the first row of the batch stays.
        self._first[place[fresh][::-1]] = rows[fresh][::-1] + offset
        met = np.unique(self._first[place[fresh]]) - offset
        open_ = self._counts[place] <= self._common
        place, rows = place[open_], rows[open_]
        keep = np.isin(rows, [row for row in np.unique(rows).tolist() if not again(row)])
        width = int(rows.max(initial=0)) + 1
        pairs = np.unique(place[keep] * width + rows[keep])  # every n-gram once a row
        np.add.at(self._counts, pairs // width, 1)
        return [int(row) for row in met]

    def shares(self, parts: int) -> npt.NDArray[np.float64]:
        """Share of seen n-grams of every part (P,), NaN for those without any that is not common."""
        wanted = (self._counts <= self._common)[self._which]
        seen = (self._first >= 0)[self._which] & wanted
        total = np.bincount(self._parts, minlength=parts)
        of = np.bincount(self._parts, weights=wanted, minlength=parts)
        have = np.bincount(self._parts, weights=seen, minlength=parts)
        return np.where(total == 0, np.nan, have / np.maximum(of, 1))

    def first_rows(self, parts: Ints) -> Ints:
        """Training rows in which the n-grams of some parts were met first, common ones left out."""
        mine = self._which[np.isin(self._parts, parts)]
        mine = mine[(self._first[mine] >= 0) & (self._counts[mine] <= self._common)]
        return self._first[mine]
