"""Control of the regulariser: the entropy of the output instead of that of the key coefficients."""

from __future__ import annotations

import dataclasses

import torch

from infosteer.core.config import setting
from infosteer.core.contract import Context
from infosteer.core.surfaces import LossMethod, Tokens


def reward_entropy(
    losses: torch.Tensor, logits: torch.Tensor, counted: torch.Tensor, weight: float = 0.1
) -> torch.Tensor:
    """``l' = l - weight * H``, ``H = -sum_v p_v ln p_v``, p = softmax(logits), for rows that carry loss.

    Args:
        losses: (N,) negative log-likelihoods.
        logits: (N, V); a logit of -inf counts for nothing.
        counted: (N,) bool, rows that carry loss; the others stay as they are.
        weight: nats for nats.

    Returns:
        (N,), differentiable.
    """
    log_p = torch.log_softmax(logits, dim=-1)
    p = log_p.exp()
    entropy = -(p * torch.where(p > 0, log_p, 0.0)).sum(dim=-1)
    return torch.where(counted, losses - weight * entropy, losses)


@dataclasses.dataclass(kw_only=True)
class OutputEntropy(LossMethod):
    """Adds the entropy of the next-token distribution to the training loss, with a minus sign.

    Formula: ``l'_t = l_t - s * weight * H(softmax(z_t))`` for rows t that carry loss.

    Symbols: l_t negative log-likelihood; z_t (V,) logits; H in nats; s strength.

    Raises:
        ConfigError: a setting out of its range.

    Source: arXiv 1701.06548, section 3 (confidence penalty).
    """

    weight: float = setting(0.1, "weight of the entropy in the loss; negative weights lower the entropy")

    @property
    def idle(self) -> bool:
        return self.weight == 0

    def per_token(self, losses: torch.Tensor, tokens: Tokens, context: Context) -> torch.Tensor:
        return reward_entropy(losses, tokens.logits, tokens.counted, weight=self.weight)
