"""Layer-wise adversarial patch training (LAPT): fresh matched noise at the answer's positions, in one layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from infosteer.core.config import setting
from infosteer.core.contract import Context
from infosteer.core.marks import TokenRow
from infosteer.core.surfaces import InterventionMethod
from infosteer.errors import AttachError, ConfigError, DataError
from infosteer.ops.counter import mix, normal
from infosteer.ops.matched_noise import match_statistics

POSITIONS = ("answer", "response", "all")
LAYERS = ("one", "row", "all")


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
    noise is new for every position and step, and a constant in the backward pass. Which layer: one of ``layers`` in a
    step, all, or for each row its own, which stands in it as ``about: {layer: 3}``; rows without are left alone.

    Raises:
        ConfigError: a setting out of its range; rows whose layer is none of ``layers``.
        DataError: ``at_once: row``, and no row names a layer, or one names something else.
        AttachError: ``at_once: row``, and batches without marks.
        ArchitectureError: layers whose outputs cannot be edited.

    Source: arXiv 2506.16078 (LAPT).
    """

    random: ClassVar[bool] = True
    edits_states: ClassVar[bool] = True

    scale: float = setting(1.0, "multiple of the matched noise", low=0)
    positions: str = setting(
        "answer",
        "answer: tokens whose next token carries loss, all of them without labels; response: tokens that carry loss "
        "themselves; all: every token",
        choices=POSITIONS,
    )
    at_once: str = setting(
        "one",
        "one: a single one of the layers in each step, drawn anew; row: for each row the one that it names; all: all",
        choices=LAYERS,
    )

    @property
    def idle(self) -> bool:
        return self.scale == 0

    @property
    def selects(self) -> bool:
        return self.positions != "all"

    @property
    def marking(self) -> bool:
        return self.at_once == "row"

    def marks(self, rows: Sequence[TokenRow]) -> list[list[float]]:
        """The number of each row's layer, from 1; 0 for rows without one."""
        layers = [_layer_of(row, number) for number, row in enumerate(rows, start=1)]
        if not any(layers):
            raise DataError(
                "No training row says in which layer it is to be perturbed.",
                where="interventions/latent_perturbation",
                got=f"{len(rows)} rows",
                expected="rows with about: {layer: 3}",
                fix="set at_once: one, or name the layer that broke each row",
            )
        return [[float(layer)] * len(row.ids) for layer, row in zip(layers, rows, strict=True)]

    def edit(self, k: Tensor, context: Context) -> Tensor:
        if context.strength == 0 or not self._is_turn(context):
            return k
        assert context.keys is not None
        perturbed = perturb_states(k, context.keys, self.scale, context.strength, seed=context.layer)
        chosen = self._rows(context)
        return perturbed if chosen is None else torch.where(chosen.to(k.device).view(*k.shape[:-1], 1), perturbed, k)

    def _rows(self, context: Context) -> Tensor | None:
        """(N,) bool, the rows that are perturbed; None for all."""
        chosen = context.counted
        if chosen is not None and self.positions == "response":
            chosen = chosen.roll(1)  # the last row predicts nothing, so that none is carried to the front
        if self.at_once != "row":
            return chosen
        if context.marks is None:
            raise AttachError(
                "the model was called without the rows' layers",
                where="interventions/latent_perturbation",
                got=f"no {self.label()} marks in the batch",
                fix="train with infosteer run, or batch the rows of encode_rows(..., methods=...) by MarkCollator",
            )
        if context.layer == min(context.layers, default=context.layer) and not torch.compiler.is_compiling():
            _refuse_other_layers(context)
        own = context.marks == context.layer + 1
        return own if chosen is None else own & chosen.to(own.device)

    def _is_turn(self, context: Context) -> bool:
        if self.at_once != "one" or not context.layers:
            return True
        assert context.step is not None, "layers are edited outside of sites"
        draw = int(mix(torch.tensor(context.step + 1))) % len(context.layers)
        return context.layer == context.layers[draw]


def _layer_of(row: TokenRow, number: int) -> int:
    layer = (row.row.get("about") or {}).get("layer")
    if layer is None:
        return 0
    if type(layer) is not int or layer < 0:
        raise DataError("A row's layer is a number from 0.", where=f"row {number}, about.layer", got=layer)
    return layer + 1


def _refuse_other_layers(context: Context) -> None:
    assert context.marks is not None
    named = {int(mark) - 1 for mark in context.marks.unique().tolist() if mark > 0}
    if not named <= set(context.layers):
        raise ConfigError(
            "rows name layers that are not perturbed",
            where="interventions/latent_perturbation.layers",
            got=sorted(named - set(context.layers)),
            expected=f"among {list(context.layers)}",
        )


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
