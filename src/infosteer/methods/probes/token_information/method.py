"""Mutual information between a token and the memories that it draws on, as a function and as a monitor of training.

It tells "more memories are used" from "every token gets the same mix": both raise the entropy of the coefficients, the
second one takes this information away.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from infosteer.core.config import setting
from infosteer.core.surfaces import Observer, ProbeMethod
from infosteer.errors import ConfigError
from infosteer.models import Site
from infosteer.ops.entropy import key_entropy


def token_information(k: Tensor, tokens: Tensor) -> Tensor:
    """Plug-in mutual information between token and memory, in nats.

    Formula: with shares ``p_t = |k_t| / sum_i |k_ti|``, their mean ``p`` over all rows and ``p_x`` over the rows of
    token x, ``n_x`` of n: ``I = H(p) - sum_x (n_x / n) H(p_x)``, the Jensen-Shannon divergence of the p_x. It is the
    information about its token that a memory gives which is drawn by a random row's shares.

    Args:
        k: (N, M) key coefficients. Rows that are all zero count as even shares.
        tokens: (N,) int64.

    Returns:
        0-dim fp64, from 0 to min(ln M, ln of the number of tokens). Biased upwards by about the spread of single rows
        over n_x: subtract the same of shuffled ``tokens``, as the probe does.

    Raises:
        ConfigError: shapes that do not fit.
    """
    if k.dim() != 2 or tokens.shape != k.shape[:1] or k.numel() == 0:
        raise ConfigError(
            "Coefficients and tokens do not fit.", where="k, tokens", got=(tuple(k.shape), tuple(tokens.shape)),
            expected="k (N, M) and tokens (N,)",
        )  # fmt: skip
    _, labels = tokens.unique(return_inverse=True)
    sums = _sums_by_label(k, labels, int(labels.max()) + 1)
    return _information(sums, labels.bincount().to(sums))


def _shares(k: Tensor) -> Tensor:
    size = k.abs().float()
    size = size / size.amax(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)  # no sum overflows
    total = size.sum(dim=-1, keepdim=True)
    return torch.where(total > 0, size / total.clamp_min(0.5), 1 / k.shape[-1])


def _sums_by_label(k: Tensor, labels: Tensor, number: int) -> Tensor:
    """(G, M) float64 sums of the shares of each label's rows; a product: scattered sums differ from run to run."""
    members = torch.zeros(number, k.shape[0], device=k.device)
    members[labels, torch.arange(k.shape[0], device=k.device)] = 1.0
    return (members @ _shares(k)).double()


def _information(sums: Tensor, counts: Tensor) -> Tensor:
    weight = counts / counts.sum()
    return key_entropy(sums.sum(dim=0)) - (weight * key_entropy(sums)).sum()


@dataclasses.dataclass(kw_only=True)
class TokenInformation(ProbeMethod):
    """Logs how much the memories in use tell about the token, corrected by a shuffled null.

    Formula: :func:`token_information` of the rows whose token is one of the ``types`` most frequent ones, minus the
    same with tokens shuffled among the rows of each forward; mean over layers, and by layer. ``plug_in`` and ``null``
    are the two terms; ``normalised`` is the difference over the entropy of those tokens.

    Symbols: the token of a row is the one read there, not the one predicted; nats; the most frequent tokens of the
    first forward seen, so that memory stays at 2 * types * M numbers a layer.
    """

    types: int = setting(32, "how many tokens, the most frequent ones, are told apart", low=2)

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self.types) is not int:
            raise ConfigError("expected a whole number", where=f"{self.label()}.types", got=self.types)

    def observer(self, sites: Sequence[Site]) -> Observer:
        return TokenObserver(types=self.types)


class TokenObserver(Observer):
    """Sums of shares by token, and by shuffled token, for every layer.

    Args:
        types: how many tokens are told apart.
        tokens: which ones; the most frequent ones of the first forward unless given.
    """

    def __init__(self, *, types: int = 32, tokens: Tensor | None = None) -> None:
        self._types, self.tokens = types, tokens
        self._ids: Tensor | None = None
        self._labels: tuple[Tensor, Tensor, Tensor] | None = None
        self._forwards = 0
        self.reset()

    def begin(self, ids: Tensor | None) -> None:
        self._ids, self._labels = None if ids is None else ids.reshape(-1), None
        self._forwards += 1

    def see(self, layer: int, k: Tensor, weight: Tensor | None) -> None:
        if self._ids is None:  # without token numbers there is nothing to say
            return
        if self._labels is None:
            self._labels = self._read_labels(self._ids.to(k.device), weight)
        rows, labels, shuffled = self._labels
        if not len(rows):
            return
        kept, number = k[rows], len(self.tokens) if self.tokens is not None else 0
        found = torch.stack([_sums_by_label(kept, by, number) for by in (labels, shuffled)])
        self._sums[layer] = self._sums[layer] + found if layer in self._sums else found
        counts = labels.bincount(minlength=number).double()
        self._counts[layer] = self._counts[layer] + counts if layer in self._counts else counts

    def information(self) -> dict[int, tuple[float, float]]:
        """Layer -> plug-in information and that of the shuffled null, nats."""
        return {
            layer: (float(_information(sums[0], counts)), float(_information(sums[1], counts)))
            for layer, (sums, counts) in ((i, (self._sums[i], self._counts[i])) for i in sorted(self._sums))
        }

    def metrics(self) -> dict[str, float]:
        found = self.information()
        if not found:
            return {}
        plug_in = sum(value for value, _ in found.values()) / len(found)
        null = sum(value for _, value in found.values()) / len(found)
        entropy = float(key_entropy(next(iter(self._counts.values()))))
        return {
            "nats": plug_in - null,
            "plug_in": plug_in,
            "null": null,
            "normalised": (plug_in - null) / entropy if entropy > 0 else 0.0,
            **{f"nats/layer_{layer}": value - null for layer, (value, null) in found.items()},
        }

    def reset(self) -> None:
        self._sums: dict[int, Tensor] = {}
        self._counts: dict[int, Tensor] = {}

    def _read_labels(self, ids: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Rows of the tokens told apart, their number among these, and the same in a random order."""
        kept = torch.ones_like(ids, dtype=torch.bool) if weight is None else weight.to(ids.device) != 0
        if not bool(kept.any()):
            return ids[:0], ids[:0], ids[:0]
        if self.tokens is None:
            values, counts = ids[kept].unique(return_counts=True)
            order = torch.argsort(counts, descending=True, stable=True)
            self.tokens = values[order[: self._types]]
        known = ids[:, None] == self.tokens.to(ids.device)
        rows = (kept & known.any(dim=1)).nonzero().squeeze(1)
        labels = known[rows].int().argmax(dim=1) if len(rows) else rows
        own = torch.Generator().manual_seed(self._forwards)  # leaves the random state of the training alone
        order = torch.randperm(len(rows), generator=own).to(ids.device)
        return rows, labels, labels[order]
