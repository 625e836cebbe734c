"""Truthfulness and refusal as directions of the hidden states: found at every layer, judged on rows that they were not
found on, and carried from one model to another.

Two classes of texts (true and false statements, harmful and harmless requests), their states at one token
(:func:`infosteer.inspection.activations.collect_states`), and folds that say which rows are held out together: topics
for statements, since a statement and its false twin share their subject; random ones for requests.

Source: arXiv 2504.02904 (its code); difference of means: arXiv 2310.06824 and 2406.11717.
Legend: L layers, N texts, D hidden.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from infosteer.errors import ConfigError, DataError
from infosteer.evaluation.statistics import compare, wilson
from infosteer.ops.separate import Area, check_classes, cosine, fit_bias, logistic, make_area, mass_mean, roc_area

METHODS = ("mass_mean", "logistic", "random")
States = Mapping[int, Tensor]
SHUFFLES = 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """How well one layer tells the classes apart, on rows held out.

    Attributes:
        accuracy, low, high: share of right answers over all folds, with Wilson's interval.
        auc, auc_low, auc_high: mean over folds of the area under the ROC curve, with DeLong's interval; None where no
            fold holds both classes.
        null_low, null_high: smallest and largest accuracy with shuffled labels; None without shuffles. The intervals
            take the directions as given, and those of the folds share rows, so this is the test against chance.
        chance: share of the larger class.
        n: rows held out.
    """

    layer: int
    method: str
    accuracy: float
    low: float
    high: float
    auc: float | None
    auc_low: float | None
    auc_high: float | None
    null_low: float | None
    null_high: float | None
    chance: float
    n: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Transfer:
    """A direction of one model (source) in another (target), at one layer.

    Attributes:
        cosine: between the two models' directions, each found on all rows.
        cosine_null: mean |cosine| of directions found after shuffling the labels, the same way in both models: what the
            two models share anyhow, whatever the labels say.
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


def group_folds(groups: Sequence[Hashable]) -> list[Tensor]:
    """One fold for every group (topic), in order of appearance: the numbers of its rows.

    Raises:
        DataError: fewer than two groups.
    """
    names = list(dict.fromkeys(groups))
    if len(names) < 2:
        raise DataError(
            "One topic must be held out while a direction is found on the others.",
            got=f"{len(names)} topics",
            expected="at least 2",
            fix="give statements of several topics, or use random folds",
        )
    return [torch.tensor([i for i, group in enumerate(groups) if group == name]) for name in names]


def random_folds(labels: Tensor, count: int = 5, seed: int = 0) -> list[Tensor]:
    """``count`` folds with equal shares of both classes, drawn by the seed.

    Raises:
        DataError: a class with fewer rows than folds.
    """
    smaller = int(min((labels == 1).sum(), (labels == 0).sum()))
    if count < 2 or smaller < count:
        raise DataError(
            "There are too few rows of a class for the folds.",
            got=f"{smaller} rows, {count} folds",
            expected="at least as many rows",
        )
    generator = torch.Generator().manual_seed(seed)
    folds: list[list[int]] = [[] for _ in range(count)]
    for kind in (0, 1):
        rows = (labels == kind).nonzero().squeeze(1)
        for place, row in enumerate(rows[torch.randperm(len(rows), generator=generator)].tolist()):
            folds[place % count].append(row)
    return [torch.tensor(sorted(fold)) for fold in folds]


def find_direction(states: Tensor, labels: Tensor, method: str = "mass_mean", seed: int = 0) -> Tensor:
    """The direction (D,) float64 that points from the negative class to the positive one.

    Args:
        states: (N, D).
        labels: (N,) in 0, 1.
        method: ``mass_mean`` difference of the class means; ``logistic`` the weights of a logistic regression with a
            ridge of 1; ``random`` a random direction as long as the difference of means, to compare with.
        seed: of the random direction.

    Raises:
        ConfigError: an unknown method, one class only, lengths that differ.
    """
    if method not in METHODS:
        raise ConfigError("Unknown method.", where="method", got=method, expected=" | ".join(METHODS))
    if method == "logistic":
        return logistic(states, labels)[0]
    means = mass_mean(states, labels)
    if method == "mass_mean":
        return means
    drawn = torch.randn(means.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return drawn * (means.norm() / drawn.norm())


def probe_layers(
    states: States,
    labels: Sequence[int] | Tensor,
    folds: Sequence[Tensor],
    method: str = "mass_mean",
    *,
    shuffles: int = 0,
    seed: int = 0,
) -> list[Reading]:
    """Held-out accuracy and area of every layer: direction and bias from the other folds, judged on each in turn.

    Args:
        states: layer -> (N, D).
        labels: (N,) in 0, 1.
        folds: rows to hold out together.
        method: one of ``METHODS``.
        shuffles: repetitions with labels shuffled within each fold, for ``null_low`` and ``null_high``; with 39, a
            value outside is one that chance gives in 1 case of 20.
        seed: of the shuffles.

    Raises:
        ConfigError: one class only in what is left to train on, lengths that differ, an unknown method.
        DataError: no folds, or rows in them that there are not.
    """
    targets = _labels(states, labels, folds)
    generator = torch.Generator().manual_seed(seed)
    shuffled = [_shuffled(targets, folds, generator) for _ in range(shuffles)]
    found = []
    for layer, x in states.items():
        judged = [(fold, _scores(x, x, targets, rest, fold, method)) for fold, rest in _splits(len(targets), folds)]
        hits = sum(int(((scores > 0) == targets[fold].bool()).sum()) for fold, scores in judged)
        n = sum(map(len, folds))
        low, high = wilson(hits, n)
        area = _pooled_area([(scores, targets[fold]) for fold, scores in judged])
        null = [_accuracy(x, drawn, folds, method) for drawn in shuffled]
        found.append(
            Reading(
                layer=layer,
                method=method,
                accuracy=hits / n,
                low=low,
                high=high,
                auc=area and area.value,
                auc_low=area and area.low,
                auc_high=area and area.high,
                null_low=min(null, default=None),
                null_high=max(null, default=None),
                chance=float(max(targets.mean(), 1 - targets.mean())),
                n=n,
            )
        )
    return found


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
    targets = _labels(source, labels, folds)
    _labels(target, labels, folds)
    if list(source) != list(target) or any(source[layer].shape != target[layer].shape for layer in source):
        raise ConfigError(
            "The two models' hidden states do not fit each other.",
            got=f"{_sizes(source)} and {_sizes(target)}",
            expected="the same layers and widths",
        )
    generator = torch.Generator().manual_seed(seed)
    shuffled = [targets[torch.randperm(len(targets), generator=generator)] for _ in range(SHUFFLES)]
    found = []
    for layer, x in source.items():
        y = target[layer]
        carried, own = [], []
        for fold, rest in _splits(len(targets), folds):
            wanted = targets[fold].bool()
            carried.append((_scores(x, y, targets, rest, fold, method) > 0) == wanted)
            own.append((_scores(y, y, targets, rest, fold, method) > 0) == wanted)
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


def _accuracy(x: Tensor, targets: Tensor, folds: Sequence[Tensor], method: str) -> float:
    right = [
        (_scores(x, x, targets, rest, fold, method) > 0) == targets[fold].bool()
        for fold, rest in _splits(len(targets), folds)
    ]
    return float(torch.cat(right).double().mean())


def _shuffled(targets: Tensor, folds: Sequence[Tensor], generator: torch.Generator) -> Tensor:
    drawn = targets.clone()
    for fold in folds:
        drawn[fold] = targets[fold][torch.randperm(len(fold), generator=generator)]
    return drawn


def _pooled_area(judged: Sequence[tuple[Tensor, Tensor]]) -> Area | None:
    """Mean over the folds that hold both classes, weighted by their rows."""
    whole = [(scores, labels) for scores, labels in judged if 0 < float(labels.mean()) < 1]
    total = sum(len(labels) for _, labels in whole)
    if not whole:
        return None
    areas = [(len(labels) / total, roc_area(scores, labels)) for scores, labels in whole]
    smaller = sum(int(min(labels.sum(), (1 - labels).sum())) for _, labels in whole)
    return make_area(
        sum(share * one.value for share, one in areas), sum(share**2 * one.variance for share, one in areas), smaller
    )


def _agreement(x: Tensor, y: Tensor, labels: Tensor, method: str) -> float:
    """Cosine of the directions of two models; random ones are drawn apart."""
    return cosine(find_direction(x, labels, method, seed=1), find_direction(y, labels, method, seed=2))


def _labels(states: States, labels: Sequence[int] | Tensor, folds: Sequence[Tensor]) -> Tensor:
    """The labels as float64, checked against states and folds."""
    if not states:
        raise DataError("There are no hidden states.", expected="states of at least one layer")
    targets = torch.as_tensor(labels)
    for x in states.values():
        check_classes(x, targets, "texts")
    if not folds or any(not len(fold) for fold in folds):
        raise DataError("A fold holds no rows.", got=[len(fold) for fold in folds], expected="rows in every fold")
    rows = torch.cat(list(folds))
    if int(rows.min()) < 0 or int(rows.max()) >= len(targets) or len(rows.unique()) != len(rows):
        raise DataError("The folds name rows that there are not, or name some twice.", got=f"{len(targets)} rows")
    return targets.double()


def _splits(count: int, folds: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    held = torch.cat(list(folds))
    splits = []
    for fold in folds:
        rest = torch.zeros(count, dtype=torch.bool)
        rest[held] = True
        rest[fold] = False
        splits.append((fold, rest.nonzero().squeeze(1)))
    return splits


def _scores(x: Tensor, y: Tensor, targets: Tensor, rest: Tensor, fold: Tensor, method: str) -> Tensor:
    """Scores of y's held-out rows, positive where they are taken for the positive class: the direction from x's other
    rows, the bias from y's."""
    if method == "logistic" and x is y:
        direction, bias = logistic(x[rest], targets[rest])
        return y[fold].double() @ direction + bias
    direction = find_direction(x[rest], targets[rest], method)
    slope, bias = fit_bias(y[rest].double() @ direction, targets[rest])
    return slope * (y[fold].double() @ direction) + bias


def _sizes(states: States) -> str:
    return f"{len(states)} layers of width {next(iter(states.values())).shape[1]}" if states else "no layers"
