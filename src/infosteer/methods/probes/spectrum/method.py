"""Steerability while training: do later outputs of a sequence profit from those before them?"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from infosteer.core.surfaces import Observer, ProbeMethod
from infosteer.models import Site


def outputs(counted: Tensor) -> tuple[Tensor, Tensor]:
    """Runs of counted rows in every sequence: the outputs.

    Args:
        counted: (B, T) bool, rows whose next token carries loss.

    Returns:
        (B, T) int64 each: the number of the run within its sequence, from 0, and within the batch; -1 outside of runs.
    """
    begins = counted & ~torch.cat([torch.zeros_like(counted[:, :1]), counted[:, :-1]], -1)
    place = torch.where(counted, begins.cumsum(-1) - 1, -1)
    number = torch.where(counted, begins.reshape(-1).cumsum(-1).view_as(place) - 1, -1)
    return place, number


@dataclasses.dataclass(kw_only=True)
class Steerability(ProbeMethod):
    """Logs loss and accuracy of the first output of every sequence, and of those that have others before them.

    Formula: for output k of a sequence (0 the first that carries loss), ``nll_k = -sum_{t in y_k} ln p_t`` and
    ``accuracy_k = [every token of y_k is the likeliest]``; ``first``: mean of k = 0; ``geq_1``: mean of all k >= 1;
    ``gain = nll_first - nll_geq_1`` over the sequences that have both.

    Symbols: an output is a run of tokens that carry loss, its end included; nats an output.

    Source: arXiv 2510.06084, section 4 and its code.
    """

    reads_predictions: ClassVar[bool] = True

    def observer(self, sites: Sequence[Site]) -> Observer:
        return OutputObserver()


class OutputObserver(Observer):
    """Sums over outputs. Where the shape of the batch is not known, a forward is one sequence."""

    def __init__(self) -> None:
        self._shape: tuple[int, ...] = (1, -1)
        self.reset()

    def begin(self, ids: Tensor | None) -> None:
        self._shape = (1, -1) if ids is None else tuple(ids.shape)

    def see(self, layer: int, k: Tensor, weight: Tensor | None) -> None:
        """Key coefficients say nothing about outputs."""

    def see_predictions(self, losses: Tensor, right: Tensor, weight: Tensor | None) -> None:
        counted = (~losses.isnan()).view(self._shape)
        if not bool(counted.any()):
            return
        place, number = outputs(counted)
        kept = counted.reshape(-1)
        run, sums = number.reshape(-1)[kept], torch.zeros(int(number.max()) + 1, dtype=torch.float64)
        nll = sums.index_add(0, run.cpu(), losses[kept].double().cpu())
        wrong = sums.index_add(0, run.cpu(), (~right[kept]).double().cpu())
        at = sums.long().index_copy(0, run.cpu(), place.reshape(-1)[kept].cpu())
        sequence = sums.long().index_copy(0, run.cpu(), _sequences(counted).reshape(-1)[kept].cpu())
        for one in sequence.unique().tolist():
            mine = sequence == one
            self._add("first", nll[mine & (at == 0)], wrong[mine & (at == 0)])
            self._add("geq_1", nll[mine & (at > 0)], wrong[mine & (at > 0)])
            if int(mine.sum()) > 1:
                self._gain.append(float(nll[mine & (at == 0)].mean() - nll[mine & (at > 0)].mean()))

    def metrics(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for which, (nll, right, count) in self._sums.items():
            if count:
                found |= {f"nll_{which}": nll / count, f"accuracy_{which}": right / count}
        if self._gain:
            found["gain"] = sum(self._gain) / len(self._gain)
        if found:
            found["outputs"] = sum(count for _, _, count in self._sums.values())
        return found

    def reset(self) -> None:
        self._sums = {"first": (0.0, 0.0, 0.0), "geq_1": (0.0, 0.0, 0.0)}
        self._gain: list[float] = []

    def _add(self, which: str, nll: Tensor, wrong: Tensor) -> None:
        before = self._sums[which]
        more = (float(nll.sum()), float((wrong == 0).sum()), float(len(nll)))
        self._sums[which] = (before[0] + more[0], before[1] + more[1], before[2] + more[2])


def _sequences(counted: Tensor) -> Tensor:
    return torch.arange(counted.shape[0], device=counted.device)[:, None].expand(counted.shape)
