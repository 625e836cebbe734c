"""Directions of one model in another: whether what told two classes apart before training still does after it.

Source: arXiv 2504.02904 (its code).
Legend: N texts, D hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from infosteer.errors import ConfigError
from infosteer.evaluation.shares import wilson
from infosteer.evaluation.statistics import compare
from infosteer.inspection.directions import (
    States,
    checked_labels,
    find_direction,
    held_out_scores,
    shuffled_labels,
    splits,
)
from infosteer.ops.separate import cosine

SHUFFLES = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Transfer:
    """A direction of one model (source) in another (target), at one layer.

    Attributes:
        cosine: between the two models' directions, each found on all rows.
        cosine_null: mean |cosine| of directions found after shuffling the labels within folds, the same way in both
            models: what the two models share anyhow, whatever the labels say.
        accuracy, low, high: of the source's direction on the target's states, the bias fitted to the target.
        own: accuracy of the target's own direction on the same rows.
        difference, difference_low, difference_high, p_value: transferred minus own, paired by row.
    """

    layer: int
    method: str
    cosine: float
    cosine_null: float
    accuracy: float
    low: float
    high: float
    own: float
    difference: float
    difference_low: float
    difference_high: float
    p_value: float
    chance: float
    n: int


def transfer(
    source: States,
    target: States,
    labels: Sequence[int] | Tensor,
    folds: Sequence[Tensor],
    method: str = "mass_mean",
    seed: int = 0,
) -> list[Transfer]:
    """Directions of the source model judged on the target model's states of the same texts, layer by layer.

    The direction comes from the source's states of the other folds, the bias is fitted to the target's states of them.

    Raises:
        ConfigError, DataError: as ``probe_layers``; models with other layers or widths.
    """
    targets = checked_labels(source, labels, folds)
    checked_labels(target, labels, folds)
    if list(source) != list(target) or any(source[layer].shape != target[layer].shape for layer in source):
        raise ConfigError(
            "The two models' hidden states do not fit each other.",
            got=f"{_sizes(source)} and {_sizes(target)}",
            expected="the same layers and widths",
        )
    generator = torch.Generator().manual_seed(seed)
    shuffled = [shuffled_labels(targets, folds, generator) for _ in range(SHUFFLES)]
    found = []
    for layer, x in source.items():
        y = target[layer]
        carried, own = [], []
        for fold, rest in splits(len(targets), folds):
            wanted = targets[fold].bool()
            carried.append((held_out_scores(x, y, targets, rest, fold, method) > 0) == wanted)
            own.append((held_out_scores(y, y, targets, rest, fold, method) > 0) == wanted)
        hits, mine = torch.cat(carried).double(), torch.cat(own).double()
        pair = compare({0: hits.tolist()}, {0: mine.tolist()}, resamples=2000)
        low, high = wilson(int(hits.sum()), len(hits))
        null = [abs(_agreement(x, y, drawn, method)) for drawn in shuffled]
        found.append(
            Transfer(
                layer=layer,
                method=method,
                cosine=_agreement(x, y, targets, method),
                cosine_null=sum(null) / len(null),
                accuracy=float(hits.mean()),
                low=low,
                high=high,
                own=float(mine.mean()),
                difference=pair.difference,
                difference_low=pair.low,
                difference_high=pair.high,
                p_value=pair.p_value,
                chance=float(max(targets.mean(), 1 - targets.mean())),
                n=len(hits),
            )
        )
    return found


def _agreement(x: Tensor, y: Tensor, labels: Tensor, method: str) -> float:
    """Cosine of the directions of two models; random ones are drawn apart."""
    return cosine(find_direction(x, labels, method, seed=1), find_direction(y, labels, method, seed=2))


def _sizes(states: States) -> str:
    return f"{len(states)} layers of width {next(iter(states.values())).shape[1]}" if states else "no layers"
