"""Where in a corpus a memory is used most: the tokens at which its coefficient is largest, in one pass.

For each memory a running list of the strongest rows is kept, nothing else, whatever the length of the corpus.

Shape letters: N rows of a batch, m memories, n contexts kept.
Source: trigger examples of arXiv 2012.14913, section 3, by magnitude, since gated coefficients have both signs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from infosteer.core.surfaces import Observer
from infosteer.errors import ConfigError
from infosteer.inspection.observe import MAX_TOKENS, Piece, observe
from infosteer.inspection.reading import token_texts
from infosteer.models import Site, locate


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """One strong use of a memory.

    Attributes:
        index: the memory.
        coefficient: k_i at the token; a negative one writes the opposite of what the memory says.
        text: number of the text in the corpus, from 0.
        position: the token's place in the text.
        before: the tokens before it, as texts.
        token: the token itself.
    """

    index: int
    coefficient: float
    text: int
    position: int
    before: tuple[str, ...]
    token: str


def top_contexts(
    model: nn.Module,
    tokenizer: Any,
    texts: Iterable[str],
    site: Site,
    indices: Sequence[int],
    *,
    top: int = 10,
    window: int = 12,
    max_tokens: int = MAX_TOKENS,
) -> dict[int, list[Context]]:
    """The strongest uses of some memories of a layer in a corpus, strongest first.

    Args:
        texts: read once, lazily.
        indices: the memories.
        top: n, contexts kept for each.
        window: tokens shown before the one in question.

    Raises:
        ConfigError: memories that the layer does not have, numbers below 1; otherwise as ``observe``.
    """
    for name, value, low in (("top", top, 1), ("window", window, 0)):
        if type(value) is not int or value < low:
            raise ConfigError("not a number that can be used", where=name, got=value, expected=f"{low} or more")
    wrong = [index for index in indices if type(index) is not int or not 0 <= index < site.width]
    if wrong or not indices:
        raise ConfigError("the layer has no such memory", got=wrong, expected=f"numbers from 0 to {site.width - 1}")
    strongest = _Strongest(list(indices), top, window)
    number = [other.layer for other in locate(model)].index(site.layer)
    observe(
        model, tokenizer, texts, [strongest], layers=[number], max_tokens=max_tokens, on_batch=strongest.name_new
    )  # fmt: skip
    return {
        index: [
            Context(
                index=index,
                coefficient=coefficient,
                text=text,
                position=position,
                before=tuple(token_texts(tokenizer, ids[:-1])),
                token=token_texts(tokenizer, ids[-1:])[0],
            )
            for coefficient, text, position, ids in strongest.named(column)
        ]
        for column, index in enumerate(indices)
    }


class _Strongest(Observer):
    """The n strongest rows of m memories, with the tokens that led to them."""

    def __init__(self, indices: list[int], count: int, window: int) -> None:
        self._indices, self._count, self._window = torch.tensor(indices), count, window
        self._values = self._sizes = torch.zeros(0, len(indices))  # (n, m), k and |k|, largest |k| first
        self._places: list[list[tuple[int, int, tuple[int, ...]]]] = [[] for _ in indices]
        self._length = 1
        self._new: list[Tensor] = []

    def begin(self, ids: Tensor | None) -> None:
        assert ids is not None  # observe() calls the model with ids
        self._length, self._new = ids.shape[1], []

    def see(self, layer: int, k: Tensor, weight: Tensor | None) -> None:
        own = k[:, self._indices.to(k.device)].float()
        size = own.abs() if weight is None else torch.where(weight[:, None] != 0, own.abs(), -math.inf)
        found = size.topk(min(self._count, size.shape[0]), dim=0).indices
        self._new = [found.cpu(), own.gather(0, found).cpu(), size.gather(0, found).cpu()]

    def name_new(self, batch: list[Piece]) -> None:
        """Merges what the batch just seen holds into the lists; its pieces say where the rows come from."""
        rows, values, sizes = self._new
        merged = torch.cat([self._sizes, sizes]).topk(min(self._count, len(self._sizes) + len(rows)), dim=0)
        everything = torch.cat([self._values, values])
        places = []
        for column, old in enumerate(self._places):
            kept = []
            for i, size in zip(merged.indices[:, column].tolist(), merged.values[:, column].tolist(), strict=True):
                if size == -math.inf:  # padding: fewer tokens so far than contexts wanted
                    break
                is_old = i < len(self._values)
                kept.append(old[i] if is_old else self._place(int(rows[i - len(self._values), column]), batch))
            places.append(kept)
        self._values, self._sizes = everything.gather(0, merged.indices), merged.values
        self._places = places

    def named(self, column: int) -> list[tuple[float, int, int, tuple[int, ...]]]:
        """Coefficient, text, position and tokens of a memory's contexts."""
        values = self._values[:, column].tolist()
        return [(value, *place) for value, place in zip(values, self._places[column], strict=False)]

    def _place(self, row: int, batch: list[Piece]) -> tuple[int, int, tuple[int, ...]]:
        piece, t = batch[row // self._length], row % self._length
        return piece.text, piece.start + t, piece.ids[max(0, t - self._window) : t + 1]

    def metrics(self) -> dict[str, float]:
        return {}

    def reset(self) -> None:
        """Everything seen counts."""
