"""Truthfulness and refusal as directions of the hidden states: found at every layer, judged on rows that they were not
found on. What becomes of them in another model: :mod:`infosteer.inspection.transfer`.

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
from infosteer.evaluation.shares import wilson
from infosteer.ops.separate import Area, check_classes, fit_bias, logistic, make_area, mass_mean, roc_area

METHODS = ("mass_mean", "logistic", "random")
States = Mapping[int, Tensor]


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
    targets = checked_labels(states, labels, folds)
    generator = torch.Generator().manual_seed(seed)
    shuffled = [shuffled_labels(targets, folds, generator) for _ in range(shuffles)]
    found = []
    for layer, x in states.items():
        judged = [
            (fold, held_out_scores(x, x, targets, rest, fold, method)) for fold, rest in splits(len(targets), folds)
        ]
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
                auc=None if area is None else area.value,
                auc_low=None if area is None else area.low,
                auc_high=None if area is None else area.high,
                null_low=min(null, default=None),
                null_high=max(null, default=None),
                chance=float(max(targets.mean(), 1 - targets.mean())),
                n=n,
            )
        )
    return found


def _accuracy(x: Tensor, targets: Tensor, folds: Sequence[Tensor], method: str) -> float:
    right = [
        (held_out_scores(x, x, targets, rest, fold, method) > 0) == targets[fold].bool()
        for fold, rest in splits(len(targets), folds)
    ]
    return float(torch.cat(right).double().mean())


def shuffled_labels(targets: Tensor, folds: Sequence[Tensor], generator: torch.Generator) -> Tensor:
    """The labels, shuffled within each fold: no fold gets more of a class than it had."""
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


def checked_labels(states: States, labels: Sequence[int] | Tensor, folds: Sequence[Tensor]) -> Tensor:
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


def splits(count: int, folds: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    held = torch.cat(list(folds))
    splits = []
    for fold in folds:
        rest = torch.zeros(count, dtype=torch.bool)
        rest[held] = True
        rest[fold] = False
        splits.append((fold, rest.nonzero().squeeze(1)))
    return splits


def held_out_scores(x: Tensor, y: Tensor, targets: Tensor, rest: Tensor, fold: Tensor, method: str) -> Tensor:
    """Scores of y's held-out rows, positive where they are taken for the positive class: the direction from x's other
    rows, the bias from y's."""
    if method == "logistic" and x is y:
        direction, bias = logistic(x[rest], targets[rest])
        return y[fold].double() @ direction + bias
    direction = find_direction(x[rest], targets[rest], method)
    slope, bias = fit_bias(y[rest].double() @ direction, targets[rest])
    return slope * (y[fold].double() @ direction) + bias
