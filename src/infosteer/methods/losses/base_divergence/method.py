"""The divergence from the base model as a loss by token: over the whole vocabulary, or of the target alone."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from infosteer.core.config import setting
from infosteer.core.contract import Context
from infosteer.core.surfaces import LossMethod, Tokens

FORMS = ("full", "target", "absolute", "square")


def add_divergence(
    losses: Tensor,
    logits: Tensor,
    targets: Tensor,
    counted: Tensor,
    base: Tensor,
    weight: float = 1.0,
    form: str = "full",
) -> Tensor:
    """``l'_t = l_t + w d_t`` for rows that carry loss, d_t the divergence of p_t from the base model's b_t.

    Formulas: full: ``sum_v p_v (ln p_v - ln b_v)``. Of the target y alone, with u = ``ln p_y - ln b_y``: target: u;
    absolute: |u|; square: u^2 / 2.

    Args:
        losses: (N,) losses l so far.
        logits: (N, V); p is their softmax.
        targets: (N,) y.
        counted: (N,) bool, rows that carry loss; the others stay as they are.
        base: (N, V) logits of the base model, held constant; b is their softmax.
        weight: w.

    Returns:
        (N,), differentiable.
    """
    if form == "full":
        found = _divergence(logits, base)
    else:
        apart = F.cross_entropy(base.detach(), targets, reduction="none") - F.cross_entropy(
            logits, targets, reduction="none"
        )
        found = {"target": apart, "absolute": apart.abs(), "square": apart.square() / 2}[form]
    return torch.where(counted, losses + weight * found, losses)


@dataclasses.dataclass(kw_only=True)
class BaseDivergence(LossMethod):
    """Adds the divergence from the model that training began with to the loss of every token.

    Formula: ``l'_t = l_t + s w KL(p_t || b_t)``, or w times a function of the target's two likelihoods; see
    :func:`add_divergence`.

    Symbols: p_t (V,) next-token distribution; b_t (V,) the base model's; w weight; s strength.

    Raises:
        ConfigError: a setting out of its range.

    Source: the KL baseline of arXiv 2405.14394, table 3, and its code.
    """

    reads_base: ClassVar[bool] = True

    weight: float = setting(1.0, "weight of the divergence beside 1 for the likelihood; 0 is plain training", low=0)
    form: str = setting(
        "full",
        "full: KL over the vocabulary; target, absolute, square: of the target's two log-likelihoods",
        choices=FORMS,
    )

    @property
    def idle(self) -> bool:
        return self.weight == 0

    def per_token(self, losses: Tensor, tokens: Tokens, context: Context) -> Tensor:
        assert tokens.base is not None
        return add_divergence(
            losses, tokens.logits, tokens.targets, tokens.counted, tokens.base, weight=self.weight, form=self.form
        )

    def measured(self, losses: Tensor, tokens: Tokens) -> dict[str, tuple[Tensor, Tensor]]:
        if tokens.base is None:
            return {}
        found = _divergence(tokens.logits, tokens.base) * tokens.counted
        return {"divergence": (found.sum(), tokens.counted.sum())}


def _divergence(logits: Tensor, base: Tensor) -> Tensor:
    """KL(p || b) of each row, nats; tokens that p or b give no probability at all count as one in e^80."""
    log_p, log_b = (x.log_softmax(-1).clamp(min=-80) for x in (logits, base.detach()))
    return (log_p.exp() * (log_p - log_b)).sum(-1)
