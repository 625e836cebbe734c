"""Preferences as a loss by token: the rewards are those that ``data/phf`` has put into the rows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from infosteer.core.config import is_finite, setting
from infosteer.core.contract import Context
from infosteer.core.marks import TokenRow
from infosteer.core.params import Handle, ParamTarget
from infosteer.core.surfaces import LossMethod, Tokens
from infosteer.errors import AttachError, ConfigError, DataError
from infosteer.methods.losses.phf.value import ValueHead

OBJECTIVES = ("unlikelihood", "rwr", "awr")
FLOOR = 1e-20  # of 1 - p, as in the authors' code
HIGHEST_WEIGHT = 1000.0
UNTRAINED = -0.5  # the value before any training


def weigh_by_reward(
    losses: Tensor,
    logits: Tensor,
    targets: Tensor,
    counted: Tensor,
    marks: Tensor,
    values: Tensor | None = None,
    objective: str = "unlikelihood",
    threshold: float | None = 0.0,
    alpha: float = 1.0,
    beta: float = 1.0,
) -> Tensor:
    """Losses by token from their segment's reward.

    Formulas: unlikelihood: l where R >= threshold, else ``-alpha ln(1 - p)``; without a threshold
    ``(1 - u) l - u alpha ln(1 - p)``, u = -R held to [0, 1]. rwr: ``min(exp(R / beta), 1000) l``.
    awr: ``alpha min(exp((R - V) / beta), 1000) l + (1 - alpha) (R - V)^2``, V constant in the weight.

    Args:
        losses: (N,) losses l so far.
        logits: (N, V); p is what their softmax gives the target.
        targets: (N,).
        counted: (N,) bool, rows that carry loss; the others keep theirs.
        marks: (N,) rewards R, high is good; NaN for tokens without one, which keep their loss.
        values: (N,) V; None for those of an untrained head.

    Returns:
        (N,), differentiable in losses, logits and values.
    """
    scored = counted & ~marks.isnan()
    reward = torch.where(scored, marks, 0.0).to(losses.dtype)
    if objective == "unlikelihood":
        p = (-F.cross_entropy(logits, targets, reduction="none")).exp()
        unlikely = -alpha * (1 - p).clamp(min=FLOOR).log()
        bad = (-reward).clamp(0, 1) if threshold is None else (reward < threshold).to(losses.dtype)
        new = (1 - bad) * losses + bad * unlikely
    elif objective == "rwr":
        new = (reward / beta).clamp(max=math.log(HIGHEST_WEIGHT)).exp() * losses
    else:
        value = torch.full_like(reward, UNTRAINED) if values is None else values.to(losses.dtype)
        weight = ((reward - value.detach()) / beta).clamp(max=math.log(HIGHEST_WEIGHT)).exp()
        new = alpha * weight * losses + (1 - alpha) * (reward - value).square()
    return torch.where(scored, new, losses)


@dataclasses.dataclass(kw_only=True)
class PreferenceLoss(LossMethod):
    """Likelihood for good segments, less of it or the contrary for bad ones; see :func:`weigh_by_reward`.

    Raises:
        ConfigError: a setting out of its range.
        DataError: rows without rewards.
        AttachError: batches without marks.

    Source: arXiv 2302.08582, section 2.
    """

    marks_tokens: ClassVar[bool] = True

    objective: str = setting("unlikelihood", "how rewards enter the loss", choices=OBJECTIVES)
    threshold: float | None = dataclasses.field(
        default=0.0,
        metadata={"help": "unlikelihood: least reward of what is learnt; null mixes by the reward itself"},
    )
    alpha: float = setting(1.0, "unlikelihood: weight of the unlikelihood; awr: share of the likelihood", low=0)
    beta: float = setting(1.0, "rwr, awr: how far rewards have to part before weights do", low=1e-3)
    value_rate: float = setting(1e-3, "awr: learning rate of the value head", low=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        number = isinstance(self.threshold, (int, float)) and not isinstance(self.threshold, bool)
        if self.threshold is not None and not (number and is_finite(self.threshold)):
            raise ConfigError("expected a number or null", where="losses/phf.threshold", got=self.threshold)
        if self.objective == "awr" and self.alpha > 1:
            raise ConfigError("a share is at most 1", where="losses/phf.alpha", got=self.alpha)

    @property
    def reads_hidden(self) -> bool:
        return self.objective == "awr"

    def apply(self, target: ParamTarget) -> Handle | None:
        return ValueHead(self.value_rate) if self.objective == "awr" else None

    def per_token(self, losses: Tensor, tokens: Tokens, context: Context) -> Tensor:
        if tokens.marks is None:
            raise AttachError(
                "the batch does not say what reward each token has",
                where="losses/phf",
                fix="use infosteer run, or batch encode_rows(rows, tokenizer, methods=[...]) with MarkCollator",
            )
        return weigh_by_reward(
            losses, tokens.logits, tokens.targets, tokens.counted, tokens.marks, _values(tokens),
            objective=self.objective, threshold=self.threshold, alpha=self.alpha, beta=self.beta,
        )  # fmt: skip

    def marks(self, rows: Sequence[TokenRow]) -> list[list[float]]:
        if not any("rewards" in row.row for row in rows):
            raise DataError(
                "No training row has rewards.",
                where="losses/phf",
                got=f"{len(rows)} rows",
                expected="rows with rewards: [[start, end, reward], ...]",
                fix="put {method: data/phf, objective: score, words: [...]} into the same arm",
            )
        return [_token_rewards(row) for row in rows]

    def measured(self, losses: Tensor, tokens: Tokens) -> dict[str, tuple[Tensor, Tensor]]:
        if tokens.marks is None:
            return {}
        scored = tokens.counted & ~tokens.marks.isnan()
        reward = torch.where(scored, tokens.marks, 0.0)
        found = {
            "reward": (reward.sum(), scored.sum()),
            "misaligned": ((reward < (self.threshold or 0.0)).sum(), scored.sum()),
        }
        if self.objective != "unlikelihood":
            values = _values(tokens)
            value = (
                torch.zeros_like(reward)
                if self.objective == "rwr"
                else (torch.full_like(reward, UNTRAINED) if values is None else values)
            )
            weight = ((reward - value) / self.beta).clamp(max=math.log(HIGHEST_WEIGHT)).exp() * scored
            found["weight"] = (weight.sum(), scored.sum())
            found["weight_square"] = (weight.square().sum(), scored.sum())
            if self.objective == "awr":
                found["value_error"] = (((reward - value).square() * scored).sum(), scored.sum())
        return found


def _values(tokens: Tokens) -> Tensor | None:
    head = tokens.handle
    return head.values(tokens.hidden) if isinstance(head, ValueHead) and tokens.hidden is not None else None


def _token_rewards(row: TokenRow) -> list[float]:
    """(T,) the reward of the segment that holds each token's last character; NaN outside all segments."""
    _, begin, stop = row.parts[-1]  # what is learnt comes last: the text, the completion, the last reply
    learnt: Any = row.row.get("text", row.row.get("completion", row.row.get("messages")))
    learnt = learnt if isinstance(learnt, str) else learnt[-1]["content"]
    stripped = max(0, learnt.find(row.text[begin:stop]))  # characters that a chat template took from its front
    rewards = row.row.get("rewards") or []
    found, number = [], 0
    for start, end in row.spans:
        last = end - 1 - begin + stripped
        while number < len(rewards) and last >= rewards[number][1]:
            number += 1
        inside = begin < end > start and number < len(rewards) and rewards[number][0] <= last
        found.append(float(rewards[number][2]) if inside else math.nan)
    return found
