"""Label smoothing as a method: what torch's cross entropy does with ``label_smoothing``, with a strength."""

from __future__ import annotations

import dataclasses

import torch

from infosteer.core.config import setting
from infosteer.core.contract import Context
from infosteer.core.surfaces import LossMethod, Tokens


def smooth_labels(
    losses: torch.Tensor, logits: torch.Tensor, counted: torch.Tensor, epsilon: float = 0.1
) -> torch.Tensor:
    """``l' = l + epsilon (u - l)``, ``u = -(1/V) sum_v ln p_v``, p = softmax(logits), for rows that carry loss.

    Args:
        losses: (N,) negative log-likelihoods l.
        logits: (N, V).
        counted: (N,) bool, rows that carry loss; the others stay as they are.
        epsilon: share of the target that is spread over the vocabulary.

    Returns:
        (N,), differentiable.
    """
    uniform = torch.logsumexp(logits, dim=-1) - logits.mean(dim=-1)
    return torch.where(counted, losses + epsilon * (uniform - losses), losses)


@dataclasses.dataclass(kw_only=True)
class LabelSmoothing(LossMethod):
    """Mixes the target of every token with the uniform distribution.

    Formula: ``l'_t = l_t + s * epsilon (u_t - l_t)`` for rows t that carry loss, u_t = -(1/V) sum_v ln p_tv.

    Symbols: l_t negative log-likelihood; p_t (V,) next-token distribution; s strength.

    Raises:
        ConfigError: a setting out of its range.

    Source: arXiv 1512.00567, section 7.
    """

    epsilon: float = setting(0.1, "share of the target that is spread over the vocabulary", low=0, high=1)

    @property
    def idle(self) -> bool:
        return self.epsilon == 0

    def per_token(self, losses: torch.Tensor, tokens: Tokens, context: Context) -> torch.Tensor:
        return smooth_labels(losses, tokens.logits, tokens.counted, epsilon=self.epsilon)
