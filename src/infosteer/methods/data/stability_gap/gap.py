"""The gap as numbers: how deep, how long, when the peak; and where in the model the weights move."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from infosteer.errors import ConfigError

ENDS = 5  # layers at either end
_LAYER = re.compile(r"\.(\d+)\.")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Gap:
    """The stability gap of one curve.

    Attributes:
        depth: score at the start minus the lowest one; 0 where it never falls.
        length: tokens from the start until the score is back where it began, after having fallen; 0 where it never
            falls, infinite where it does not come back.
        lowest_at, peak, peak_at: tokens at the lowest score; the highest score, and its tokens.
    """

    depth: float
    length: float
    lowest_at: float
    peak: float
    peak_at: float


def measure_gap(tokens: Sequence[float], scores: Sequence[float], *, higher_is_better: bool = True) -> Gap:
    """Depth, length and peak of a curve whose first point is the model before training.

    Between two points the score is taken to move along a line, so the length does not hang on where points lie.

    Args:
        tokens: read so far, ascending.
        scores: as many; with ``higher_is_better=False`` (losses) their sign is turned, and ``peak`` turned back.

    Raises:
        ConfigError: curves of unequal length, fewer than two points, tokens that do not rise, values not finite.
    """
    if len(tokens) != len(scores) or len(tokens) < 2:
        raise ConfigError("a curve has as many tokens as scores, two at least", got=[len(tokens), len(scores)])
    if any(after <= before for before, after in itertools.pairwise(tokens)):
        raise ConfigError("tokens rise from point to point", got=list(tokens)[:8])
    if not all(math.isfinite(value) for value in [*tokens, *scores]):
        raise ConfigError("a curve's values are finite numbers", got=list(scores)[:8])
    sign = 1.0 if higher_is_better else -1.0
    curve = [sign * score for score in scores]
    start = curve[0]
    low = min(range(len(curve)), key=curve.__getitem__)
    high = max(range(len(curve)), key=curve.__getitem__)
    length = 0.0
    fell = next((i for i, score in enumerate(curve) if score < start), None)
    if fell is not None:
        length = math.inf
        back = next((i for i in range(fell, len(curve)) if curve[i] >= start), None)
        if back is not None:
            share = (start - curve[back - 1]) / (curve[back] - curve[back - 1])
            length = tokens[back - 1] + share * (tokens[back] - tokens[back - 1]) - tokens[0]
    return Gap(
        depth=start - curve[low], length=length, lowest_at=tokens[low], peak=sign * curve[high], peak_at=tokens[high]
    )


def relative_updates(before: Mapping[str, Tensor], model: nn.Module, *, ends: int = ENDS) -> dict[str, float]:
    """``|w_t - w_0| / |w_0|`` of each weight, as means over the bottom and the top layers, and their ratio.

    Weights belong to the layer whose number stands first in their name; those outside layers are left out, as are
    weights that begin at 0. A model with fewer than twice ``ends`` layers gives half of them to either end.

    Args:
        before: name -> the weights before training (a state dict).

    Returns: ``bottom``, ``top`` and ``ratio``, NaN where nothing has moved.

    Raises:
        ConfigError: a model without numbered layers, or weights that are not in ``before``.
    """
    layers: dict[int, list[float]] = {}
    for name, weight in model.named_parameters():
        match = _LAYER.search(name)
        if match is None:
            continue
        if name not in before:
            raise ConfigError("this weight's beginning is not known", where=name, fix="keep the state dict of w_0")
        old = before[name].detach().to(weight.device, torch.float32)
        size = float(old.norm())
        if size:
            moved = float((weight.detach().float() - old).norm()) / size
            layers.setdefault(int(match[1]), []).append(moved)
    if len(layers) < 2:
        raise ConfigError("the model has no two numbered layers", got=sorted(layers))
    order = sorted(layers)
    count = min(ends, len(order) // 2)
    means = [sum(layers[layer]) / len(layers[layer]) for layer in order]
    bottom, top = sum(means[:count]) / count, sum(means[-count:]) / count
    return {"bottom": bottom, "top": top, "ratio": bottom / top if top else math.nan}


class GapRecord:
    """Curves of one training: ``see`` at fixed intervals of tokens, the first time before any step.

    ``record.see(tokens, model, domain_ppl=..., general=...)``; then ``record.gap("general")`` and ``record.updates``.
    """

    def __init__(self) -> None:
        self.tokens: list[float] = []
        self.curves: dict[str, list[float]] = {}
        self.updates: list[dict[str, float]] = []
        self._before: dict[str, Tensor] = {}

    def see(self, tokens: float, model: nn.Module, **scores: float) -> None:
        """One point of every curve, and how far the weights are from where they were at the first point.

        Raises:
            ConfigError: other scores than at the first point.
        """
        if not self.tokens:
            self._before = {name: w.detach().cpu().clone() for name, w in model.named_parameters()}
            self.curves = {name: [] for name in scores}
        if set(scores) != set(self.curves):
            raise ConfigError("every point has the same scores", got=sorted(scores), expected=", ".join(self.curves))
        self.tokens.append(tokens)
        for name, score in scores.items():
            self.curves[name].append(score)
        self.updates.append(relative_updates(self._before, model))

    def gap(self, name: str, *, higher_is_better: bool = True) -> Gap:
        """The gap of one of the curves."""
        return measure_gap(self.tokens, self.curves[name], higher_is_better=higher_is_better)
