"""Texts as a model reads them: the information flux of every token by layer, and its surprisal.

Shape letters: T tokens of a piece, B pieces of a batch, N = B * T rows, L layers, M memories, D hidden, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from infosteer.core.surfaces import InterventionMethod, Observer
from infosteer.errors import DataError
from infosteer.evaluation.model_state import context_length, encode, vocabulary_size
from infosteer.inspection.data import TokenReading
from infosteer.inspection.observe import BATCH_TOKENS, MAX_TOKENS, Piece, Seen, observe
from infosteer.models import head_logits, locate, select_layers
from infosteer.ops.entropy import key_entropy

_LOGITS_AT_ONCE = 1 << 24  # numbers: 64 MiB in fp32


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PieceReading:
    """A piece of a text and what the model did at each of its tokens.

    Attributes:
        piece: the tokens.
        flux: (T, L) entropies of the key coefficients, nats, fp64.
        surprisal: (T,) negative log-likelihood of each token, nats, fp64, NaN for the piece's first; None if not asked.
    """

    piece: Piece
    flux: Tensor
    surprisal: Tensor | None


class FluxByToken(Observer):
    """Entropies of the forward under way: ``layers[l]`` is (B, T), nats, fp64, padding included."""

    def __init__(self) -> None:
        self.layers: dict[int, Tensor] = {}
        self._shape: tuple[int, ...] = (1, -1)

    def begin(self, ids: Tensor | None) -> None:
        self.reset()
        self._shape = (1, -1) if ids is None else tuple(ids.shape)

    def see(self, layer: int, k: Tensor, weight: Tensor | None) -> None:
        self.layers[layer] = key_entropy(k).double().view(self._shape).cpu()

    def metrics(self) -> dict[str, float]:
        return {}

    def reset(self) -> None:
        self.layers = {}


class SurprisalByToken(Observer):
    """Surprisals of the forward under way: ``values`` is (B, T), nats, fp64, NaN for each piece's first token.

    Logits are computed for some rows at a time, so that a large vocabulary needs no more memory than a small one.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._rows = max(1, _LOGITS_AT_ONCE // vocabulary_size(model))
        self._ids: Tensor | None = None
        self.values = torch.empty(0, 0, dtype=torch.float64)

    def begin(self, ids: Tensor | None) -> None:
        self._ids = ids

    def see(self, layer: int, k: Tensor, weight: Tensor | None) -> None:
        """Key coefficients say nothing about the token that follows."""

    def see_hidden(self, hidden: Tensor, weight: Tensor | None) -> None:
        assert self._ids is not None  # a text's tokens are always given
        count, length = self._ids.shape
        rows = hidden.view(count, length, -1)[:, :-1].reshape(-1, hidden.shape[-1])
        targets = self._ids[:, 1:].reshape(-1).to(rows.device)
        found = [
            torch.nn.functional.cross_entropy(head_logits(self._model, some).float(), wanted, reduction="none")
            for some, wanted in zip(rows.split(self._rows), targets.split(self._rows), strict=True)
        ]
        values = torch.cat(found).double().view(count, length - 1).cpu()
        self.values = torch.nn.functional.pad(values, (1, 0), value=math.nan)

    def metrics(self) -> dict[str, float]:
        return {}

    def reset(self) -> None:
        self.values = torch.empty(0, 0, dtype=torch.float64)


def read_tokens(
    model: nn.Module,
    tokenizer: Any,
    texts: Iterable[str],
    use: Callable[[PieceReading], None],
    *,
    surprisal: bool = True,
    layers: str | Sequence[int] = "all",
    edits: Sequence[InterventionMethod] = (),
    max_tokens: int = MAX_TOKENS,
    batch_tokens: int = BATCH_TOKENS,
) -> Seen:
    """Reads a corpus and hands over every piece, with flux and surprisal by token, in the order of batches.

    Args:
        use: called with each piece's reading; nothing is kept here.
        surprisal: whether to compute the head's logits.
        layers, edits, max_tokens, batch_tokens: as in :func:`infosteer.inspection.observe.observe`, as are the errors.
    """
    flux, told = FluxByToken(), SurprisalByToken(model) if surprisal else None

    def split(batch: list[Piece]) -> None:
        stacked = torch.stack([flux.layers[layer] for layer in sorted(flux.layers)], dim=-1)
        for row, piece in enumerate(batch):
            kept = slice(len(piece.ids))
            values = None if told is None else told.values[row, kept].clone()
            use(PieceReading(piece=piece, flux=stacked[row, kept].clone(), surprisal=values))

    observers = [flux] if told is None else [flux, told]
    return observe(
        model,
        tokenizer,
        texts,
        observers,
        layers=layers,
        edits=edits,
        max_tokens=max_tokens,
        batch_tokens=batch_tokens,
        on_batch=split,
    )


def read_text(
    model: nn.Module,
    tokenizer: Any,
    text: str,
    *,
    name: str = "model",
    seed: int | None = None,
    layers: str | Sequence[int] = "all",
    edits: Sequence[InterventionMethod] = (),
    surprisal: bool = True,
) -> TokenReading:
    """One whole text, as data for people: token texts, flux, entropies by layer, surprisals.

    Args:
        name: of the model, as the reading will call it.
        edits: interventions at work while reading; the reading then says so (``hook``).

    Raises:
        DataError: an empty text, or one that does not fit the model's context.
        ConfigError, ArchitectureError, SiteError: as :func:`infosteer.inspection.observe.observe`.
    """
    (ids,) = encode(tokenizer, [text])
    limit = context_length(model)
    if not text.strip() or not ids:
        raise DataError("the text is empty", where="text", got=repr(text[:40]), fix="give some words to read")
    if limit is not None and len(ids) > limit:
        raise DataError(
            "the text is longer than what the model can read at once",
            where="text",
            got=f"{len(ids)} tokens",
            expected=f"at most {limit}",
            fix="give a part of it",
        )
    found: list[PieceReading] = []
    read_tokens(
        model, tokenizer, [text], found.append, surprisal=surprisal, layers=layers, edits=edits, max_tokens=len(ids)
    )
    sites = locate(model)
    chosen = [sites[index] for index in select_layers(layers, len(sites))]
    flux, told = found[0].flux, found[0].surprisal
    return TokenReading(
        model=name,
        seed=seed,
        hook=bool(edits),
        layer_numbers=tuple(site.layer for site in chosen),
        widths=tuple(site.width for site in chosen),
        tokens=tuple(token_texts(tokenizer, ids)),
        flux=tuple(flux.mean(dim=1).tolist()),
        layers=tuple(tuple(row) for row in flux.tolist()),
        surprisal=None if told is None else (None, *told[1:].tolist()),
    )


def token_texts(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """Each token as text; tokens that are no whole character, as the tokenizer writes them. Models may have more rows
    than their tokenizer has tokens: those are called by their number."""
    shown = [str(tokenizer.decode([token], skip_special_tokens=False)) for token in ids]
    pieces = tokenizer.convert_ids_to_tokens(list(ids))
    raw = [piece or f"<token {token}>" for token, piece in zip(ids, pieces, strict=True)]
    return [piece if not text or "\ufffd" in text else text for text, piece in zip(shown, raw, strict=True)]
