"""Information flux of InfoSteer (arXiv 2507.05158, section 6.2) as a function and as a monitor of training."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from infosteer.core.surfaces import Observer, ProbeMethod
from infosteer.errors import ConfigError
from infosteer.models import Site
from infosteer.ops.entropy import key_entropy
from infosteer.ops.masking import masked_sum


def information_flux(layers: Sequence[Tensor], normalized: bool = False) -> Tensor:
    """Information flux of every token: the entropy of its key coefficients, averaged over layers.

    Formula: ``IF_t = (1/L) sum_l H(|k_lt| / sum_i |k_lti|)``; ``normalized`` divides each H by ln M_l.

    Args:
        layers: L tensors of key coefficients (..., M_l), equal in all but the width M_l.

    Returns:
        (...,) fp32 (fp64 for fp64), nats, or from 0 to 1.

    Raises:
        ConfigError: no layer, layers of different shapes, or no floating tensors.

    Source: arXiv 2507.05158, section 6.2; the magnitude shares and the mean over layers are ours, see the card.
    """
    if not layers:
        raise ConfigError("there is no layer to take the flux of", where="layers", expected="key coefficients by layer")
    if len({k.shape[:-1] for k in layers}) > 1:
        raise ConfigError("layers do not hold the same tokens", where="layers", got=[tuple(k.shape) for k in layers])
    scale = [math.log(max(k.shape[-1], 2)) if normalized else 1.0 for k in layers]
    return torch.stack([key_entropy(k) / top for k, top in zip(layers, scale, strict=True)]).mean(dim=0)


@dataclasses.dataclass(kw_only=True)
class InformationFlux(ProbeMethod):
    """Logs the mean information flux of the tokens that carry loss, over layers and by layer.

    Formula: ``(1/n) sum_t H(k_lt)`` by layer, ``nats`` its mean over layers, ``normalised`` that of H / ln M.

    Symbols: t the n rows of the observed step that carry loss; l layers; H in nats as in :func:`information_flux`.

    Source: arXiv 2507.05158, section 6.2.
    """

    def observer(self, sites: Sequence[Site]) -> Observer:
        return FluxObserver()


class FluxObserver(Observer):
    """Sums of entropies by layer."""

    def __init__(self) -> None:
        self.reset()

    def see(self, layer: int, k: Tensor, weight: Tensor | None) -> None:
        kept = None if weight is None else weight != 0
        total = masked_sum(key_entropy(k).double(), kept)
        count = k.shape[0] if kept is None else kept.sum()
        self._sums[layer] = self._sums.get(layer, 0.0) + total
        self._counts[layer] = self._counts.get(layer, 0) + count
        self._widths[layer] = k.shape[-1]

    def by_layer(self) -> dict[int, float]:
        """Mean entropy of a token's coefficients, in nats."""
        return {
            layer: float(self._sums[layer]) / float(count)
            for layer, count in sorted(self._counts.items())
            if float(count)
        }

    def metrics(self) -> dict[str, float]:
        layers = self.by_layer()
        if not layers:
            return {}
        shares = [value / math.log(max(self._widths[layer], 2)) for layer, value in layers.items()]
        return {
            "nats": sum(layers.values()) / len(layers),
            "normalised": sum(shares) / len(shares),
            **{f"nats/layer_{layer}": value for layer, value in layers.items()},
        }

    def reset(self) -> None:
        self._sums: dict[int, Tensor | float] = {}
        self._counts: dict[int, Tensor | int] = {}
        self._widths: dict[int, int] = {}
