"""Texts streamed through a model while observers look: constant memory, little padding, no logits.

Texts are cut into pieces, a buffer of pieces is sorted by length and made into batches of about equally many tokens, so
neither the length of the corpus nor that of a text matters. Only the decoder runs: what observers want of the head,
they compute from its hidden states.

Shape letters: B pieces of a batch, T time, N = B * T rows, M memories, D hidden.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from infosteer.core.steer import steer
from infosteer.core.surfaces import InterventionMethod, Observer, ProbeMethod
from infosteer.errors import ConfigError, DataError
from infosteer.evaluation.model_state import context_length, device_of, encode, evaluating, pad_id
from infosteer.models import Site
from infosteer.models.decoder import find_decoder

MAX_TOKENS = 512  # of a piece, unless the model's context is shorter
BATCH_TOKENS = 4096  # of a batch, padding included
BUFFER = 512  # pieces that are sorted together
_TEXTS_AT_ONCE = 64  # given to the tokenizer


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """Some of a text's tokens.

    Attributes:
        text: the text's number in the stream, from 0.
        start: place of the first token in the text.
        ids: (T,) token ids.
    """

    text: int
    start: int
    ids: tuple[int, ...]


@dataclasses.dataclass(kw_only=True, slots=True)
class Seen:
    """How much was read."""

    texts: int = 0
    pieces: int = 0
    tokens: int = 0


def pieces(model: Any, tokenizer: Any, texts: Iterable[str], *, max_tokens: int = MAX_TOKENS) -> Iterator[Piece]:
    """Cuts texts into pieces of at most ``max_tokens`` tokens, or as many as the model takes; empty texts give none.

    Raises:
        ConfigError: ``max_tokens`` is no number of tokens, or ``texts`` is a single text.
        DataError: something among the texts that is no text.
    """
    if type(max_tokens) is not int or max_tokens < 1:
        raise ConfigError("not a number of tokens", where="max_tokens", got=max_tokens)
    if isinstance(texts, str):
        raise ConfigError("texts are a list of texts, not one", where="texts", fix="put it in brackets")
    limit = min(max_tokens, context_length(model) or max_tokens)
    numbered = enumerate(texts)
    while some := list(itertools.islice(numbered, _TEXTS_AT_ONCE)):
        for number, text in some:
            if not isinstance(text, str):
                raise DataError("this is no text", where=f"text {number + 1}", got=type(text).__name__)
        encoded = encode(tokenizer, [text for _, text in some])
        for (number, _), ids in zip(some, encoded, strict=True):
            for start in range(0, len(ids), limit):
                yield Piece(text=number, start=start, ids=tuple(ids[start : start + limit]))


def batches(
    stream: Iterable[Piece], *, batch_tokens: int = BATCH_TOKENS, buffer: int = BUFFER
) -> Iterator[list[Piece]]:
    """Pieces in batches of similar length, at most ``batch_tokens`` with padding, or one piece; longest first within
    each buffer."""
    stream = iter(stream)
    while waiting := list(itertools.islice(stream, buffer)):
        waiting.sort(key=lambda piece: -len(piece.ids))
        batch: list[Piece] = []
        for piece in waiting:
            if batch and (len(batch) + 1) * len(batch[0].ids) > batch_tokens:
                yield batch
                batch = []
            batch.append(piece)
        yield batch


def observe(
    model: nn.Module,
    tokenizer: Any,
    texts: Iterable[str],
    observers: Sequence[Observer],
    *,
    layers: str | Sequence[int] = "all",
    edits: Sequence[InterventionMethod] = (),
    max_tokens: int = MAX_TOKENS,
    batch_tokens: int = BATCH_TOKENS,
    on_batch: Callable[[list[Piece]], None] | None = None,
) -> Seen:
    """Shows a corpus, as a model reads it, to observers.

    Args:
        model: a transformers model, in any mode; it is left as it was.
        texts: read once, lazily.
        observers: anything with the interface of probes; they are shown rows (N, M) of every layer in ``layers``, with
            weight 0 for padding. ``see_hidden`` is called where an observer has it.
        edits: interventions at work meanwhile, whatever their scope.
        max_tokens: of a piece; longer texts are read as several pieces that know nothing of each other.
        on_batch: called after each batch, with its pieces in the order of the rows.

    Returns:
        How many texts and tokens were read.

    Raises:
        DataError: no text with a token in it.
        ConfigError: layers that the model does not have; an empty list of observers.
        ArchitectureError, SiteError: key coefficients that cannot be located, or do not fire.
    """
    if not observers:
        raise ConfigError("there is nobody to show anything to", where="observers")
    probes = [_Shown(layers=layers).to(observer) for observer in observers]
    always = [dataclasses.replace(edit, scope="always") for edit in edits]
    seen, last = Seen(), -1
    with steer(model, [*always, *probes], measure_every=0), evaluating(model):
        run = _reader(model)
        for batch in batches(pieces(model, tokenizer, texts, max_tokens=max_tokens), batch_tokens=batch_tokens):
            run(**_inputs(batch, pad_id(tokenizer), device_of(model)), use_cache=False)
            seen.pieces += len(batch)
            seen.tokens += sum(len(piece.ids) for piece in batch)
            last = max(last, *(piece.text for piece in batch))
            if on_batch is not None:
                on_batch(batch)
    seen.texts = last + 1
    if not seen.tokens:
        raise DataError("there is no text to read", where="texts", got="no text, or none with a token in it")
    return seen


def _reader(model: nn.Module) -> nn.Module:
    """The part of the model to call: its text decoder, where that is known, else all of it."""
    decoder = find_decoder(model)
    return decoder.module if decoder is not None else model


def _inputs(batch: Sequence[Piece], pad: int, device: torch.device) -> dict[str, Tensor]:
    """Token ids and mask (B, T), padded on the right, where nothing looks back from."""
    length = len(batch[0].ids)
    ids = torch.full((len(batch), length), pad, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, piece in enumerate(batch):
        ids[row, : len(piece.ids)] = torch.tensor(piece.ids)
        mask[row, : len(piece.ids)] = 1
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}


@dataclasses.dataclass(kw_only=True)
class _Shown(ProbeMethod):
    """A given observer as a probe."""

    scope: str = "always"

    def to(self, observer: Observer) -> _Shown:
        self._observer = observer
        return self

    @property
    def reads_hidden(self) -> bool:  # type: ignore[override]
        return type(self._observer).see_hidden is not Observer.see_hidden

    @property
    def reads_predictions(self) -> bool:  # type: ignore[override]
        return type(self._observer).see_predictions is not Observer.see_predictions

    @property
    def reads_layers(self) -> bool:  # type: ignore[override]
        return type(self._observer).see_layer is not Observer.see_layer

    def observer(self, sites: Sequence[Site]) -> Observer:
        return self._observer
