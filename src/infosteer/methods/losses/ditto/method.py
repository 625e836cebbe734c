"""The repetition penalty of DITTO as a method; the rows it acts on are made by ``data/ditto``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from infosteer.core.config import setting
from infosteer.core.contract import Context
from infosteer.core.marks import TokenRow
from infosteer.core.surfaces import LossMethod, Tokens
from infosteer.errors import AttachError, DataError
from infosteer.methods.losses.ditto.links import UNLINKED, lags

FORMS = ("log", "clip", "mse")
FLOOR = 1e-20  # of the logarithm's argument, as in the authors' code
SQUARED = 3.0  # what their code multiplies the squared difference by


def penalise_repetition(
    losses: Tensor,
    logits: Tensor,
    targets: Tensor,
    counted: Tensor,
    marks: Tensor,
    earlier: Callable[[Tensor], Tensor],
    decay: float = 0.5,
    form: str = "log",
) -> Tensor:
    """``-ln(1 - |p_t - decay p_s|)`` for a token t that repeats token s, which is held constant.

    Args:
        losses: (N,) losses so far; kept for tokens of ordinary rows.
        logits: (N, V); p_t is what their softmax gives the target.
        targets: (N,).
        counted: (N,) bool, rows that carry loss; the others of repeated rows get none.
        marks: (N,) the lag t - s, 0 for ordinary rows, -1 for tokens of repeated rows that repeat nothing: no loss.
        earlier: lags (N,) -> ln p_s (N,) without gradient, NaN where there is no such token: no loss.
        decay: lambda, the ratio of probabilities that is aimed at.
        form: ``log``; ``clip``, of max(0, p_t - decay p_s), which leaves a faster decay alone; ``mse``, 3 times the
            square of the difference.

    Returns:
        (N,), differentiable.
    """
    previous = earlier(marks)
    repeated = (marks > 0) & counted & ~previous.isnan()
    p = (-F.cross_entropy(logits, targets, reduction="none")).exp()
    gap = p - decay * torch.where(repeated, previous.exp(), 0.0)
    if form == "mse":
        penalty = SQUARED * gap.square()
    else:
        gap = gap.clamp(min=0) if form == "clip" else gap.abs()
        penalty = -(1 - gap).clamp(min=FLOOR).log()
    return torch.where(marks == 0, losses, torch.where(repeated, penalty, 0.0))


@dataclasses.dataclass(kw_only=True)
class RepetitionPenalty(LossMethod):
    """Lets the probability of a repeated token decay from copy to copy, on rows that ``data/ditto`` has made.

    Formula: ``l'_t = -ln(1 - |p_t - lambda p_s|)`` for tokens t that repeat token s; the sum is divided by what the
    task loss is divided by. Other rows keep their loss.

    Symbols: p probability of the target; p_s constant; lambda ``decay``, 1 holds the probability where it is.

    Raises:
        ConfigError: a setting out of its range.
        DataError: no training row is a repetition.
        AttachError: batches without marks.

    Source: arXiv 2206.02369, equation 1.
    """

    marks_tokens: ClassVar[bool] = True
    looks_back: ClassVar[bool] = True

    decay: float = setting(0.5, "ratio of a token's probabilities from copy to copy that is aimed at", low=0, high=1)
    form: str = setting(
        "log", "log: of 1 minus the distance; clip: of the excess alone; mse: the squared distance", choices=FORMS
    )

    def per_token(self, losses: Tensor, tokens: Tokens, context: Context) -> Tensor:
        if tokens.marks is None or tokens.earlier is None:
            raise AttachError(
                "the batch does not say which tokens repeat which",
                where="losses/ditto",
                fix="use infosteer run, or batch encode_rows(rows, tokenizer, methods=[...]) with MarkCollator",
            )
        return penalise_repetition(
            losses, tokens.logits, tokens.targets, tokens.counted, tokens.marks, tokens.earlier,
            decay=self.decay, form=self.form,
        )  # fmt: skip

    def marks(self, rows: Sequence[TokenRow]) -> list[list[float]]:
        found = [lags(row) for row in rows]
        if not any(lag > 0 for row in found for lag in row):
            raise DataError(
                "No training row is a repetition.",
                where="losses/ditto",
                got=f"{len(rows)} rows",
                expected="rows that data/ditto added",
                fix="put {method: data/ditto} into the same arm",
            )
        return found

    def measured(self, losses: Tensor, tokens: Tokens) -> dict[str, tuple[Tensor, Tensor]]:
        if tokens.marks is None or tokens.earlier is None:
            return {}
        previous = tokens.earlier(tokens.marks)
        repeated = (tokens.marks > 0) & ~previous.isnan()
        p = (-F.cross_entropy(tokens.logits, tokens.targets, reduction="none")).exp()[repeated].sum()
        return {
            "ratio": (p, previous[repeated].exp().sum()),
            "probability": (p, repeated.sum()),
            "share": (repeated.sum(), (tokens.counted & (tokens.marks != UNLINKED)).sum()),
        }
