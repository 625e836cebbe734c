"""Representation geometry of a model on a text, and over a run's training.

The paper's features are the last token's final hidden state of many sequences; a training batch has too few, so the
monitor (``methods/probes/geometry``) takes every token, and here both can be had.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from infosteer.core.surfaces import Observer
from infosteer.errors import ConfigError, RunError
from infosteer.inspection.data import Geometry
from infosteer.inspection.geometry_log import geometry_of_log
from infosteer.inspection.observe import MAX_TOKENS, observe
from infosteer.inspection.report.gather import gather
from infosteer.ops.spectrum import Moments, describe_spectrum

TOKENS = ("last", "all")


def measure_geometry(
    model: nn.Module,
    tokenizer: Any,
    texts: Iterable[str],
    *,
    tokens: str = "last",
    layers: str | Sequence[int] | None = None,
    max_tokens: int = MAX_TOKENS,
) -> dict[int | None, dict[str, float]]:
    """Spectrum of the hidden states of a text, by layer; see ``infosteer.ops.spectrum.ABOUT`` for the names.

    Give the same texts to every model that is compared, and at least ten times as many rows as hidden dimensions:
    fewer cap every rank, and ``rows`` says how many there were.

    Args:
        tokens: ``last``: of every text (longer ones are cut into pieces of ``max_tokens``), as in the paper; ``all``.
        layers: also measure what these layers put out.

    Returns:
        None -> values of the states after the final norm; layer -> values of what the layer puts out.

    Raises:
        ConfigError: an unknown ``tokens``, layers that the model does not have.
        DataError: no text with a token in it.

    Source: arXiv 2509.23024, section 3.
    """
    if tokens not in TOKENS:
        raise ConfigError("Unknown choice of tokens.", where="tokens", got=tokens, expected=" | ".join(TOKENS))
    observer = _ByLayer(last=tokens == "last") if layers is not None else _Final(last=tokens == "last")
    observe(model, tokenizer, texts, [observer], layers="all" if layers is None else layers, max_tokens=max_tokens)
    return {layer: describe_spectrum(moments) for layer, moments in observer.moments.items()}


def geometry_of_run(run: Path, base: Mapping[int | None, Mapping[str, float]] | None = None) -> Geometry | None:
    """What the geometry monitor logged in a run, as the report wants it; None where it logged nothing.

    Args:
        run: the run's folder.
        base: values of the model before training by layer, from the same rows.

    Raises:
        RunError: no run, or one whose files are damaged.
    """
    return geometry_of_log(gather(run).log, base)


class _Final(Observer):
    """Moments of the states after the final norm, of all rows or of each piece's last token."""

    def __init__(self, *, last: bool) -> None:
        self._last = last
        self._length = 0
        self.reset()

    def begin(self, ids: Tensor | None) -> None:
        if ids is None:
            raise RunError("The model was called without tokens, so no token is its text's last.")
        self._length = ids.shape[1]

    def see(self, layer: int, k: Tensor, weight: Tensor | None) -> None:
        """Key coefficients say nothing about the geometry of hidden states."""

    def see_hidden(self, hidden: Tensor, weight: Tensor | None) -> None:
        self._add(None, hidden, weight)

    def _add(self, place: int | None, rows: Tensor, weight: Tensor | None) -> None:
        kept = torch.ones(len(rows), dtype=torch.bool, device=rows.device) if weight is None else weight != 0
        if self._last:
            mask = kept.view(-1, self._length)
            after = torch.nn.functional.pad(mask[:, 1:].flip(1).cumsum(1).flip(1), (0, 1))
            kept = (mask & (after == 0)).view(-1)
        self.moments.setdefault(place, Moments()).add(rows[kept])

    def metrics(self) -> dict[str, float]:
        return {}

    def reset(self) -> None:
        self.moments: dict[int | None, Moments] = {}


class _ByLayer(_Final):
    """The same, and of what every observed layer puts out."""

    def see_layer(self, layer: int, states: Tensor, weight: Tensor | None) -> None:
        self._add(layer, states, weight)
