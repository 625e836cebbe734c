"""Losses by token: what they add to a trainer's own loss, computed from the final hidden states of the same forward.

Trainers fuse the head with the loss and build no logits, and each reduces in its own way; so their loss is left alone
and only the difference is added. It costs the head once more, in chunks of rows that the backward recomputes.

Shape letters: N rows, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from infosteer.core.contract import Context
from infosteer.core.ledger import Call
from infosteer.core.surfaces import LossMethod, Tokens
from infosteer.errors import AttachError
from infosteer.models import head_logits

CHUNK_ROWS = 1024  # logits of so many rows are held at a time


def loss_change(model: nn.Module, call: Call, methods: Mapping[int, LossMethod]) -> Tensor:
    """``sum_t (f(l)_t - l_t)`` over the rows of a call, fp32 and differentiable; not yet divided by a token count.

    Symbols: l_t negative log-likelihood of the next token where row t carries loss, else 0; f the methods, by index in
    the session, in order, each ``l + strength * (per_token(l) - l)``.

    Raises:
        AttachError: a call without token ids, labels or hidden states to compute logits from.
    """
    if call.hidden is None or call.ids is None or call.rows is None or not call.from_labels:
        raise AttachError(
            "losses by token need the labels, the token ids and the final hidden states of the forward",
            where="the model call",
            got=", ".join(
                f"no {name}"
                for name, found in (("input_ids", call.ids), ("hidden states", call.hidden), ("labels", call.rows))
                if found is None
            ),
            fix="call the model with input_ids and labels",
        )
    hidden = call.hidden.reshape(-1, call.hidden.shape[-1])
    targets, known = next_tokens(call)
    counted = call.rows.to(hidden.device) & known
    chosen = known if any(method.reads_prompts for method in methods.values()) else counted
    places = chosen.nonzero().squeeze(-1)
    hidden, targets, counted = hidden[places], targets[places], counted[places]
    keys = call.row_keys(call.hidden)[places] if any(m.random for m in methods.values()) else None
    contexts = {
        index: Context(
            layer=len(call.fired), step=call.step, strength=call.strengths[index], keys=keys if m.random else None
        )
        for index, m in methods.items()
    }

    def change(start: int, hidden: Tensor) -> Tensor:
        rows = slice(start, start + CHUNK_ROWS)
        logits = head_logits(model, hidden)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        wanted = targets[rows]
        losses = F.cross_entropy(logits, wanted, reduction="none") * counted[rows]
        tokens = Tokens(logits=logits, targets=wanted, counted=counted[rows])
        found = losses
        for index, method in methods.items():
            context = contexts[index] if keys is None else _cut(contexts[index], rows)
            new = method.per_token(found, tokens, context)
            found = new if context.strength == 1 else found + context.strength * (new - found)
        return (found - losses).sum()

    total = hidden.new_zeros((), dtype=torch.float32)
    for start in range(0, len(places), CHUNK_ROWS):
        piece = hidden[start : start + CHUNK_ROWS]
        if len(places) <= CHUNK_ROWS:
            total = total + change(start, piece)
        else:
            total = total + checkpoint(change, start, piece, use_reentrant=False)
    call.sums["loss_change"] += total.detach()
    call.hidden = None
    return total


def next_tokens(call: Call) -> tuple[Tensor, Tensor]:
    """The token that follows each row, and whether there is one: (N,) int64, (N,) bool.

    Nothing follows the last row of a sequence; padding neither follows nor is followed.
    """
    ids: Any = call.ids
    following = torch.cat([ids[:, 1:], torch.zeros_like(ids[:, :1])], -1)
    known = torch.ones_like(ids, dtype=torch.bool)
    known[:, -1] = False
    if call.mask is not None:
        inside = call.mask != 0
        known = known & inside & torch.cat([inside[:, 1:], torch.zeros_like(inside[:, :1])], -1)
    if call.positions is not None:
        begins = call.positions == 0
        known = known & ~torch.cat([begins[:, 1:], torch.zeros_like(begins[:, :1])], -1)
    return torch.where(known, following, 0).reshape(-1), known.reshape(-1)


def _cut(context: Context, rows: slice) -> Context:
    keys = None if context.keys is None else context.keys[rows]
    return Context(layer=context.layer, step=context.step, strength=context.strength, keys=keys)
