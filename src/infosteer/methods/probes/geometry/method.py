"""Geometry of the final hidden states in training; the numbers are those of :mod:`infosteer.ops.spectrum`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from infosteer.core.surfaces import Observer, ProbeMethod
from infosteer.models import Site
from infosteer.ops.spectrum import Moments, describe_spectrum


@dataclasses.dataclass(kw_only=True)
class RepresentationGeometry(ProbeMethod):
    """Logs the spectrum of the hidden states that the head reads: ranks, decay, share of the mean.

    Formula: over the rows z_t in R^D that carry loss, covariance C = mean of (z - m)(z - m)^T with eigenvalues l_i:
    ``rankme_cov = exp(-sum_i p_i ln p_i)``, p = l / sum l; ``rankme``: the same of the uncentred singular values;
    ``alpha``: -slope of ln l_i on ln i; see ``infosteer.ops.spectrum.ABOUT`` for all.

    Symbols: t rows of the observed step (all its micro-batches); D hidden size; m mean row. Float64, D^2 numbers.

    Source: arXiv 2509.23024 (both measures over training); arXiv 2210.02885 (RankMe); arXiv 2202.05808 (alpha-ReQ).
    """

    reads_hidden: ClassVar[bool] = True

    def observer(self, sites: Sequence[Site]) -> Observer:
        return GeometryObserver()


class GeometryObserver(Observer):
    """Moments of the final hidden states of the rows that count."""

    def __init__(self) -> None:
        self._final = Moments()

    def see(self, layer: int, k: Tensor, weight: Tensor | None) -> None:
        """Key coefficients say nothing about the geometry of hidden states."""

    def see_hidden(self, hidden: Tensor, weight: Tensor | None) -> None:
        self._final.add(hidden if weight is None else hidden[weight != 0])

    def metrics(self) -> dict[str, float]:
        return describe_spectrum(self._final)

    def reset(self) -> None:
        self._final = Moments()
