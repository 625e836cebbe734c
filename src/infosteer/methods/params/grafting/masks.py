"""Masks over weights, by parameter name: how they are chosen without learning, put together and compared.

A mask says of every weight whether its trained value is taken (True) or the one from before training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from infosteer.errors import ConfigError

Weights = Mapping[str, Tensor]
Mask = dict[str, Tensor]


def top(scores: Weights, count: int) -> Mask:
    """The ``count`` largest scores of all tensors together; of equal ones the first, so that it is exactly so many."""
    flat = torch.cat([score.detach().float().flatten().cpu() for score in scores.values()])
    chosen = torch.zeros(len(flat), dtype=torch.bool)
    if count > 0:
        chosen[torch.argsort(flat, descending=True, stable=True)[:count]] = True
    parts = torch.split(chosen, [score.numel() for score in scores.values()])
    return {
        name: part.view(score.shape).to(score.device) for (name, score), part in zip(scores.items(), parts, strict=True)
    }


def budget(weights: Weights, share: float) -> int:
    """How many weights a density stands for: 0 at 0, else at least 1."""
    return max(1, round(share * sum(weight.numel() for weight in weights.values()))) if share > 0 else 0


def movement_mask(start: Weights, trained: Weights, share: float) -> Mask:
    """The weights that training moved most: the largest |trained - start|, in fp32."""
    check_pair(start, trained)
    return top(
        {n: (w.float() - start[n].to(w.device).float()).abs() for n, w in trained.items()}, budget(trained, share)
    )


def magnitude_mask(trained: Weights, share: float) -> Mask:
    """The largest |trained|: a control of the same density."""
    return top({name: weight.float().abs() for name, weight in trained.items()}, budget(trained, share))


def random_mask(weights: Weights, share: float, seed: int = 0) -> Mask:
    """Weights drawn at random: a control of the same density."""
    generator = torch.Generator().manual_seed(seed)
    drawn = {name: torch.rand(w.shape, generator=generator).to(w.device) for name, w in weights.items()}
    return top(drawn, budget(weights, share))


def changed(start: Weights, grafted: Weights) -> Mask:
    """The mask of a graft, read off its weights: where they are not those from before training."""
    check_pair(start, grafted)
    return {name: weight != start[name].to(weight) for name, weight in grafted.items()}


def inverse(mask: Mapping[str, Tensor]) -> Mask:
    """Everything but the mask."""
    return {name: ~part for name, part in mask.items()}


def union(*masks: Mapping[str, Tensor]) -> Mask:
    """Weights that any of the masks holds: the graft of several tasks."""
    return _joined(masks, torch.logical_or)


def without(mask: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> Mask:
    """The mask less another: unlearns the other's task."""
    return _joined((mask, inverse(other)), torch.logical_and)


def density(mask: Mapping[str, Tensor]) -> float:
    """The share of weights that the mask holds."""
    return sum(int(part.sum()) for part in mask.values()) / max(sum(part.numel() for part in mask.values()), 1)


def overlap(masks: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, float]]:
    """``overlap[i][j] = |mask_i and mask_j| / |mask_j|``; 0 for an empty mask_j."""
    sizes = {name: sum(int(part.sum()) for part in mask.values()) for name, mask in masks.items()}
    return {i: {j: _common(masks[i], masks[j]) / sizes[j] if sizes[j] else 0.0 for j in masks} for i in masks}


def distribution(mask: Mapping[str, Tensor], place: Callable[[str], str]) -> dict[str, dict[str, float]]:
    """Where a mask lies: place -> its ``density`` there and its ``share`` of the mask.

    Args:
        place: the place of a parameter of that name, such as its layer or part.
    """
    held: dict[str, int] = {}
    sizes: dict[str, int] = {}
    for name, part in mask.items():
        where = place(name)
        held[where] = held.get(where, 0) + int(part.sum())
        sizes[where] = sizes.get(where, 0) + part.numel()
    total = max(sum(held.values()), 1)
    return {where: {"density": held[where] / sizes[where], "share": held[where] / total} for where in held}


def check_pair(start: Weights, trained: Weights) -> None:
    """Two sets of weights of one model.

    Raises:
        ConfigError: other names or shapes.
    """
    names = set(start) ^ set(trained)
    shapes = [name for name in set(start) & set(trained) if start[name].shape != trained[name].shape]
    if names or shapes or not start:
        raise ConfigError(
            "the two checkpoints do not belong to one model",
            where="grafting",
            got=sorted(names | set(shapes))[:5] or "no weights",
            expected="the same names and shapes",
            fix="merge adapters first (merge_and_unload), and compare a model with what was made of it",
        )


def _common(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> int:
    check_pair(first, second)
    return sum(int((part & second[name].to(part.device)).sum()) for name, part in first.items())


def _joined(masks: tuple[Mapping[str, Tensor], ...], how: Callable[[Tensor, Tensor], Tensor]) -> Mask:
    found = dict(masks[0])
    for mask in masks[1:]:
        check_pair(found, mask)
        found = {name: how(part, mask[name].to(part.device)) for name, part in found.items()}
    return found
