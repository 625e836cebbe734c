"""Layer-wise adversarial patch training (LAPT): fresh matched noise at the answer's positions of one layer a step."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from infosteer.core.config import setting
from infosteer.core.contract import Context
from infosteer.core.surfaces import InterventionMethod
from infosteer.errors import ConfigError
from infosteer.ops.counter import mix, normal
from infosteer.ops.matched_noise import match_statistics

POSITIONS = ("answer", "all")
LAYERS = ("one", "all")


def perturb_states(k: Tensor, keys: Tensor, scale: float = 1.0, strength: float = 1.0, seed: int = 0) -> Tensor:
    """``h' = h + s c v``, v standard normal, given the mean and standard deviation of h; v carries no gradient.

    Args:
        k: h (..., D), what a layer puts out.
        keys: (N,) int64, one for every row of h flattened to (N, D), from which the random numbers come.
        scale: c.
        strength: s.
        seed: another seed gives other noise for the same keys.

    Returns:
        (..., D) of the dtype of h; h itself with strength 0.
    """
    if strength == 0:
        return k
    v = match_statistics(normal(keys, k.shape[-1], seed).view(k.shape), k)
    return (k.to(v.dtype) + strength * scale * v).to(k.dtype)


@dataclasses.dataclass(kw_only=True)
class LatentPerturbation(InterventionMethod):
    """Adds to a layer's output noise of its own mean and spread while the model learns its unchanged answers.

    Formula: ``h' = h + s c v``, ``v = mean(h) + std(h) (d - mean(d)) / (std(d) + 1e-6)``, d ~ N(0, 1) in every entry.

    Symbols: h (..., D) the output of a layer at one token; mean and std over its D entries; c scale; s strength. The
    noise is new for every position and step, and a constant in the backward pass. One layer of ``layers`` a step.

    Raises:
        ConfigError: a setting out of its range.
        ArchitectureError: layers whose outputs cannot be edited.

    Source: arXiv 2506.16078 (LAPT).
    """

    random: ClassVar[bool] = True
    edits_states: ClassVar[bool] = True

    scale: float = setting(1.0, "multiple of the matched noise", low=0)
    positions: str = setting(
        "answer", "answer: tokens whose next token carries loss, all of them without labels; all: every token",
        choices=POSITIONS,
    )  # fmt: skip
    at_once: str = setting(
        "one", "one: a single one of the layers in each step, drawn anew; all: all of them", choices=LAYERS
    )

    @property
    def idle(self) -> bool:
        return self.scale == 0

    @property
    def selects(self) -> bool:
        return self.positions == "answer"

    def edit(self, k: Tensor, context: Context) -> Tensor:
        if context.strength == 0 or not self._is_turn(context):
            return k
        assert context.keys is not None
        perturbed = perturb_states(k, context.keys, self.scale, context.strength, seed=context.layer)
        if context.counted is None:
            return perturbed
        return torch.where(context.counted.to(k.device).view(*k.shape[:-1], 1), perturbed, k)

    def _is_turn(self, context: Context) -> bool:
        if self.at_once == "all" or not context.layers:
            return True
        draw = int(mix(torch.tensor(context.step + 1))) % len(context.layers)
        return context.layer == context.layers[draw]


def largest_safe_share(scores: Mapping[float, float], start: float, tolerance: float = 0.05) -> float:
    """The largest share of the trained weights whose score stays within the tolerance of the start's; 0 if none does.

    Args:
        scores: share lambda in ``(1 - lambda) w_start + lambda w_trained`` -> score of a general task (CommonsenseQA).
        start: the score of the model before training.

    Raises:
        ConfigError: a share that is not in [0, 1].

    Source: arXiv 2506.16078 (shares up to 0.5, tolerance 0.05).
    """
    if not all(0 <= share <= 1 for share in scores):
        raise ConfigError("A share lies between 0 and 1.", where="scores", got=sorted(scores))
    return max((share for share, score in scores.items() if score >= start - tolerance), default=0.0)
