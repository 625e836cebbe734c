"""Geometry of hidden states in training; the numbers are those of :mod:`infosteer.ops.spectrum`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from infosteer.core.config import setting
from infosteer.core.surfaces import Observer, ProbeMethod
from infosteer.models import Site
from infosteer.ops.spectrum import Moments, describe_spectrum

STATES = ("final", "layers", "both")
TOKENS = ("all", "loss")
_BY_LAYER = ("rankme", "rankme_cov", "alpha", "alpha_r2")  # of a layer; the rest would drown a log


@dataclasses.dataclass(kw_only=True)
class RepresentationGeometry(ProbeMethod):
    """Logs the spectrum of the hidden states that the head reads, or that layers put out: ranks, decay, mean.

    Formula: over the rows z_t in R^D of a batch, covariance C = mean of (z - m)(z - m)^T with eigenvalues l_i:
    ``rankme_cov = exp(-sum_i p_i ln p_i)``, p = l / sum l; ``rankme``: the same of the uncentred singular values;
    ``alpha``: -slope of ln l_i on ln i; see ``infosteer.ops.spectrum.ABOUT`` for all.

    Symbols: t rows of the observed step (all its micro-batches); D hidden size; m mean row. Float64, D^2 numbers.

    Source: arXiv 2509.23024 (both measures over training); arXiv 2210.02885 (RankMe); arXiv 2202.05808 (alpha-ReQ).
    """

    reads_hidden: ClassVar[bool] = True
    states: str = setting(
        "final", "final: after the final norm, as the head reads them; layers: as `layers` put them out", choices=STATES
    )
    tokens: str = setting(
        "all", "all: every token of the batch, prompts included; loss: those that carry loss, often too few for a rank",
        choices=TOKENS,
    )  # fmt: skip

    @property
    def reads_all_tokens(self) -> bool:
        return self.tokens == "all"

    @property
    def reads_layers(self) -> bool:
        return self.states != "final"

    def observer(self, sites: Sequence[Site]) -> Observer:
        return GeometryObserver(final=self.states != "layers")


class GeometryObserver(Observer):
    """Moments of the hidden states of the rows that count."""

    def __init__(self, *, final: bool) -> None:
        self._reads_final = final
        self.reset()

    def see(self, layer: int, k: Tensor, weight: Tensor | None) -> None:
        """Key coefficients say nothing about the geometry of hidden states."""

    def see_hidden(self, hidden: Tensor, weight: Tensor | None) -> None:
        if self._reads_final:
            self._final.add(hidden if weight is None else hidden[weight != 0])

    def see_layer(self, layer: int, states: Tensor, weight: Tensor | None) -> None:
        self._layers.setdefault(layer, Moments()).add(states if weight is None else states[weight != 0])

    def metrics(self) -> dict[str, float]:
        found = describe_spectrum(self._final)
        for layer in sorted(self._layers):
            values = describe_spectrum(self._layers[layer])
            found |= {f"{name}/layer_{layer}": values[name] for name in _BY_LAYER if name in values}
        return found

    def reset(self) -> None:
        self._final = Moments()
        self._layers: dict[int, Moments] = {}
