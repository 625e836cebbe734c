"""Loss over instructions as a method: the pure rule by token, and the kinds of tokens it needs."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from infosteer.core.config import setting
from infosteer.core.contract import Context
from infosteer.core.marks import TokenRow
from infosteer.core.surfaces import LossMethod, Tokens
from infosteer.errors import DataError
from infosteer.methods.losses.instruction_modelling.kinds import (
    COMPLETION,
    INSTRUCTION,
    TEMPLATE,
    advice,
    constant_ends,
    token_kinds,
)

logger = logging.getLogger(__name__)


def weigh_instructions(
    losses: Tensor,
    logits: Tensor,
    targets: Tensor,
    counted: Tensor,
    marks: Tensor | None = None,
    weight: float = 1.0,
) -> Tensor:
    """``l'_t = l_t`` for completion tokens, ``-w ln p_t`` for instruction tokens, 0 for those of the template.

    Args:
        losses: (N,) losses l so far.
        logits: (N, V); p_t is what their softmax gives the target.
        targets: (N,).
        counted: (N,) bool, rows that carry loss.
        marks: (N,) kind of each target: 0 template, 1 instruction, 2 completion; None takes the rows that carry loss
            for the completion and the others for the instruction.
        weight: w of instruction tokens.

    Returns:
        (N,), differentiable.
    """
    kinds = _kinds(counted, marks)
    instruction = weight * F.cross_entropy(logits, targets, reduction="none")
    return torch.where(kinds == COMPLETION, losses, torch.where(kinds == INSTRUCTION, instruction, 0.0))


@dataclasses.dataclass(kw_only=True)
class InstructionModelling(LossMethod):
    """Puts the tokens of the instruction into the loss, with a weight, and leaves the chat template out of it.

    Formula: ``L = (sum_{t in C} l_t + s w sum_{t in I} l_t) / n``; n is what the task loss is divided by.

    Symbols: l_t negative log-likelihood of token t; C completion tokens, I instruction tokens; w weight; s strength.

    Raises:
        ConfigError: a setting out of its range, or a tokenizer that cannot tell the template from the rest.
        DataError: rows without any instruction.

    Source: arXiv 2405.14394, section 3 (w = 1); arXiv 2401.13586 (other weights).
    """

    reads_prompts: ClassVar[bool] = True
    marks_tokens: ClassVar[bool] = True

    weight: float = setting(1.0, "weight of instruction tokens beside 1 for the completion's; 0 is plain SFT", low=0)
    mask_constant: bool = setting(
        False, "leave out what all prompts begin with and end with: a constant system prompt, a frame"
    )

    @property
    def idle(self) -> bool:
        return self.weight == 0

    def per_token(self, losses: Tensor, tokens: Tokens, context: Context) -> Tensor:
        return weigh_instructions(
            losses, tokens.logits, tokens.targets, tokens.counted, tokens.marks, weight=self.weight
        )

    def marks(self, rows: Sequence[TokenRow]) -> list[list[float]]:
        kinds = [token_kinds(row) for row in rows]
        if self.mask_constant:
            head, tail = constant_ends([row.ids[: row.completion] for row in rows])
            for row, found in zip(rows, kinds, strict=True):
                found[:head] = [TEMPLATE] * head
                found[row.completion - tail : row.completion] = [TEMPLATE] * tail
        # the first token is never predicted
        counts = {kind: sum(found[1:].count(kind) for found in kinds) for kind in (TEMPLATE, INSTRUCTION, COMPLETION)}
        if not counts[INSTRUCTION]:
            raise DataError(
                "No row has an instruction to put into the loss.",
                where="losses/instruction_modelling",
                got=f"{len(rows)} rows of plain text or of constant prompts",
                expected="rows with a prompt, or with messages",
            )
        logger.info(
            "tokens: %d of instructions, %d of completions, %d of the template",
            counts[INSTRUCTION], counts[COMPLETION], counts[TEMPLATE],
        )  # fmt: skip
        if why := advice(counts[INSTRUCTION], counts[COMPLETION], len(rows)):
            logger.warning("a loss on instructions helps with long ones or with few rows; here are %s", why)
        return kinds

    def measured(self, losses: Tensor, tokens: Tokens) -> dict[str, tuple[Tensor, Tensor]]:
        kinds = _kinds(tokens.counted, tokens.marks)
        found = F.cross_entropy(tokens.logits, tokens.targets, reduction="none")
        instruction, completion = kinds == INSTRUCTION, kinds == COMPLETION
        return {
            "instruction_loss": ((found * instruction).sum(), instruction.sum()),
            "completion_loss": ((found * completion).sum(), completion.sum()),
            "instruction_share": (instruction.sum(), (instruction | completion).sum()),
        }


def _kinds(counted: Tensor, marks: Tensor | None) -> Tensor:
    return torch.where(counted, COMPLETION, INSTRUCTION) if marks is None else marks
