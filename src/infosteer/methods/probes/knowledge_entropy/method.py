"""Knowledge entropy (Kim et al., arXiv 2410.01380) as a function and as a monitor of training."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from infosteer.core.surfaces import Observer, ProbeMethod
from infosteer.errors import ConfigError
from infosteer.models import Site
from infosteer.ops.chunks import row_chunks
from infosteer.ops.entropy import key_entropy
from infosteer.ops.masking import masked_sum


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class MemoryUse:
    """How evenly a text uses the memories of a model.

    Attributes:
        layers: entropy of the average use by layer, nats.
        widths: memories M by layer.
    """

    layers: Mapping[int, float]
    widths: Mapping[int, int]

    @property
    def total(self) -> float:
        """Sum over layers, nats: the paper's knowledge entropy."""
        return sum(self.layers.values())

    @property
    def normalised(self) -> float:
        """Mean over layers of H / ln M, from 0 to 1: comparable between models of different shape."""
        shares = [value / math.log(max(self.widths[layer], 2)) for layer, value in self.layers.items()]
        return sum(shares) / len(shares)

    @property
    def effective_fraction(self) -> float:
        """Mean over layers of exp(H) / M: the share of memories that would give this entropy if used evenly."""
        return sum(math.exp(value) / self.widths[layer] for layer, value in self.layers.items()) / len(self.layers)


def knowledge_entropy(use: Mapping[int, Tensor]) -> MemoryUse:
    """Entropy of the average use of memories, by layer.

    Formula: ``H_l = -sum_i p_i ln p_i``, ``p_i = c_i / sum_j c_j``, c_i the mean |k_i| over a text.

    Args:
        use: layer -> (M,) mean magnitudes of key coefficients, as ``infosteer.core.usage.memory_usage`` gives them
            (mean over sequences of the mean over their tokens); taken as float64.

    Raises:
        ConfigError: no layer, or averages that are no averages of magnitudes.

    Source: arXiv 2410.01380, section 3.
    """
    if not use:
        raise ConfigError("there is no layer to take the entropy of", where="use", expected="mean |k| by layer")
    for layer, mean in use.items():
        if mean.dim() != 1 or not bool((mean.isfinite() & (mean >= 0)).all()):
            raise ConfigError(
                "these are no mean magnitudes of key coefficients",
                where=f"use[{layer}]",
                got=f"shape {tuple(mean.shape)}, values from {float(mean.min())} to {float(mean.max())}",
                expected="finite numbers >= 0, one a memory",
            )
    layers = {layer: float(key_entropy(use[layer].double())) for layer in sorted(use)}
    return MemoryUse(layers=layers, widths={layer: use[layer].shape[0] for layer in layers})


@dataclasses.dataclass(kw_only=True)
class KnowledgeEntropy(ProbeMethod):
    """Logs the entropy of the average memory use over the observed step, beside the mean entropy of its tokens.

    Formula: as :func:`knowledge_entropy`, c_i the mean over sequences of the mean over their tokens that carry loss;
    ``token_entropy``: mean over those tokens and over layers of ``H(|k_t| / sum_i |k_ti|)``.

    Symbols: H in nats; float64 sums, since the values move in the fourth digit.

    Source: arXiv 2410.01380, section 3.
    """

    def observer(self, sites: Sequence[Site]) -> Observer:
        return KnowledgeEntropyObserver()


class KnowledgeEntropyObserver(Observer):
    """Average memory use and token entropies by layer. Where no token ids are known, a forward is one sequence."""

    def __init__(self) -> None:
        self._shape: tuple[int, ...] = (1, -1)
        self.reset()

    def begin(self, ids: Tensor | None) -> None:
        self._shape = (1, -1) if ids is None else tuple(ids.shape)

    def see(self, layer: int, k: Tensor, weight: Tensor | None) -> None:
        kept = torch.ones(k.shape[0], device=k.device) if weight is None else (weight != 0).float()
        lengths = kept.double().view(self._shape).sum(-1, keepdim=True)
        share = (kept.double().view(self._shape) / lengths.clamp(min=1)).reshape(-1)
        use = torch.zeros(k.shape[-1], dtype=torch.float64, device=k.device)
        for rows in row_chunks(k):  # so that the float64 copy of k stays small
            size = torch.where((share[rows] > 0)[:, None], k[rows].abs().double(), 0.0)
            use += share[rows] @ size
        self._use[layer] = self._use.get(layer, 0.0) + use
        self._sequences[layer] = self._sequences.get(layer, 0.0) + (lengths > 0).sum()
        self._entropy[layer] = self._entropy.get(layer, 0.0) + masked_sum(key_entropy(k).double(), kept != 0)
        self._tokens[layer] = self._tokens.get(layer, 0.0) + kept.sum(dtype=torch.float64)

    def use(self) -> dict[int, Tensor]:
        """Layer -> (M,) mean |k|, mean over sequences of the mean over their tokens, float64."""
        return {
            layer: torch.as_tensor(total / self._sequences[layer]).cpu()
            for layer, total in sorted(self._use.items())
            if float(self._sequences[layer])
        }

    def metrics(self) -> dict[str, float]:
        use = self.use()
        if not use:
            return {}
        found = knowledge_entropy(use)
        single = {layer: float(self._entropy[layer]) / float(self._tokens[layer]) for layer in use}
        tops = {layer: math.log(max(width, 2)) for layer, width in found.widths.items()}
        return {
            "total": found.total,
            "normalised": found.normalised,
            "effective_fraction": found.effective_fraction,
            "token_entropy": sum(single.values()) / len(single),
            "token_entropy_normalised": sum(single[layer] / tops[layer] for layer in single) / len(single),
            **{f"nats/layer_{layer}": value for layer, value in found.layers.items()},
        }

    def reset(self) -> None:
        self._use: dict[int, Tensor | float] = {}
        self._sequences: dict[int, Tensor | float] = {}
        self._entropy: dict[int, Tensor | float] = {}
        self._tokens: dict[int, Tensor | float] = {}
